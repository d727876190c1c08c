"""Verdict: may the candidate ship in place of the baseline? Pass, fail, inconclusive, or unusable.

The claim to prove is that τ falls by no more than a stated margin. In this order, and the first that applies decides:

1. Nothing was evaluated, or the evidence is not fit for a verdict (prompts of another split or calibrated on, another
   arch than the required one; of a served measurement, failed requests, text that is not the target's own, or serving
   that differs from itself by more than the margin): unusable, never a pass.
2. Dead baseline: the BF16 draft itself accepts next to nothing; or its τ is not what was expected of it. Parity is
   relative, so a fault that depresses both drafts alike would pass: unusable.
3. Collapse: the candidate lost more than half of the tokens that the baseline had accepted. Rounding to FP8 does not do
   that; the checkpoint is broken: fail.
4. Fewer than 64 conversations: inconclusive, whatever the interval says (at 20 its error is 6.4 % where 5 % was meant).
5. The interval: pass if its lower end clears the margin, fail if its upper end does not reach it, else inconclusive.
   The two methods must share the outcome.
6. Categories with a margin of their own: all must pass; one that fails after Holm's correction fails the whole.

What an engine would not run as it is meant fails whatever was counted: replay may have computed another draft than it
would. Where the counts fail it too, they say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.served import Noise
from quark_eagle.documents.verdict import Bias, Category, Difference, Evidence, Interval, Looks, Outcome, Power, Rule
from quark_eagle.errors import UsageError
from quark_eagle.parity.anchored import bias_of
from quark_eagle.parity.categories import judge_categories
from quark_eagle.parity.fitness import nothing_evaluated, unfit
from quark_eagle.parity.noise import noise_floor
from quark_eagle.parity.paired import (
    NUM_RESAMPLES,
    Conversations,
    noise_between_passes,
    paired_difference,
    standard_error,
)
from quark_eagle.parity.power import needed, plan

COLLAPSE_SHARE = 0.5  # of the baseline's accepted tokens
MIN_CONVERSATIONS = 64
MIN_RESAMPLES = 499  # fewer do not have the tails that decide

# From the likeliest: what silently broke FP8 drafts in the field, and in what order to look.
COLLAPSE_CAUSES = (
    "a module that was kept (fc, lm_head) is built in FP8 by the engine, because no entry of `exclude` matches its"
    " runtime name; `quark-eagle verify CANDIDATE` shows it",
    "weight_scale is missing, inverted, or belongs to other rows than its weight",
    "the FP8 bytes are in another format (e4m3fnuz) than e4m3fn",
    "a kept tensor changed: norms, fc, lm_head, d2t; `quark-eagle verify CANDIDATE --source BASELINE` compares them",
    "the candidate was made from another draft than this baseline",
)

NOT_ANCHORED = Bias(bound=0.0, anchored=False, source="not anchored: no served run was compared with this replay")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What was decided before the evidence was looked at.

    Attributes:
        margin: the largest relative loss of τ that is still parity; a sensible one is at most half of what the faster
            step gains.
        alpha: of each tail, over all planned looks together.
        category_margin: a wider margin that every category has to keep; None: categories are shown and do not gate.
        looks: how often the evidence may be looked at while prompts are added: 1 or 2.
        first_look_sha256: of the first look's verdict, if this is the second.
        first_evidence: what the first look saw: the second has to see the same drafts on more prompts.
        bias: replay's own error in the difference.
        expected_baseline: τ that the baseline has to reach within 5 %; None: anything alive.
        require_arch: on which all of the evidence has to be measured, "gfx950"; None: anywhere.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    margin: float = 0.01
    alpha: float = 0.05
    category_margin: float | None = None
    looks: int = 1
    first_look_sha256: str | None = None
    first_evidence: Evidence | None = None
    bias: Bias = NOT_ANCHORED
    expected_baseline: float | None = None
    require_arch: str | None = None
    num_resamples: int = NUM_RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        problems = []
        if not 1e-4 <= self.margin < 1:
            problems.append(f"--margin {self.margin:g}: a loss of τ as a fraction was needed, from 0.0001 to below 1.")
        if self.category_margin is not None and not self.margin <= self.category_margin < 1:
            problems.append(
                f"--category-margin {self.category_margin:g}: at least the margin ({self.margin:g}) and below 1 was "
                "needed: a category has fewer prompts than all of them."
            )
        if not 0.001 <= self.alpha < 0.5:
            problems.append(f"--alpha {self.alpha:g}: an error probability from 0.001 to below 0.5 was needed.")
        if self.num_resamples < MIN_RESAMPLES:
            problems.append(f"{self.num_resamples} resamples: at least {MIN_RESAMPLES} were needed.")
        if self.looks not in (1, 2):
            problems.append(f"--looks {self.looks}: 1 or 2 was needed: more looks make false passes.")
        if self.expected_baseline is not None and not 1 <= self.expected_baseline < math.inf:
            problems.append(f"--expect-baseline {self.expected_baseline:g}: a τ was needed, which is at least 1.")
        if problems:
            raise UsageError("\n".join(problems))

    @property
    def look(self) -> Looks:
        """The look that this is."""
        return Looks(
            planned=self.looks,
            look=2 if self.first_look_sha256 else 1,
            alpha_of_this_look=self.alpha / self.looks,
            first_look_sha256=self.first_look_sha256,
        )

    @property
    def confidence(self) -> float:
        """Of the two-sided interval whose ends are the one-sided bounds that decide."""
        return 1 - 2 * self.alpha / self.looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the counts alone say, before it is put into a document."""

    outcome: Outcome
    rule: Rule
    reason: str
    causes: tuple[str, ...] = ()
    difference: Difference | None = None
    noise: Noise | None = None
    categories: tuple[Category, ...] = ()
    power: Power | None = None


