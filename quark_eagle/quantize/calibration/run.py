"""CalibrationRun: a draft, a trace and an observer that fit each other, ready to be run to scales.

open → estimate → run; interrupted, the same run continues where its state was last written.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from quark_eagle import __version__
from quark_eagle.checkpoint.family import DraftFamily
from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.manifest import sha256_of_weights
from quark_eagle.checkpoint.reader import CONFIG_NAME, Checkpoint
from quark_eagle.documents.calibration import Calibration
from quark_eagle.errors import TraceMismatchError, UsageError
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.progress import SILENT, Progress
from quark_eagle.quantize.activation_scales import ActivationScales
from quark_eagle.quantize.calibration.chosen_prompts import ChosenPrompts, rows_of
from quark_eagle.quantize.calibration.observed_draft import ObservedDraft
from quark_eagle.quantize.calibration.observer import ObserverChoice
from quark_eagle.quantize.calibration.quark_observers import QuarkObservers, observe
from quark_eagle.quantize.calibration.report import Found, report
from quark_eagle.quantize.calibration.state import CalibrationState, Seen, StateFile
from quark_eagle.quantize.exclude import module_of
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.quark_backend import quark_version, require_quark
from quark_eagle.trace.device import resolve_device
from quark_eagle.trace.target_trace import TargetTrace, TracedPrompt

STATE_SECONDS = 5.0  # between two writes of the state
QUARK_BYTES = 712_000_000  # resident once Quark 0.13 is imported


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """How to calibrate.

    Attributes:
        choice: of the observer.
        max_tokens: of the trace that are used at most; None is all.
        kv_cache_scales: find scales for keys and values too.
        num_speculative_tokens: k; None is that of the draft served with the trace, else 3.
        device: where the draft runs.
    """

    choice: ObserverChoice = field(default_factory=ObserverChoice)
    max_tokens: int | None = None
    kv_cache_scales: bool = False
    num_speculative_tokens: int | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationEstimate:
    """What a calibration will take, told before it starts.

    Attributes:
        num_prompts: in all.
        num_done: of these by an earlier run.
        num_tokens: rows of step 1, in all.
        seconds: at the pace of one prompt, without Quark's import.
        memory_bytes: resident, about.
    """

    num_prompts: int
    num_done: int
    num_tokens: int
    seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What a calibration came to: the scales, and the document that says what they stand on."""

    scales: ActivationScales
    document: Calibration

    @classmethod
    def of(cls, scales: ActivationScales, document: Calibration) -> Calibrated:
        """The scales name their document by its hash, and the prompts by theirs: a draft is not judged on those."""
        known = {
            "document_sha256": hashlib.sha256(document.to_json().encode()).hexdigest(),
            "observer": document.observer.name,
            "prompts": [prompt.sha256 for prompt in document.prompts],
        }
        return cls(scales=replace(scales, calibration=known), document=document)


