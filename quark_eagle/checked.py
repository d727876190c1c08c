"""Check and Checked: what a quantized draft has to reach to be published, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quark_eagle.deploy.verify import VerifyReport
    from quark_eagle.documents.parity import ParityReport
    from quark_eagle.documents.verdict import Verdict
    from quark_eagle.parity.verdict import Rules
    from quark_eagle.quantize.record import QuantizeResult
    from quark_eagle.trace.record_options import RecordOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a quantized draft is measured on, and what it has to reach.

    Attributes:
        target: record this target over the packaged parity prompts first, into ``OUT.trace``: kept, and resumed.
        trace: measure on this trace; this or ``target``.
        options: how to record.
        num_speculative_tokens: k.
        rules: of the verdict; None: its defaults.
        publish_anyway: publish in spite of a failed or inconclusive verdict, though never what an engine misreads.
    """

    target: Path | str | None = None
    trace: Path | None = None
    options: RecordOptions | None = None
    num_speculative_tokens: int = 3
    rules: Rules | None = None
    publish_anyway: bool = False

    def allows(self, verification: VerifyReport, verdict: Verdict) -> bool:
        """Whether the draft may be published."""
        if not verification.ok:
            return False
        return verdict.outcome == "pass" or (self.publish_anyway and verdict.outcome in ("fail", "inconclusive"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A draft that was quantized, verified and measured.

    Attributes:
        result: what was quantized and how.
        verification: what an engine will do with it.
        report: what it accepts, beside its BF16 original.
        verdict: on that.
        report_path: where the report lies.
        verdict_path: where the verdict lies.
        trace: directory of the trace it was measured on.
        published: whether OUT is there.
    """

    result: QuantizeResult
    verification: VerifyReport
    report: ParityReport
    verdict: Verdict
    report_path: Path
    verdict_path: Path
    trace: Path
    published: bool

    @property
    def exit_code(self) -> int:
        """The verdict's own: 0 pass, 3 fail or misread, 4 inconclusive, 5 nothing to judge."""
        return self.verdict.exit_code

    def sentences(self) -> list[str]:
        """What was found and what became of the draft, a line each."""
        lines = [f"ERROR {finding.subject}: {finding.message}" for finding in self.verification.errors]
        difference = self.verdict.difference
        if difference is not None:
            lines.append(
                f"Acceptance length τ over {difference.num_conversations} prompts: "
                f"{difference.baseline_mean_acceptance_length:.3f} before "
                f"({difference.baseline_num_accepted_tokens} accepted in {difference.baseline_num_drafts} drafts), "
                f"{difference.candidate_mean_acceptance_length:.3f} after "
                f"({difference.candidate_num_accepted_tokens} in {difference.candidate_num_drafts})."
            )
        lines.append(f"{self.verdict.outcome.upper()}: {self.verdict.reason}")
        lines += [f"  {place}. {cause}." for place, cause in enumerate(self.verdict.causes, 1)]
        if self.verdict.worth is not None:
            lines.append(self.verdict.worth.sentence)
        done = "Published" if self.published else "Not published"
        lines.append(f"{done}. Counts of every prompt: {self.report_path}; verdict: {self.verdict_path}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """As one JSON object: the quantization's own, and beside it what was verified and measured."""
        return {
            **self.result.to_json(),
            "published": self.published,
            "verification": self.verification.to_json(),
            "verdict": self.verdict.model_dump(mode="json"),
            "parity": {
                "report": str(self.report_path),
                "trace": str(self.trace),
                "summary": self.report.summary.model_dump(mode="json"),
            },
        }