def settled(report: ParityReport, rules: Rules) -> Rules:
    """The rules with replay's own error as it is known for this measurement."""
    return replace(rules, bias=bias_of(report, rules.bias))


def judge(report: ParityReport, rules: Rules | None = None) -> Judgement:
    """The verdict on a measurement, from the counts of its walk."""
    rules = settled(report, rules or Rules())
    conversations = Conversations.of(report.prompts)
    difference = paired_difference(conversations, rules.confidence, num_resamples=rules.num_resamples, seed=rules.seed)
    if difference is None:
        nothing = Judgement(outcome="unusable", rule="nothing evaluated", reason=nothing_evaluated(report))
        return unless_misread(nothing, report.candidate.misread)
    power = _power(conversations, difference.estimate, rules)
    noise = noise_floor(report.prompts, rules.confidence)
    found = _before_the_interval(report, difference, noise, rules) or judge_difference(difference, rules, power)
    # Categories gate where the whole is decided by its interval; shown they are always.
    category_margin = rules.category_margin if found.rule in ("interval", "methods disagree") else None
    categories = judge_categories(
        report.prompts,
        category_margin,
        confidence=rules.confidence,
        bias=rules.bias.bound,
        num_resamples=rules.num_resamples,
        seed=rules.seed,
    )
    if category_margin is not None:
        found = _with_categories(found, categories, category_margin)
    elif rules.category_margin is not None:  # they were to gate, and are not looked at
        categories = [it.model_copy(update={"margin": rules.category_margin}) for it in categories]
    found = unless_misread(found, report.candidate.misread)
    return replace(found, difference=difference, noise=noise, categories=tuple(categories), power=power)


def unless_misread(found: Judgement, modules: Sequence[str]) -> Judgement:
    """The verdict, which is a fail if an engine would not load some modules as they were meant."""
    if not modules or found.outcome == "fail":
        return found
    said = f"An engine would not load the candidate as it was meant: {', '.join(modules)}. `verify` says why."
    return replace(found, outcome="fail", rule="verification", reason=said, causes=())


