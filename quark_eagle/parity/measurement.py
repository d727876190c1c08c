"""Measurement: drafts and a trace that fit each other, loaded, and replayed prompt by prompt.

One draft or two: all of them are replayed on a prompt before the next one is read, so memory holds one prompt's states
(after a walk-only measurement: one group's) whatever the length of the trace. What two drafts have in common is held
once.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from typing import Any, Literal

import torch

from quark_eagle import __version__
from quark_eagle.documents.counts import PromptAcceptance
from quark_eagle.documents.parity import DraftSampleMethod, Provenance, StoredBaseline
from quark_eagle.errors import CheckpointError
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.model.kv_cache import KvCacheDtype, store_in
from quark_eagle.parity.acceptance import every_start_histogram, walk, walk_histogram
from quark_eagle.parity.arithmetic import fp8_arithmetic
from quark_eagle.parity.replay import PromptReplay, replay, replay_walk
from quark_eagle.parity.sampled import ProbabilisticDraft
from quark_eagle.parity.side import Side, require_fits
from quark_eagle.progress import SILENT, Progress
from quark_eagle.trace.device import arch_of, resolve_device
from quark_eagle.trace.target_trace import TargetTrace, TracedPrompt

CURVE_LENGTH = 8  # τ is printed for k = 1 … 8, all from one replay
WALK_GROUP_TOKENS = 16384  # prompts replayed together by a walk-only measurement

DtypeName = Literal["auto", "bfloat16", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How drafts are replayed.

    Attributes:
        num_speculative_tokens: k of the histograms.
        dtype: of activations; auto is bfloat16, as engines run, unless the trace is anchored in float32.
        walk_only: replay only the starts that a server visits: no every-start counts, no τ curve.
        draft_sample_method: whether a draft proposes its argmax or a draw from its distribution.
        device: cpu, cuda (ROCm's too) or cuda:N, where FP8 products are the GPU's own; auto is a GPU if there is one.
        kv_cache_dtype: of the candidate's KV cache; the baseline's is the model's.
    """

    num_speculative_tokens: int = 3
    dtype: DtypeName = "auto"
    walk_only: bool = False
    draft_sample_method: DraftSampleMethod = "greedy"
    device: str = "cpu"
    kv_cache_dtype: KvCacheDtype = "auto"

    def on(self, trace: TargetTrace) -> Settings:
        """With nothing left to be chosen: auto is bfloat16, or what the trace's anchor was replayed in.

        Raises:
            UsageError: the device is not here.
            TraceError: the trace's anchor is another trace's.
        """
        is_exact = trace.anchor is not None and trace.anchor.replay_dtype == "float32"
        auto: DtypeName = "float32" if is_exact else "bfloat16"
        dtype = auto if self.dtype == "auto" else self.dtype
        return replace(self, dtype=dtype, device=resolve_device(self.device))

    @property
    def activations(self) -> torch.dtype:
        """The dtype of activations."""
        return torch.float32 if self.dtype == "float32" else torch.bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Drafts and a trace that fit each other, ready to be replayed."""

    sides: tuple[Side, ...]
    drafts: tuple[Eagle3Draft, ...]
    trace: TargetTrace
    settings: Settings
    method: ProbabilisticDraft | None

    @classmethod
    def open(cls, sides: Sequence[tuple[str, Side]], trace: TargetTrace, settings: Settings) -> Measurement:
        """Check and load.

        Args:
            sides: the drafts, each with the part it plays: "baseline" or "candidate".
            trace: to replay them over.
            settings: how.

        Raises:
            CheckpointError: a draft cannot be replayed, or the baseline is quantized.
            TraceMismatchError: the trace does not fit a draft.
            UsageError: probabilistic proposals on a greedy path, or a device that is not here.
        """
        settings = settings.on(trace)
        for part, side in sides:
            if part == "baseline" and side.checkpoint.is_quantized:
                raise CheckpointError(
                    f"{side.checkpoint.directory}: is quantized, but the baseline is the BF16 draft that the candidate "
                    "was made from. What is lost could not be seen. Give the BF16 draft first and the FP8 draft second."
                )
        is_greedy = settings.draft_sample_method == "greedy"
        method = None if is_greedy else ProbabilisticDraft.along(trace.sampling)
        require_fits(trace, sides)
        drafts: list[Eagle3Draft] = []
        for part, side in sides:
            like = drafts[0] if drafts else None
            drafts.append(
                Eagle3Draft.load(
                    side.checkpoint,
                    side.layout,
                    trace.rows.weights,
                    settings.activations,
                    settings.device,
                    like=like,
                    miscast=side.miscast,
                    window=trace.target.sliding_window,
                )
            )
            if part == "candidate":
                store_in(drafts[-1], settings.kv_cache_dtype, rounds_scales=side.is_in_quarks_format)
        return cls(
            sides=tuple(side for _, side in sides), drafts=tuple(drafts), trace=trace, settings=settings, method=method
        )

    def replays(self, progress: Progress = SILENT) -> Iterator[tuple[TracedPrompt, tuple[PromptReplay, ...]]]:
        """Every prompt of the trace, with what each draft does on it."""
        what = "replay both drafts" if len(self.drafts) == 2 else "replay the draft"
        with progress.task(what, len(self.trace), "prompt") as task:
            for group in self._groups():
                yield from zip(group, zip(*self.replay_group(group), strict=True), strict=True)
                task.advance(len(group))

    def acceptance(self, replayed: PromptReplay) -> PromptAcceptance:
        """One draft's counts on one prompt."""
        k, matched = self.settings.num_speculative_tokens, replayed.matched.tolist()
        if self.settings.walk_only:
            return PromptAcceptance(walk=walk_histogram(matched, k), every_start=None, walk_num_drafts=None)
        return PromptAcceptance(
            walk=walk_histogram(matched, k),
            every_start=every_start_histogram(matched, k),
            walk_num_drafts=[len(walk(matched, smaller)) for smaller in range(1, max(k, CURVE_LENGTH) + 1)],
        )

    def _groups(self) -> Iterator[list[TracedPrompt]]:
        """One prompt at a time; for the walk as many as share the linear layers without filling memory."""
        group: list[TracedPrompt] = []
        size = 0
        for traced in self.trace:
            if group and size + traced.info.num_tokens > (WALK_GROUP_TOKENS if self.settings.walk_only else 0):
                yield group
                group, size = [], 0
            group.append(traced)
            size += traced.info.num_tokens
        if group:
            yield group

    def replay_group(self, group: list[TracedPrompt]) -> list[list[PromptReplay]]:
        """For each draft, the replays of a group of prompts."""
        k = self.settings.num_speculative_tokens
        if len(self.drafts) == 2:
            group = [combined_once(traced, *self.drafts) for traced in group]
        if self.settings.walk_only:
            return [replay_walk(draft, group, k, self.method) for draft in self.drafts]
        longest = max(k, CURVE_LENGTH)
        return [[replay(draft, traced, longest, self.method) for traced in group] for draft in self.drafts]