class CalibrationRun:
    """A calibration that can be run."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        plan: QuantPlan,
        trace: TargetTrace,
        prompts: ChosenPrompts,
        module: ObservedDraft,
        options: CalibrationOptions,
        state_path: Path,
    ) -> None:
        """Use `open`."""
        self.checkpoint, self.trace, self.prompts, self.module, self.options = (
            checkpoint,
            trace,
            prompts,
            module,
            options,
        )
        self.draft_weights_sha256 = sha256_of_weights(checkpoint.directory, checkpoint.shards)
        self.draft_config_sha256 = hashlib.sha256((checkpoint.directory / CONFIG_NAME).read_bytes()).hexdigest()
        self.state_file = StateFile(path=state_path, plan=self._plan())

    @classmethod
    def open(
        cls,
        checkpoint: Checkpoint,
        layout: Eagle3Layout,
        plan: QuantPlan,
        trace: TargetTrace,
        state_path: Path,
        options: CalibrationOptions | None = None,
        *,
        judged_on: Iterable[TargetTrace] = (),
    ) -> CalibrationRun:
        """Check what belongs together, and load the draft.

        Args:
            checkpoint: the BF16 draft.
            layout: its layout.
            plan: says which linears are quantized.
            trace: of the split "calibration".
            state_path: where the state is kept while it runs.
            options: how.
            judged_on: traces that the quantized draft will be judged on.

        Raises:
            TraceError: the trace holds prompts that are reserved for judging; all are listed.
            TraceMismatchError: it does not fit the draft.
            QuantizationError: Quark is missing.
            CheckpointError: a draft whose forward pass is not known.
            UsageError: no such device, or too few tokens.
        """
        options = options or CalibrationOptions()
        require_quark()
        prompts = ChosenPrompts.of(trace, options.max_tokens, judged_on)
        trace.require_fits(layout, checkpoint)
        if options.kv_cache_scales and layout.family is DraftFamily.DEEPSEEK_MLA:
            raise UsageError(
                "--kv-cache-scales: the draft has MLA attention, for which vLLM loads no scales, in Quark's format or "
                "in compressed-tensors' (only `Attention` is given a method for it, not `MLAAttention`): an FP8 "
                "cache of latents has scale 1. Leave it out."
            )
        needed = plan.quantized if plan.scheme.needs_calibration else ()
        linears = [module_of(layout.slots[name].canonical) for name in needed]
        if "fc" in linears and trace.states.projection is not None:
            raise TraceMismatchError(
                f"{trace.directory}: is projected, so what enters fc is not in it, but fc is to be quantized. "
                "Record a trace without --project, or leave out --quantize-fc."
            )
        device = resolve_device(options.device)
        window = trace.target.sliding_window
        draft = Eagle3Draft.load(checkpoint, layout, trace.rows.weights, device=device, window=window)
        k = options.num_speculative_tokens or trace.num_speculative_tokens
        return cls(checkpoint, plan, trace, prompts, ObservedDraft(draft, linears, k), options, state_path)

    def estimate(self) -> CalibrationEstimate:
        """What `run` will take; runs one prompt to learn the pace."""
        first = self.trace.prompt(self.prompts.places[0])
        started = time.perf_counter()
        self.module(first)
        pace = (time.perf_counter() - started) / rows_of(first.info)
        self.module.forget()
        num_done = self.state_file.read().num_done
        left = sum(rows_of(info) for info in self.prompts.infos[num_done:])
        longest = max(rows_of(info) for info in self.prompts.infos)
        return CalibrationEstimate(
            num_prompts=len(self.prompts.places),
            num_done=num_done,
            num_tokens=self.prompts.num_tokens,
            seconds=pace * left,
            # Weights as they are and, where they are widened, twice that again; a prompt's states and their like.
            memory_bytes=QUARK_BYTES + 3 * self.checkpoint.size_bytes + 8 * longest * self.trace.states.width,
        )

    def run(self, *, command_line: Sequence[str] = (), progress: Progress = SILENT) -> Calibrated:
        """Run every prompt past Quark's observers.

        The state is kept when this ends, so that what follows can fail and be tried again.

        Raises:
            QuantizationError: an activation is not finite, or a module saw nothing but zeros.
            StorageError: the state cannot be written.
        """
        convergence: list[Seen] = []

        def feed(observers: QuarkObservers) -> Iterator[TracedPrompt]:
            yield from self._fed(observers, convergence, progress)

        observe(self.module, self.options.choice, feed, cache_scales=self.options.kv_cache_scales, progress=progress)
        found = Found(run=self, convergence=tuple(convergence))
        found.require_sound()
        return Calibrated.of(found.activation_scales, report(found, command_line))

    def _fed(self, observers: QuarkObservers, convergence: list[Seen], progress: Progress) -> Iterator[TracedPrompt]:
        """The prompts that are still to be seen; between two of them the state is kept and scales are noted."""
        state = self.state_file.read()
        state.restore(self.module, observers)
        convergence += state.convergence
        written = time.monotonic()
        num_prompts = len(self.prompts.places)
        left = sum(rows_of(info) for info in self.prompts.infos[state.num_done :])
        with progress.task("calibrate", left, "token") as task:
            for number in range(state.num_done + 1, num_prompts + 1):
                traced = self.trace.prompt(self.prompts.places[number - 1])
                yield traced
                task.advance(rows_of(traced.info))
                if number in self.prompts.checkpoints:
                    convergence.append(Seen(num_tokens=self.module.tally.rows[0], scales=observers.scales()))
                if number == num_prompts or time.monotonic() - written >= STATE_SECONDS:
                    self.state_file.write(CalibrationState.of(self.module, observers, number, tuple(convergence)))
                    written = time.monotonic()

    def _plan(self) -> dict[str, object]:
        """Everything that decides the bits of the scales, as JSON values."""
        choice = self.options.choice
        return {
            "versions": {"quark_eagle": __version__, "quark": quark_version(), "torch": torch.__version__},
            "draft": [self.draft_weights_sha256, self.draft_config_sha256],
            "trace": self.trace.sha256,
            "prompts": list(self.prompts.places),
            "observer": [choice.observer.value, dict(choice.parameters)],
            "linears": list(self.module.linears),
            "kv_cache_scales": self.options.kv_cache_scales,
            "k": self.module.num_speculative_tokens,
            # The order in which products are summed decides an activation's last bit.
            "device": str(self.module.draft.device),
            "num_threads": torch.get_num_threads(),
        }
