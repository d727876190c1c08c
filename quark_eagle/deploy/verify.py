"""VerifyReport: what an engine will do with every module of a draft, and everything about it that is wrong.

It shares no code with what writes a checkpoint: names, shapes, dtypes and excludes are worked out anew, from the
engine's side, so that a mistake in the one is not repeated in the other.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from quark_eagle.checkpoint.reader import Checkpoint, TensorInfo
from quark_eagle.deploy.against_source import compare_configs, compare_tensors
from quark_eagle.deploy.answers import Quantization
from quark_eagle.deploy.engine_config import EngineConfig
from quark_eagle.deploy.findings import FP8, HIGH_PRECISION, Finding, Problem, RuntimeModule, errors, warnings
from quark_eagle.deploy.loading import Loading, load
from quark_eagle.deploy.quantization import quantization_of
from quark_eagle.deploy.recorded_scales import check_recorded_scales
from quark_eagle.deploy.shared_scales import check_shared_scales
from quark_eagle.deploy.values import check_values, check_vocabulary_map
from quark_eagle.deploy.vllm_versions import rules_for
from quark_eagle.errors import UsageError
from quark_eagle.progress import SILENT, Progress

SCHEMA_VERSION = 1
_KERNEL_MULTIPLE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The verdict on one checkpoint for one engine.

    Attributes:
        directory: of the checkpoint.
        engine: whose rules were applied, as ``vllm-0.32``.
        engine_version: that was asked for or is installed; None if neither, so that the newest rules were taken.
        source: the BF16 draft that it was compared with; None if it was not.
        num_target_layers: that the names were worked out for; None if any target was meant.
        architecture: the model class that the engine builds.
        family: the module table it was compared with; empty if the engine has none.
        modules: what becomes of each, in the order in which the engine builds them.
        findings: errors first; those about a module are its `errors` too.
    """

    directory: Path
    engine: str
    engine_version: str | None
    source: Path | None
    num_target_layers: int | None
    architecture: str
    family: str
    modules: tuple[RuntimeModule, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What makes it broken."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What the reader should know."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    @property
    def verdict(self) -> Literal["ok", "broken"]:
        """In one word."""
        return "ok" if self.ok else "broken"

    @property
    def ok(self) -> bool:
        """Whether the engine will run it as it was meant, as far as this reader can tell."""
        return not self.errors

    @property
    def num_quantized(self) -> int:
        """How many runtime modules are built in FP8."""
        return sum(module.dtype == FP8 for module in self.modules)

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict,
            "directory": str(self.directory),
            "engine": self.engine,
            "engine_version": self.engine_version,
            "source": str(self.source) if self.source else None,
            "num_target_layers": self.num_target_layers,
            "architecture": self.architecture,
            "family": self.family,
            "num_errors": len(self.errors),
            "num_warnings": len(self.warnings),
            "modules": [module.to_json() for module in self.modules],
            "findings": [asdict(finding) for finding in self.findings],
        }


def verify(
    directory: Path | str,
    source: Path | str | None = None,
    num_target_layers: int | None = None,
    engine_version: str | None = None,
    progress: Progress = SILENT,
) -> VerifyReport:
    """Say what an engine will do with a draft, quantized or not.

    Args:
        directory: the checkpoint.
        source: the BF16 draft that it was made from: every kept byte is compared, every FP8 weight held to its bound.
        num_target_layers: of the target, which is part of the names that ``exclude`` is compared with. Without it every
            number up to 256 is tried.
        engine_version: of the vLLM whose rules are applied. None takes the installed one's, and the newest that were
            read where none is installed. One whose sources were not read is a warning; the nearest rules are applied.
        progress: told about every byte that is read.

    Raises:
        UsageError: `engine_version` is no version, or the source is quantized itself.
        VerificationError: it is quantized in a way that the rules do not cover, so nothing is known.
        CheckpointError: checkpoint or source cannot be read.
    """
    versioned = rules_for(engine_version)
    rules = versioned.rules
    if num_target_layers is not None and num_target_layers < 1:
        raise UsageError(f"num_target_layers is {num_target_layers}, but a target has at least one layer.")
    checkpoint = Checkpoint.open(directory)
    original = Checkpoint.open(source) if source is not None else None
    if original is not None and original.is_quantized:
        raise UsageError(f"{source}: is quantized itself, but the BF16 draft before quantization was needed. Name it.")
    config = EngineConfig.of(checkpoint.config, rules)
    findings = warnings(f"vLLM {versioned.version}", [versioned.note] if versioned.note else [])
    findings += errors("config.json", (*config.problems, *config.unread))
    quantization = quantization_of(checkpoint, rules)
    findings += _about_quantization(checkpoint, quantization)
    loading = Loading(modules=(), findings=(), scales={})
    if not config.problems:
        loading = load(checkpoint, config, quantization, rules, num_target_layers)
        findings += loading.findings
        findings += _about_modules(loading, checkpoint, config.stored_dtype)
        findings += check_vocabulary_map(checkpoint, config.dimensions["vocabulary"])
        findings += _about_t2d(checkpoint, config.dimensions["vocabulary"])
    findings += check_shared_scales(checkpoint, loading.modules)
    findings += check_recorded_scales(checkpoint, loading.modules)
    findings += check_values(checkpoint, progress)
    if original is not None:
        findings += compare_configs(checkpoint.config, original.config)
        paired = loading if loading.scales else _by_name(checkpoint)
        findings += compare_tensors(
            checkpoint,
            original,
            paired.scales,
            progress,
            activations=paired.activation_scales,
            fused=[_weights(module) for module in loading.modules],
        )
    modules = tuple(_with_findings(module, findings) for module in loading.modules)
    return VerifyReport(
        directory=checkpoint.directory,
        engine=rules.name,
        engine_version=versioned.version,
        source=original.directory if original is not None else None,
        num_target_layers=num_target_layers,
        architecture=config.architecture,
        family=config.family_name,
        modules=modules,
        findings=tuple(sorted(dict.fromkeys(findings), key=lambda finding: finding.severity != "error")),
    )