def provenance(
    trace: TargetTrace,
    settings: Settings,
    command_line: Sequence[str] = (),
    *,
    seconds: float = 0.0,
    stored_baseline: StoredBaseline | None = None,
    candidate: Eagle3Draft | None = None,
) -> Provenance:
    """What is measured with what, on this machine."""
    settings = settings.on(trace)
    return Provenance(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command_line=list(command_line),
        versions={
            "quark_eagle": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "safetensors": metadata.version("safetensors"),
        },
        arch=arch_of(settings.device),
        num_threads=torch.get_num_threads(),
        engine=f"quark-eagle replay {__version__}, torch {torch.__version__}",
        dtype=str(settings.activations).removeprefix("torch."),
        walk_only=settings.walk_only,
        trace=str(trace.directory),
        trace_sha256=trace.sha256,
        prompts_sha256=trace.document.prompts_sha256,
        target=_plain(asdict(trace.target)),
        sampling=_plain(asdict(trace.sampling)),
        recorded_with=_plain(dict(trace.provenance)),
        seconds=round(seconds, 3),
        draft_sample_method=settings.draft_sample_method,
        stored_baseline=stored_baseline,
        anchor=trace.anchor,
        candidate_fp8=None if candidate is None else fp8_arithmetic(candidate, settings.kv_cache_dtype),
    )


@torch.inference_mode()
def combined_once(traced: TracedPrompt, first: Eagle3Draft, second: Eagle3Draft) -> TracedPrompt:
    """The prompt with its aux states combined by ``fc``, if that and the norms before it are the same tensors."""
    names = [name for name in first.weights | second.weights if name.startswith(("fc.", "fc_norm.", "input_norm."))]
    shared = all(first.weights.get(name) is second.weights.get(name) for name in names)
    if traced.aux_hidden_states is None or not shared:
        return traced
    return replace(traced, aux_hidden_states=None, projected=first.combine(traced.aux_hidden_states))


def _plain(value: object) -> dict[str, Any]:
    """A value of the trace as it stands in JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain
