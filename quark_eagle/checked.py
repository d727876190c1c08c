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
    from quark_eagle.serve_options import ServeOptions
    from quark_eagle.trace.record_options import RecordOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a quantized draft is measured on, and what it has to reach.

    Attributes:
        target: record this target over the packaged parity prompts first, into ``OUT.trace``: kept, and resumed.
        trace: measure on this trace; this or ``target``.
        options: how to record.
        limit: prompts to record at most.
        num_speculative_tokens: k; None is that of the draft served with the trace, else 3 replayed and the recipe's
            served.
        device: where the drafts are replayed.
        serve: serve both drafts as well, in this way, if replay lets the draft be published; None: replay alone.
        rules: of the verdicts; None: their defaults.
        publish_anyway: publish in spite of a failed or inconclusive verdict, though never what an engine misreads.
    """

    target: Path | str | None = None
    trace: Path | None = None
    options: RecordOptions | None = None
    limit: int | None = None
    num_speculative_tokens: int | None = None
    device: str = "cpu"
    serve: ServeOptions | None = None
    rules: Rules | None = None
    publish_anyway: bool = False

    def allows(self, verification: VerifyReport, replayed: Verdict, served: Verdict | None = None) -> bool:
        """Whether the draft may be published."""
        if not verification.ok:
            return False
        if self.publish_anyway:
            return all(it.outcome != "unusable" for it in (replayed, served) if it is not None)
        return replayed.outcome == "pass" and (served is None or bears_out(served))


def bears_out(served: Verdict) -> bool:
    """Whether a served run leaves standing that replay passed.

    Serving is noisy where replay is not, so it may leave open what replay decided: where enough conversations were
    served, and the change that was found is itself inside the margin.
    """
    if served.outcome == "inconclusive":
        found = served.difference
        return served.rule in ("interval", "methods disagree") and found is not None and found.estimate > -served.margin
    return served.outcome == "pass"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A measurement, where it lies, and the verdict on it."""

    report: ParityReport
    report_path: Path
    verdict: Verdict

    def sentences(self) -> list[str]:
        """What was found, a line each."""
        lines = []
        difference = self.verdict.difference
        if difference is not None:
            how = "served" if self.report.served is not None else "replayed"
            lines.append(
                f"Acceptance length τ over {difference.num_conversations} prompts, {how}: "
                f"{difference.baseline_mean_acceptance_length:.3f} before "
                f"({difference.baseline_num_accepted_tokens} accepted in {difference.baseline_num_drafts} drafts), "
                f"{difference.candidate_mean_acceptance_length:.3f} after "
                f"({difference.candidate_num_accepted_tokens} in {difference.candidate_num_drafts})."
            )
        lines.append(f"{self.verdict.outcome.upper()}: {self.verdict.reason}")
        lines += [f"  {place}. {cause}." for place, cause in enumerate(self.verdict.causes, 1)]
        return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A draft that was quantized, verified and measured.

    Attributes:
        result: what was quantized and how.
        verification: what an engine will do with it.
        replayed: what it accepts over the trace, beside its BF16 original.
        served: the same in a real engine; None where it was not asked for, or replay had decided against the draft.
        trace: directory of the trace it was measured on.
        verdict_path: where the verdict lies that decided.
        published: whether OUT is there.
    """

    result: QuantizeResult
    verification: VerifyReport
    replayed: Judged
    served: Judged | None
    trace: Path
    verdict_path: Path
    published: bool

    @property
    def report(self) -> ParityReport:
        """Of replay."""
        return self.replayed.report

    @property
    def verdict(self) -> Verdict:
        """What decided: replay's, unless that passed and serving does not bear it out."""
        passed = self.replayed.verdict.outcome == "pass"
        if self.served is not None and passed and not bears_out(self.served.verdict):
            return self.served.verdict
        return self.replayed.verdict

    @property
    def exit_code(self) -> int:
        """The verdict's own: 0 pass, 3 fail or misread, 4 inconclusive, 5 nothing to judge."""
        return self.verdict.exit_code

    @property
    def judged(self) -> list[Judged]:
        """All measurements."""
        return [self.replayed] if self.served is None else [self.replayed, self.served]

    def sentences(self) -> list[str]:
        """What was found and what became of the draft, a line each."""
        lines = [f"ERROR {finding.subject}: {finding.message}" for finding in self.verification.errors]
        lines += [sentence for it in self.judged for sentence in it.sentences()]
        worth = self.replayed.verdict.worth
        if worth is not None:
            lines.append(worth.sentence)
        done = "Published" if self.published else "Not published"
        counts = ", ".join(str(it.report_path) for it in self.judged)
        lines.append(f"{done}. Counts of every prompt: {counts}; verdict: {self.verdict_path}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """As one JSON object: the quantization's own, and beside it what was verified and measured."""
        content: dict[str, Any] = {
            **self.result.to_json(),
            "published": self.published,
            "verification": self.verification.to_json(),
            "verdict": self.verdict.model_dump(mode="json"),
            "parity": {
                "report": str(self.replayed.report_path),
                "trace": str(self.trace),
                "summary": self.report.summary.model_dump(mode="json"),
            },
        }
        if self.served is not None:
            content["served"] = {
                "report": str(self.served.report_path),
                "verdict": self.served.verdict.model_dump(mode="json"),
                "summary": self.served.report.summary.model_dump(mode="json"),
            }
        return content
