"""Rejudging: the verdict, worked out again from the counts that lie beside it, by the rules that it names itself.

A verdict is a function of a measurement and of rules, so a number in it that the counts do not give was changed. Every
field of the judgement is compared, and the sentences too, for they are what people read. Another version of quark-eagle
may word the same numbers otherwise, but what it would say is not known here: where sentences alone differ, and the
verdict names another version, they are told apart from the numbers (`Rejudged.reworded`), and never passed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quark_eagle import __version__
from quark_eagle.checked import bears_out
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.verdict import STATED, Verdict
from quark_eagle.errors import QuarkEagleError
from quark_eagle.parity.gate import gate
from quark_eagle.parity.summary import summarize
from quark_eagle.parity.verdict import NOT_ANCHORED, Rules
from quark_eagle.release import contents
from quark_eagle.release.binding import Mismatch
from quark_eagle.release.evidence import Given
from quark_eagle.worth import worth

# Not of the judgement: when and by whom it was made, and what it stands on, which `binding` compares.
_NOT_JUDGED = frozenset({"created", "command_line", "versions", "evidence", "worth"})
_SENTENCES = ("reason", "note", "sentence", "source", "method")  # and causes: what another version may word otherwise
_TOLERANCE = 1e-9  # relative: another machine's libraries may round a last digit otherwise


def rules_of(verdict: Verdict) -> Rules:
    """The rules that a verdict was reached by, as it names them.

    Raises:
        UsageError: they are none that a verdict can be reached by.
    """
    difference = verdict.difference
    bootstrap: dict[str, Any] = {}
    if difference is not None:
        bootstrap = {"num_resamples": difference.num_resamples, "seed": difference.seed}
    return Rules(
        margin=verdict.margin,
        alpha=verdict.alpha,
        category_margin=verdict.category_margin,
        looks=verdict.looks.planned,
        first_look_sha256=verdict.looks.first_look_sha256,
        bias=verdict.bias if verdict.bias.source == STATED else NOT_ANCHORED,
        expected_baseline=verdict.expected_baseline,
        require_arch=verdict.required_arch,
        **bootstrap,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejudged:
    """A verdict, held against the one that its counts give.

    Attributes:
        mismatches: of numbers, or of anything where this version reached the verdict.
        reworded: sentences that differ where another version is said to have reached it.
    """

    mismatches: list[Mismatch]
    reworded: list[Mismatch]


def rejudged(given: Given, misread: Sequence[str] = ()) -> Rejudged:
    """Where the verdict is not what its measurement gives; numbers and what another version worded apart."""
    found = misjudged(given, misread)
    if not is_worded_elsewhere(given.verdict):
        return Rejudged(mismatches=found, reworded=[])
    return Rejudged(
        mismatches=[it for it in found if not is_sentence(it)], reworded=[it for it in found if is_sentence(it)]
    )


def misjudged(given: Given, misread: Sequence[str] = ()) -> list[Mismatch]:
    """Where the verdict is not what its measurement gives, or a summary not what its prompts give.

    Args:
        given: the evidence.
        misread: what an engine would not load as it was meant, as `verify` found it: what a verdict that failed by it
            stands on. Of other verdicts it is an objection of its own, and no number in them is wrong for it.
    """
    found = [it for name, report in given.reports.items() for it in _other_summary(name, report)]
    misread = misread if given.verdict.rule == "verification" else ()
    try:
        again = gate(given.parity, rules_of(given.verdict), parity=Path(contents.PARITY), misread=misread)
    except QuarkEagleError as error:
        rules = "rules that a verdict is reached by"
        return [*found, Mismatch(where=contents.VERDICT, what="its rules", wanted=rules, found=str(error))]
    wanted, said = _judgement(again), _judgement(given.verdict)
    if given.verdict.difference is not None and given.verdict.difference.degrees_of_freedom is None:
        wanted = _without_degrees_of_freedom(wanted)  # verdicts of earlier releases did not name them
    return [*found, *unlike(contents.VERDICT, wanted, said), *_other_worth(given)]


def is_worded_elsewhere(verdict: Verdict) -> bool:
    """Whether it names another version of quark-eagle, whose words cannot be made again here."""
    return verdict.versions.get("quark_eagle") != __version__


def is_sentence(mismatch: Mismatch) -> bool:
    """Whether it is of the verdict's words, and of none of its numbers."""
    path = mismatch.what.split(".")
    return mismatch.where == contents.VERDICT and (path[-1] in _SENTENCES or path[0] == "causes")