def judge_difference(difference: Difference, rules: Rules, power: Power | None = None) -> Judgement:
    """What the interval says, once there is nothing against looking at it."""
    said = _in_words(difference)
    if difference.num_conversations < MIN_CONVERSATIONS:
        return Judgement(
            outcome="inconclusive",
            rule="too few conversations",
            reason=f"{said} on {difference.num_conversations} conversations: with fewer than {MIN_CONVERSATIONS} the "
            f"interval's error is larger than it says, so it decides nothing. {needed(power)}".rstrip(),
        )
    first, second = (
        side(interval, rules.margin, rules.bias.bound) for interval in (difference.interval, difference.second_interval)
    )
    if first != second:
        return Judgement(
            outcome="inconclusive",
            rule="methods disagree",
            reason=f"{said}, which alone would say {first}, but {_bounds(difference.second_interval)} by the delta "
            f"method says {second}. A verdict that two methods do not share is none. {needed(power)}".rstrip(),
        )
    edge = f"−{rules.margin:.2%}"
    tail = f" after ±{rules.bias.bound:.2%} for replay's own error" if rules.bias.bound else ""
    reasons = {
        "pass": f"{said}: a loss of more than {rules.margin:.2%} is excluded{tail}.",
        "fail": f"{said}: it lies wholly below {edge}{tail}, so more is lost than the margin allows.",
        "inconclusive": f"{said}: it holds {edge}{tail}, so a loss beyond the margin is neither shown nor excluded. "
        f"{needed(power)}".rstrip(),
    }
    return Judgement(outcome=first, rule="interval", reason=reasons[first])


def side(interval: Interval | None, margin: float, bias: float) -> Literal["pass", "fail", "inconclusive"]:
    """On which side of the margin an interval lies, with replay's error on both ends."""
    if interval is None:
        return "inconclusive"
    if interval.low - bias > -margin:
        return "pass"
    return "fail" if interval.high + bias < -margin else "inconclusive"


def _before_the_interval(
    report: ParityReport, difference: Difference, noise: Noise | None, rules: Rules
) -> Judgement | None:
    """What makes the interval meaningless or needless."""
    against = unfit(
        report,
        difference,
        noise,
        margin=rules.margin,
        expected_baseline=rules.expected_baseline,
        require_arch=rules.require_arch,
    )
    if against is not None:
        return Judgement(outcome="unusable", rule=against[0], reason=against[1])
    # Totals, not rates: both walk the same path, on which accepted + rounds is fixed.
    before, after = difference.baseline_num_accepted_tokens, difference.candidate_num_accepted_tokens
    if after < COLLAPSE_SHARE * before:
        return Judgement(
            outcome="fail",
            rule="collapse",
            reason=f"Acceptance collapsed: {after} tokens accepted where the BF16 draft has {before} "
            f"({after / before:.1%}). Rounding to FP8 does not do that: the checkpoint is broken.",
            causes=COLLAPSE_CAUSES,
        )
    return None


def _with_categories(found: Judgement, categories: list[Category], margin: float) -> Judgement:
    """The verdict of the whole, once its categories gate as well."""
    failed = [category.name for category in categories if category.outcome == "fail"]
    undecided = [category.name for category in categories if category.outcome == "inconclusive"]
    if failed and found.outcome != "fail":
        return Judgement(
            outcome="fail",
            rule="category",
            reason=f"{found.reason} But it loses more than {margin:.2%} in {', '.join(failed)} (Holm's correction).",
        )
    if undecided and found.outcome == "pass":
        return Judgement(
            outcome="inconclusive",
            rule="category",
            reason=f"{found.reason} But a loss of more than {margin:.2%} is not excluded in {', '.join(undecided)}.",
        )
    return found


def _power(conversations: Conversations, estimate: float, rules: Rules) -> Power | None:
    error, noise = standard_error(conversations), noise_between_passes(conversations)
    if not error or noise is None:
        return None
    return plan(
        error * len(conversations) ** 0.5,
        len(conversations),
        estimate,
        margin=rules.margin,
        alpha=rules.look.alpha_of_this_look,
        bias=rules.bias.bound,
        at_least=MIN_CONVERSATIONS,
        noise=noise,
    )


def _in_words(difference: Difference) -> str:
    return f"τ changes by {difference.estimate:+.2%}, {_bounds(difference.interval)}"


def _bounds(interval: Interval | None) -> str:
    if interval is None:
        return "with no interval"
    return f"{interval.confidence:.0%} interval {interval.low:+.2%} … {interval.high:+.2%}"