def _by_name(checkpoint: Checkpoint) -> Loading:
    """What the names say of scales: for the source alone, where an engine takes none of them and has said why."""
    tensors = checkpoint.tensors
    fp8 = (name for name, info in tensors.items() if info.dtype == FP8 and f"{name}_scale" in tensors)
    return Loading(
        modules=(),
        findings=(),
        scales={name: f"{name}_scale" for name in fp8},
        activation_scales=frozenset(n for n in tensors if n.endswith((".input_scale", ".k_scale", ".v_scale"))),
    )


def _about_quantization(checkpoint: Checkpoint, quantization: Quantization | None) -> list[Finding]:
    """What is wrong with ``quantization_config`` before any module asks, and what should be known of it."""
    if quantization is None:
        unquantized = "quantization_config has no quant_method, so vLLM takes the draft for unquantized. Write it."
        return errors("config.json", [unquantized] if checkpoint.quantization_config is not None else [])
    stops = [Problem(message=problem, stops=True) for problem in quantization.problems]
    return errors("config.json", stops) + warnings("config.json", quantization.notes)


def _about_modules(loading: Loading, checkpoint: Checkpoint, stored_dtype: str) -> list[Finding]:
    """The modules' own errors, and warnings about what they are filled with."""
    found = [finding for module in loading.modules for finding in errors(module.name, module.problems)]
    for module in loading.modules:
        if module.dtype == FP8 and any(size % _KERNEL_MULTIPLE for size in module.shape):
            need = f"the FP8 kernels of GPUs need multiples of {_KERNEL_MULTIPLE}"
            found += warnings(module.name, [f"is {list(module.shape)}, and {need}. Keep it in BF16."])
        for name in module.sources:
            found += _about_dtype(checkpoint.tensors[name], stored_dtype)
    return found


def _about_dtype(info: TensorInfo, stored_dtype: str) -> list[Finding]:
    """Casts that lose something or are at least unexpected, but break nothing."""
    if info.dtype not in HIGH_PRECISION:
        return []
    if info.name.endswith("_scale"):
        rounded = info.dtype != "F32"
        return warnings(info.name, [f"is {info.dtype}, so the scale is rounded. Store F32."] if rounded else [])
    if info.dtype != stored_dtype:
        said = f"is {info.dtype}, but config.json says that weights are {stored_dtype}"
        return warnings(info.name, [f"{said}: vLLM casts it to the target's dtype."])
    return []


def _about_t2d(checkpoint: Checkpoint, vocabulary: int) -> list[Finding]:
    """The engine skips t2d; one that does not fit says that the config is another draft's."""
    info = checkpoint.tensors.get("t2d")
    if info is None or info.shape == (vocabulary,):
        return []
    return errors(
        "t2d", [f"has shape {list(info.shape)}, but config.json says vocab_size {vocabulary}. Repair either."]
    )


def _weights(module: RuntimeModule) -> list[str]:
    """Names on disk of what fills a module's weight."""
    return [name for name in module.sources if name.endswith(".weight")]


def _with_findings(module: RuntimeModule, findings: list[Finding]) -> RuntimeModule:
    """The module with the errors that were found about its tensors as well."""
    about = [
        Problem(message=f"{finding.subject} {finding.message}", stops=finding.stops)
        for finding in findings
        if finding.severity == "error" and finding.subject in module.sources and finding.subject != module.name
    ]
    return replace(module, problems=(*module.problems, *about)) if about else module