def contradicted(given: Given) -> str | None:
    """What a second measurement says against the verdict; None if it bears it out, or there is none.

    Served beside a replay, or the other way round, by the same rules. It may leave open what the judged one decided,
    as serving is noisy where replay is not, but may not deny it.
    """
    for name, report in given.reports.items():
        if name == contents.PARITY:
            continue
        try:
            second = gate(report, _also(rules_of(given.verdict), report), parity=Path(name))
        except QuarkEagleError as error:
            return f"{name}: {error}"
        if not bears_out(second):
            return f"{name}: {second.outcome}: {second.reason}"
    return None


def _also(rules: Rules, report: ParityReport) -> Rules:
    """The rules for a second measurement: replay's own error is stated for replay alone."""
    return rules if report.served is None else replace(rules, bias=NOT_ANCHORED)


def _judgement(verdict: Verdict) -> dict[str, Any]:
    return dict(leaves(verdict.model_dump(mode="json", exclude=set(_NOT_JUDGED))))


def _without_degrees_of_freedom(leaves: Mapping[str, Any]) -> dict[str, Any]:
    return {path: None if path.endswith("degrees_of_freedom") else value for path, value in leaves.items()}


def _other_summary(name: str, report: ParityReport) -> list[Mismatch]:
    """A summary is derived from the prompts' histograms and from nothing else."""
    again = summarize(report.prompts, report.num_speculative_tokens)
    wanted, said = (dict(leaves(it.model_dump(mode="json"))) for it in (again, report.summary))
    return unlike(name, wanted, said, "summary.")


def _other_worth(given: Given) -> list[Mismatch]:
    """Bytes of a step are the measurement's; gains are worked out again where nobody stated times of his own."""
    said = given.verdict.worth
    if said is None:
        return []
    again = worth(given.parity, margin=given.verdict.margin)
    fields = None if said.source == again.source else {"baseline_step_bytes", "candidate_step_bytes", "head_share"}
    wanted, found = (dict(leaves(it.model_dump(mode="json", include=fields))) for it in (again, said))
    return unlike(contents.VERDICT, wanted, found, "worth.")


def unlike(
    where: str, wanted: Mapping[str, Any], found: Mapping[str, Any], prefix: str = "", *, source: str = "the counts"
) -> list[Mismatch]:
    """Leaves that differ, in the order of the document, then those that one side lacks; `wanted` is from `source`."""
    paths = [*wanted, *(path for path in found if path not in wanted)]
    return [
        Mismatch(
            where=where,
            what=f"{prefix}{path}",
            wanted=f"{wanted.get(path, 'nothing')} (from {source})",
            found=str(found.get(path, "nothing")),
        )
        for path in paths
        if path not in wanted or path not in found or not _same(wanted[path], found[path])
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float) and not isinstance(other, bool):
        return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(one == other)


def leaves(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and string of a JSON value by its dotted path.

    >>> dict(leaves({"a": [1, {"b": None}]}))
    {'a.0': 1, 'a.1.b': None}
    """
    if isinstance(content, Mapping):
        items = [(str(key), value) for key, value in content.items()]
    elif isinstance(content, list):
        items = [(str(place), value) for place, value in enumerate(content)]
    else:
        yield path, content
        return
    for key, value in items:
        yield from leaves(value, f"{path}.{key}" if path else key)
