"""Gate: a measurement and the rules it is judged by → the verdict's document. Needs neither torch nor the drafts."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from quark_eagle import __version__
from quark_eagle.documents.arithmetic import Fp8Arithmetic
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.verdict import EXIT_CODES, STATED, Bias, Evidence, Verdict, Worth
from quark_eagle.errors import QuarkEagleError, UsageError, findings
from quark_eagle.parity.verdict import Judgement, Rules, judge, settled, unless_misread


def gate(
    report: ParityReport,
    rules: Rules,
    *,
    parity: Path,
    worth: Worth | None = None,
    misread: Sequence[str] = (),
    command_line: Sequence[str] = (),
) -> Verdict:
    """The verdict on a measurement, with everything that it stands on.

    Args:
        report: of the measurement.
        rules: by which it is judged.
        parity: where the report lies, for the record, with the sha256 of the file if it is there.
        worth: what FP8 can gain.
        misread: modules that an engine would not load as they were meant, beside those that the report knows of: such a
            draft fails whatever was counted.
        command_line: for the record.

    Raises:
        UsageError: a second look sees no more than the first did, or something else; or replay's own error is stated
            for counts that were served.
    """
    if report.served is not None and rules.bias.source == STATED:
        raise UsageError(
            f"--bias {rules.bias.bound:g}: is replay's own error, but these counts were served. Leave it out."
        )
    rules = settled(report, rules)
    evidence = Evidence(
        parity=str(parity),
        parity_sha256=_sha256_of(report, parity),
        num_speculative_tokens=report.num_speculative_tokens,
        num_prompts=len(report.prompts),
        splits=dict(sorted(Counter(prompt.split for prompt in report.prompts).items())),
        baseline=report.baseline,
        candidate=report.candidate,
        provenance=report.provenance,
    )
    if rules.first_evidence is not None:
        _require_more_of_the_same(rules.first_evidence, evidence)
    found = unless_misread(judge(report, rules), misread)
    return _document(found, rules, evidence, worth, command_line)


def _sha256_of(report: ParityReport, path: Path) -> str:
    """Of the file that holds the report, byte for byte; of what would be written where there is none.

    An earlier release may have written the same content otherwise, and a person may have formatted it anew: the file is
    what is kept, and what others hash.
    """
    try:
        content = path.read_bytes()
        if ParityReport.model_validate_json(content) != report:
            content = report.to_json().encode()
    except (OSError, ValueError):  # pydantic's ValidationError is one
        content = report.to_json().encode()
    return hashlib.sha256(content).hexdigest()


def not_evaluated(error: QuarkEagleError, rules: Rules, *, command_line: Sequence[str] = ()) -> Verdict:
    """The verdict where there was nothing to judge: unusable, with the error as its reason."""
    found = Judgement(outcome="unusable", rule="not evaluated", reason=str(error))
    return _document(found, rules, None, None, command_line)


def _document(
    found: Judgement, rules: Rules, evidence: Evidence | None, worth: Worth | None, command_line: Sequence[str]
) -> Verdict:
    return Verdict(
        schema_version=1,
        outcome=found.outcome,
        exit_code=EXIT_CODES[found.outcome],
        rule=found.rule,
        reason=found.reason,
        causes=list(found.causes),
        margin=rules.margin,
        alpha=rules.alpha,
        category_margin=rules.category_margin,
        looks=rules.look,
        bias=rules.bias,
        expected_baseline=rules.expected_baseline,
        required_arch=rules.require_arch,
        difference=found.difference,
        noise=found.noise,
        categories=list(found.categories),
        power=found.power,
        worth=worth,
        evidence=evidence,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command_line=list(command_line),
        versions={
            "quark_eagle": __version__,
            "python": platform.python_version(),
            "numpy": metadata.version("numpy"),
            "scipy": metadata.version("scipy"),
        },
    )


def first_look(path: Path, rules: Rules) -> Rules:
    """The rules of the second look that a first one planned.

    Raises:
        UsageError: the first look planned no second, decided already, or was taken by other rules.
        QuarkEagleError: the file is not a verdict.
    """
    first = Verdict.read(path)
    problems = []
    if first.looks.planned != 2:
        problems.append("it planned one look (`--looks 2` plans two, before the first).")
    if first.looks.look != 1:
        problems.append("it was the second look already.")
    if first.outcome != "inconclusive":
        problems.append(f"it decided: {first.outcome}. Looking again until the answer changes makes false passes.")
    problems += [
        f"its {name} was {before}, but {now} is wanted now."
        for name, before, now in _rules_of_both(first, rules)
        if before != now
    ]
    if problems:
        raise UsageError("\n".join([f"--after {path}: no second look can follow this verdict.", *problems]))
    return replace(
        rules,
        looks=2,
        first_look_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        first_evidence=first.evidence,
    )


def _rules_of_both(first: Verdict, rules: Rules) -> list[tuple[str, object, object]]:
    """(name, the first look's, now's) of every rule that has to stay."""
    return [
        ("margin", first.margin, rules.margin),
        ("alpha", first.alpha, rules.alpha),
        ("category margin", first.category_margin, rules.category_margin),
        ("bias", _stated(first.bias), _stated(rules.bias)),
        ("expected baseline", first.expected_baseline, rules.expected_baseline),
        ("required arch", first.required_arch, rules.require_arch),
    ]


def _stated(bias: Bias) -> float | None:
    """What a user decided beforehand, if anything; an anchor is measured with each trace anew."""
    return bias.bound if bias.source == STATED else None


def _require_more_of_the_same(first: Evidence, second: Evidence) -> None:
    """See that a second look judges what the first did, on more prompts.

    Raises:
        UsageError: it does not.
    """
    both = (
        ("candidate weights", first.candidate.weights_sha256, second.candidate.weights_sha256),
        ("candidate config", first.candidate.config_sha256, second.candidate.config_sha256),
        ("candidate's miscast modules", first.candidate.miscast, second.candidate.miscast),
        ("baseline weights", first.baseline.weights_sha256, second.baseline.weights_sha256),
        ("measured by", first.provenance.measured_by, second.provenance.measured_by),
        ("dtype", first.provenance.dtype, second.provenance.dtype),
        ("draft sample method", first.provenance.draft_sample_method, second.provenance.draft_sample_method),
        ("target", first.provenance.target, second.provenance.target),
        ("sampling", first.provenance.sampling, second.provenance.sampling),
        ("k", first.num_speculative_tokens, second.num_speculative_tokens),
        *_arithmetic_of_both(first.provenance.candidate_fp8, second.provenance.candidate_fp8),
    )
    problems = [f"{name}: wanted {before}, found {now}." for name, before, now in both if before != now]
    if second.num_prompts <= first.num_prompts:
        problems.append(f"prompts: wanted more than {first.num_prompts}, found {second.num_prompts}.")
    if problems:
        advice = "A second look judges the same drafts on more prompts. Record more and measure again."
        raise UsageError(findings(second.parity, problems, advice))


def _arithmetic_of_both(first: Fp8Arithmetic | None, second: Fp8Arithmetic | None) -> Iterator[tuple[str, str, str]]:
    """(name, the first look's, now's) of how the candidate's FP8 was computed; "none" where nothing was."""
    for field in Fp8Arithmetic.model_fields:
        before, now = (str(getattr(fp8, field, None)).lower() for fp8 in (first, second))
        yield f"candidate's {field}", before, now
