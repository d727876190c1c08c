"""LiveReport: the engine's own facts beside what its rules foretold, and one verdict over both."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.agreement import disagreements
from quark_eagle.deploy.findings import Finding, warnings
from quark_eagle.deploy.left_open import left_open
from quark_eagle.deploy.live_findings import in_rows, is_unused, live_findings
from quark_eagle.deploy.live_load import LiveLoad, live_load
from quark_eagle.deploy.quantization import quantization_of
from quark_eagle.deploy.verify import VerifyReport, verify
from quark_eagle.deploy.vllm_versions import rules_for
from quark_eagle.progress import SILENT, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveReport:
    """The verdict on one checkpoint that was loaded in a vLLM.

    Attributes:
        live: the engine's facts.
        foretold: the report by the rules of its version, or of the nearest that was read.
        target: whose geometry or weights were used; None if a target was made up.
        real_target: whether that target was loaded itself.
        findings: of the engine, the checkpoint's content and the rules, errors first.
        unused: parameters that the engine builds, but never fills or never uses.
        left_open: what this device could not be asked, and why; a pass leaves nothing open.
    """

    live: LiveLoad
    foretold: VerifyReport
    target: Path | None
    real_target: bool
    findings: tuple[Finding, ...]
    unused: frozenset[str]
    left_open: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What makes it broken."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def verdict(self) -> Literal["ok", "broken", "inconclusive"]:
        """Whether the engine runs it as it was meant; inconclusive if nothing is wrong, but not all could be asked."""
        return "broken" if self.errors else "inconclusive" if self.left_open else "ok"

    @property
    def ok(self) -> bool:
        """Whether the engine runs it as it was meant."""
        return self.verdict == "ok"

    def sources(self, parameter: str) -> tuple[str, ...]:
        """Tensors of the file in a parameter, by its rows."""
        return tuple(place.tensor for place in in_rows(self.live, parameter))

    def to_json(self) -> dict[str, Any]:
        """The report of the rules as one JSON object, with the engine's facts and the verdict over both."""
        document = self.foretold.to_json()
        live = {
            "vllm": self.live.vllm,
            "arch": self.live.arch,
            "target": str(self.target) if self.target else None,
            "real_target": self.real_target,
            "num_target_layers": self.live.num_target_layers,
            "ready": self.live.ready,
            "refused_while": self.live.refused_while or None,
            "failure": self.live.failure or None,
            "parameters": [
                asdict(parameter) | {"sources": self.sources(name), "unused": name in self.unused}
                for name, parameter in self.live.parameters.items()
            ],
        }
        return document | {
            "verdict": self.verdict,
            "left_open": list(self.left_open),
            "num_errors": len(self.errors),
            "num_warnings": len(self.findings) - len(self.errors),
            "findings": [asdict(finding) for finding in self.findings],
            "live": live,
        }


def verify_live(
    directory: Path | str,
    source: Path | str | None = None,
    target: Path | str | None = None,
    *,
    real_target: bool = False,
    python: Path | str = sys.executable,
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> LiveReport:
    """Load a draft in a vLLM and say what became of every parameter.

    Args:
        directory: the checkpoint.
        source: the BF16 draft that it was made from; see `quark_eagle.deploy.verify.verify`.
        target: its target, of which only the geometry is read; None makes one up.
        real_target: load that target itself.
        python: an interpreter that has vLLM.
        trust_remote_code: let vLLM run the real target's own Python code.
        progress: told about the load and about every byte that is read.

    Raises:
        VerificationError: vLLM could not be asked, or the rules do not cover the draft's format.
        CheckpointError: checkpoint or source cannot be read.
    """
    checkpoint = Checkpoint.open(directory)
    quantization_of(checkpoint, rules_for().rules)  # what no rule covers is told before an engine is started
    live = live_load(
        directory,
        target,
        real_target=real_target,
        python=python,
        trust_remote_code=trust_remote_code,
        progress=progress,
    )
    versioned = rules_for(live.vllm)
    foretold = verify(directory, source, live.num_target_layers, live.vllm, progress)
    told = list(foretold.findings)
    if versioned.note:
        told = [_as_guess(finding, versioned.note) for finding in told]
    unasked = left_open(live, foretold, versioned.rules)
    told += live_findings(live, checkpoint, versioned.rules, real_target=real_target and not unasked)
    differing = disagreements(foretold, live, versioned.rules)
    told += warnings(versioned.rules.name, [f"{each}. The engine is right; please report it." for each in differing])
    return LiveReport(
        live=live,
        foretold=foretold,
        target=Path(target) if target is not None else None,
        real_target=real_target,
        findings=tuple(sorted(dict.fromkeys(told), key=lambda finding: finding.severity != "error")),
        unused=frozenset(name for name in live.parameters if is_unused(name, versioned.rules)),
        left_open=unasked,
    )


def _as_guess(finding: Finding, note: str) -> Finding:
    """What rules of another version say is no more than a warning where the engine itself was asked."""
    if finding.basis != "rules" or finding.severity == "warning":
        return finding
    return replace(finding, severity="warning", message=f"{finding.message} (A guess: {note}.)")
