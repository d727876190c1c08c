"""Measuring: one candidate staged in a scratch directory, verified, replayed, its weights held against BF16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.compare.candidates import Candidate, Scope
from quark_eagle.compare.output_error import Layers
from quark_eagle.compare.weight_error import weight_error
from quark_eagle.deploy.verify import verify
from quark_eagle.documents.base import write_text
from quark_eagle.documents.counts import PromptResult
from quark_eagle.documents.schemes import EngineRuns, ModuleErrors, SchemeResult
from quark_eagle.opening import open_comparison
from quark_eagle.parity.compare import Comparison
from quark_eagle.parity.measurement import Settings
from quark_eagle.parity.paired import Conversations, paired_difference
from quark_eagle.progress import SILENT, Progress
from quark_eagle.quantize.activation_scales import ActivationScales
from quark_eagle.quantize.calibration.run import Calibrated
from quark_eagle.quantize.exclude import module_of
from quark_eagle.quantize.shards import scale_name
from quark_eagle.quantize.stage import stage
from quark_eagle.trace.target_trace import TargetTrace

CONFIDENCE = 0.90  # of the interval, as the gate's


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One candidate: what was found, and its quantized layers, whose outputs are still to be measured.

    Attributes:
        prompts: its counts, prompt by prompt.
    """

    result: SchemeResult
    prompts: Sequence[PromptResult]
    layers: Layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What all candidates are measured with.

    Attributes:
        checkpoint: the BF16 draft.
        layout: of the same checkpoint.
        scope: what is quantized of it.
        selection: the trace to compare on.
        settings: of every replay.
        stored: file of the BF16 draft's counts on that trace.
        scratch: directory that candidates are written into.
        command_line: for the records.
        progress: told of each step.
    """

    checkpoint: Checkpoint
    layout: Eagle3Layout
    scope: Scope
    selection: TargetTrace
    settings: Settings
    stored: Path
    scratch: Path
    command_line: Sequence[str] = ()
    progress: Progress = SILENT

    def measure(self, candidate: Candidate, calibrated: Calibrated | None) -> Measured:
        """Make and measure one candidate, all but its outputs. It stays in ``scratch/NAME``, its counts beside it."""
        directory = self.scratch / candidate.name
        plan = self.scope.plan(self.layout, candidate.scheme)
        directory.mkdir()
        stage(
            self.checkpoint,
            self.layout,
            plan,
            directory,
            self.progress,
            activation_scales=_scales(candidate, calibrated),
            command_line=self.command_line,
        )
        verification = verify(
            directory, self.checkpoint.directory, self.selection.target.num_hidden_layers, progress=self.progress
        )
        comparison = self._open(directory)
        report = comparison.run(command_line=self.command_line, progress=self.progress)
        write_text(directory.with_name(f"{candidate.name}.parity.json"), report.to_json())
        computed = report.provenance.candidate_fp8
        assert computed is not None  # of a quantized draft
        modules = {module_of(self.layout.slots[name].canonical): name for name in plan.quantized}
        quantized = Checkpoint.open(directory)
        result = SchemeResult(
            name=candidate.name,
            scheme=candidate.scheme.value,
            observer=None if calibrated is None else calibrated.document.observer,
            arm=report.candidate,
            file_bytes=file_bytes(quantized),
            verification=verification.verdict,
            findings=[f"{it.severity}: {it.subject} {it.message}" for it in verification.findings],
            engines=[EngineRuns(**asdict(runs)) for runs in candidate.scheme.engines],
            computed=computed,
            difference=paired_difference(Conversations.of(report.prompts), CONFIDENCE),
            modules=[self._weight(quantized, module, name) for module, name in modules.items()],
        )
        layers = comparison.measurement.drafts[-1].linears
        return Measured(result=result, prompts=report.prompts, layers={module: layers[module] for module in modules})

    def _open(self, directory: Path) -> Comparison:
        return open_comparison(
            self.stored,
            directory,
            self.selection.directory,
            num_speculative_tokens=self.settings.num_speculative_tokens,
            walk_only=self.settings.walk_only,
            device=self.settings.device,
            kv_cache_dtype=self.settings.kv_cache_dtype,
        )

    def _weight(self, quantized: Checkpoint, module: str, name: str) -> ModuleErrors:
        exact, payload, scale = (
            self.checkpoint.tensor(name),
            quantized.tensor(name),
            quantized.tensor(scale_name(name)),
        )
        return ModuleErrors(
            module=module,
            weight=weight_error(exact, payload, scale),
            output_first_step=None,
            output_later_steps=None,
        )


def file_bytes(checkpoint: Checkpoint) -> int:
    """Of its safetensors files, headers included."""
    return sum((checkpoint.directory / shard).stat().st_size for shard in checkpoint.shards)


def _scales(candidate: Candidate, calibrated: Calibrated | None) -> ActivationScales | None:
    """What it writes of a calibration that other schemes share; a dynamic one has scales for its KV cache alone."""
    if calibrated is None:
        return None
    return calibrated.scales if candidate.scheme.needs_calibration else replace(calibrated.scales, inputs={})
