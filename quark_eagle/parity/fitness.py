"""Fitness: whether a measurement may be judged at all, before its interval is looked at.

Evidence may be of the wrong prompts or the wrong machine, and a baseline that is dead or not itself depresses both
drafts alike: parity is relative, so that would pass. What only a served measurement can have is in `served.fitness`.
"""

from __future__ import annotations

from collections import Counter

from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.served import Noise
from quark_eagle.documents.verdict import Difference, Rule
from quark_eagle.parity.anchored import unanchored
from quark_eagle.parity.arch import measured_elsewhere
from quark_eagle.parity.calibrated_on import contaminated
from quark_eagle.parity.served.fitness import unfit as served_unfit

DEAD_BASELINE_TAU = 1.05
EMPTY_SHARE = 0.1  # of the answers, that may have no token to propose
BASELINE_TOLERANCE = 0.05  # of the τ that the baseline was expected to have


def unfit(
    report: ParityReport,
    difference: Difference,
    noise: Noise | None,
    *,
    margin: float,
    expected_baseline: float | None,
    require_arch: str | None,
) -> tuple[Rule, str] | None:
    """Why a measurement may not be judged, with the rule that says so; None if it may.

    Args:
        report: what was measured.
        difference: of the two drafts in it.
        noise: of serving; None where the drafts were replayed.
        margin: of the verdict to be.
        expected_baseline: τ that the baseline has to reach; None: anything alive.
        require_arch: on which all of it has to be measured; None: anywhere.
    """
    why = _unfit_evidence(report, require_arch)
    if why is not None:
        return "evidence", why
    if report.served is not None:
        against = served_unfit(report.served, noise, margin, len(report.prompts))
        if against is not None:
            return against
    return _unfit_baseline(difference, expected_baseline)


def nothing_evaluated(report: ParityReport) -> str:
    """Why there is nothing to judge."""
    served = report.served
    if served is not None and served.left_out:
        first = served.left_out[0]
        return (
            f"Nothing was evaluated: {len({it.id for it in served.left_out})} prompts lack counts of a draft in some "
            f"block. First: prompt {first.id}, {first.arm}: {first.why}"
        )
    where, what = ("the trace", "Record a trace with") if served is None else ("this run", "Ask for")
    return f"Nothing was evaluated: no prompt of {where} has a token after its first to propose. {what} longer answers."


def _unfit_evidence(report: ParityReport, require_arch: str | None) -> str | None:
    """What speaks against where it was measured, and on what."""
    elsewhere = [] if require_arch is None else measured_elsewhere(report, require_arch)
    if elsewhere:
        return (
            f"All of the evidence was wanted from {require_arch}, but {' and '.join(elsewhere)}. "
            f"Another arch computes FP8 in another way. Measure on {require_arch}, or leave --require-arch out."
        )
    empty = sum(prompt.num_generated_tokens < 2 for prompt in report.prompts)
    if empty > EMPTY_SHARE * len(report.prompts):
        return (
            f"{empty} of {len(report.prompts)} answers end with their first token, so nothing was proposed for "
            f"them; more than {EMPTY_SHARE:.0%} is a fault of the recording. Check the chat template and stop tokens."
        )
    if (why := contaminated(report)) is not None:
        return why
    other = {split: n for split, n in Counter(prompt.split for prompt in report.prompts).items() if split != "parity"}
    if other:
        found = ", ".join(f"{n} of {split}" for split, n in sorted(other.items()))
        return (
            f"The verdict takes prompts of the parity split alone, but found {found}: prompts that a scheme was "
            "calibrated or chosen on flatter it. Record a trace with --split parity."
        )
    return unanchored(report) if report.served is None else None


def _unfit_baseline(difference: Difference, expected: float | None) -> tuple[Rule, str] | None:
    """What speaks against the BF16 draft itself."""
    tau = difference.baseline_mean_acceptance_length
    if tau <= DEAD_BASELINE_TAU:
        return "dead baseline", (
            f"Dead baseline: the BF16 draft's τ is {tau:.3f} ({difference.baseline_num_accepted_tokens} tokens "
            f"accepted in {difference.baseline_num_drafts} drafts), and at or below {DEAD_BASELINE_TAU} it does not "
            "fit this target. Check that the trace's target and aux layers are those the draft was trained on."
        )
    if expected is not None and abs(tau / expected - 1) > BASELINE_TOLERANCE:
        return "unexpected baseline", (
            f"The BF16 draft's τ is {tau:.3f}, but {expected:.3f} within {BASELINE_TOLERANCE:.0%} was expected. "
            "A fault of the set-up depresses both drafts alike and would pass as parity. "
            "Check target, aux layers, chat template and sampling."
        )
    return None
