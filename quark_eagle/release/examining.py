"""Examining: may this draft be released with this evidence? Everything that speaks against it, at once.

An objection that somebody may set aside becomes a sentence that card and report begin with. Two kinds may never be set
aside: evidence that is not about these bytes, which is none, and weights that an engine would not run as they are
meant. Of several the gravest decides the exit code: 5 where there is nothing to judge by (evidence about other bytes
tells nothing of these, as a damaged file would not), 3 where the answer is no, 4 where it is open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quark_eagle.deploy.verify import VerifyReport
from quark_eagle.documents.verdict import EXIT_CODES, Verdict
from quark_eagle.parity.arch import UNKNOWN, measured_elsewhere
from quark_eagle.parity.verdict import Rules
from quark_eagle.release import contents
from quark_eagle.release.binding import Mismatch
from quark_eagle.release.evidence import Given
from quark_eagle.release.rejudging import contradicted, is_sentence

GFX950 = "gfx950"
ANY_ARCH = "any"
_NO, _NOTHING_TO_JUDGE_BY, _OPEN = EXIT_CODES["fail"], EXIT_CODES["unusable"], EXIT_CODES["inconclusive"]
_REWORDED = (
    f"{contents.VERDICT} is worded otherwise than this version words it, though its numbers are those of the counts "
    "({}) Judge it again with `quark-eagle gate PARITY --output VERDICT`, and give that."
)
_BY_GRAVITY = (_NOTHING_TO_JUDGE_BY, _NO, _OPEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """What the releaser sets aside.

    Attributes:
        required_arch: on which the judged evidence has to be measured; None: any will do.
        publish_anyway: release in spite of a verdict that is no pass.
    """

    required_arch: str | None = GFX950
    publish_anyway: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """Something that speaks against a release.

    Attributes:
        says: what, and what to do about it.
        exit_code: if it stands.
    """

    says: str
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What speaks against a release.

    Attributes:
        objections: that stand; a release has none.
        overrides: what was set aside, a sentence each, for everyone who reads of the release.
        is_unbound: whether some of the evidence is not about these bytes, or does not follow from its counts.
    """

    objections: tuple[Objection, ...]
    overrides: tuple[str, ...]
    is_unbound: bool = False

    @property
    def exit_code(self) -> int:
        """Of the gravest; 0 without any."""
        codes = {objection.exit_code for objection in self.objections}
        return next((code for code in _BY_GRAVITY if code in codes), 0)

    def sentences(self) -> list[str]:
        """The objections in words, one each."""
        return [objection.says for objection in self.objections]


def examine(given: Given, mismatches: Sequence[Mismatch], verification: VerifyReport, leave: Leave) -> Examination:
    """What speaks against releasing a draft with this evidence.

    Args:
        given: the evidence.
        mismatches: that binding and rejudging found.
        verification: of the same weights.
        leave: what the releaser sets aside.
    """
    is_reworded = bool(mismatches) and all(map(is_sentence, mismatches))
    says = [_REWORDED.format(mismatches[0])] if is_reworded else [str(mismatch) for mismatch in mismatches]
    objections = [Objection(says=it, exit_code=_NOTHING_TO_JUDGE_BY) for it in says]
    objections += [
        Objection(says=f"{finding.subject}: {finding.message} No engine serves it as it was meant.", exit_code=_NO)
        for finding in verification.errors
    ]
    found = [*_about_verdict(given, leave), *_about_rules(given.verdict), *_about_arch(given, leave.required_arch)]
    return Examination(
        objections=(*objections, *(it for it in found if isinstance(it, Objection))),
        overrides=tuple(" ".join(it.split()) for it in found if isinstance(it, str)),
        is_unbound=bool(mismatches) and not is_reworded,
    )


def _about_verdict(given: Given, leave: Leave) -> Iterator[Objection | str]:
    """An objection where it stands, and a sentence where it was set aside."""
    verdict = given.verdict
    how = "--publish-anyway releases it, and says so."
    if verdict.outcome == "unusable":
        yield Objection(says=f"The verdict is unusable: {verdict.reason}", exit_code=_NOTHING_TO_JUDGE_BY)
    elif verdict.outcome != "pass" and not leave.publish_anyway:
        says = f"The verdict is no pass but {verdict.outcome}: {verdict.reason} {how}"
        yield Objection(says=says, exit_code=verdict.exit_code)
    elif verdict.outcome != "pass":
        yield f"Released although its verdict is {verdict.outcome}, and no pass: {verdict.reason}"
    against = contradicted(given)
    if against is not None and not leave.publish_anyway:
        yield Objection(says=f"A second measurement does not bear the verdict out. {against} {how}", exit_code=_NO)
    elif against is not None:
        yield f"Released although a second measurement does not bear its verdict out. {against}"


def _about_rules(verdict: Verdict) -> Iterator[str]:
    """What a verdict is laxer in than verdicts are unless somebody asks: with wide enough rules everything passes."""
    usual = Rules()
    if verdict.margin > usual.margin:
        yield f"Judged by a margin of {_percent(verdict.margin)}, wider than the usual {_percent(usual.margin)}."
    if verdict.alpha > usual.alpha:
        yield f"Judged with an alpha of {_percent(verdict.alpha)}, more than the usual {_percent(usual.alpha)}."


def _percent(fraction: float) -> str:
    """As the verdict's own sentences have it.

    >>> _percent(0.07)
    '7%'
    """
    return f"{100 * fraction:g}%"


def _about_arch(given: Given, required: str | None) -> Iterator[Objection | str]:
    """FP8 is not one arithmetic, and gfx950 is what the drafts are made for."""
    elsewhere = [] if required is None else _elsewhere(given, required)
    if elsewhere:
        says = (
            f"The evidence had to be measured on {required}, but {' and '.join(elsewhere)}. Measure it there, or say "
            f"--require-arch {ANY_ARCH}: card and report then begin with it."
        )
        yield Objection(says=says, exit_code=_NO)
    elif elsewhere := _elsewhere(given, GFX950):
        yield (
            f"Not measured on {GFX950} (MI355X): {' and '.join(elsewhere)}. Another arch computes FP8 in another way, "
            "and what is said here was not shown there."
        )


def _elsewhere(given: Given, arch: str) -> list[str]:
    """What of the judged evidence another arch computed, in words."""
    parts = measured_elsewhere(given.parity, arch)
    return [part.replace(f" on {UNKNOWN}", " on a machine whose arch was not noted") for part in parts]
