"""The verdict's document, schema version 1: what was asked, what the counts say, and what follows for shipping.

Console, JSON, JUnit, Markdown and GitHub all render this one document, so none of them can contradict another, and its
exit code is the process's. Every rate travels with its counts and every interval with its method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from quark_eagle.documents.base import Count, Document, Sha256, read_document
from quark_eagle.documents.parity import Arm, Provenance
from quark_eagle.documents.served import Noise

VERDICT_SCHEMA_VERSION = 1

Outcome = Literal["pass", "fail", "inconclusive", "unusable"]
EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 3, "inconclusive": 4, "unusable": 5}

Rule = Literal[
    "not evaluated",  # an error before there was anything to judge
    "nothing evaluated",
    "evidence",
    "serving noise",
    "dead baseline",
    "unexpected baseline",
    "verification",
    "collapse",
    "too few conversations",
    "methods disagree",
    "interval",
    "category",
]
"""What decided, in the order in which it is looked at."""

Probability = Annotated[float, Field(gt=0, lt=1)]


class Interval(Document):
    """A two-sided interval of the relative change. Its ends are one-sided bounds at (1 - confidence) / 2 each."""

    low: float
    high: float
    confidence: Probability
    method: str


class Difference(Document):
    """The relative change of walk τ on the same paths: candidate / baseline - 1.

    Attributes:
        num_conversations: what was resampled; the prompts of one conversation are one.
        num_strata: within each of which it was resampled: categories, the smallest of them together.
        standard_error: of log(1 + estimate), by the delta method, with serving's noise where the drafts were served;
            null below two conversations, or where that noise is not known.
        degrees_of_freedom: of that standard error, by Satterthwaite where noise is in it; null with it, and in verdicts
            of earlier releases.
        interval: BCa, paired by conversation; null as the standard error.
        second_interval: the second road: a t interval by the delta method.
    """

    num_prompts: Count
    num_conversations: Count
    num_strata: Count
    baseline_num_drafts: Count
    candidate_num_drafts: Count
    baseline_num_accepted_tokens: Count
    candidate_num_accepted_tokens: Count
    baseline_mean_acceptance_length: float
    candidate_mean_acceptance_length: float
    estimate: float
    standard_error: float | None
    degrees_of_freedom: float | None = None
    interval: Interval | None
    second_interval: Interval | None
    num_resamples: Count
    seed: Count


class Category(Document):
    """One category of prompts: always shown, and gated where it has a margin of its own.

    Attributes:
        difference: null where nothing could be compared; `note` says why.
        margin: null where the category does not gate.
        outcome: of its own gate; null where it does not gate, or the whole was decided before its interval.
        p_fail: one-sided p-value of a loss beyond the margin, before Holm's correction; null where it does not gate.
    """

    name: str
    num_prompts: Count
    difference: Difference | None
    margin: Probability | None
    outcome: Literal["pass", "fail", "inconclusive"] | None
    p_fail: float | None
    note: str


class Looks(Document):
    """How often the evidence was to be looked at, as planned before the first look, and what each look may spend."""

    planned: Annotated[int, Field(ge=1, le=2)]
    look: Annotated[int, Field(ge=1, le=2)]
    alpha_of_this_look: Probability
    first_look_sha256: Sha256 | None


class Bias(Document):
    """Replay's measured error in the difference, served minus replayed, as a bound on its size: 0 of served counts."""

    bound: Annotated[float, Field(ge=0)]
    anchored: bool
    source: str


STATED = "as stated with --bias"
"""The source of a bias that a user gave."""


class Power(Document):
    """How many conversations a margin needs.

    Attributes:
        deviation: standard deviation of one conversation's influence on log(1 + change).
        power: probability of the decision that is planned for.
        num_if_unchanged: conversations to pass, if the true change is 0; null if no number of them
            does: replay's own error, or serving's noise, takes up the margin.
        num_if_as_measured: to pass or fail, if the measured change is the true one; null if it lies too near the
            margin for any number.
        detectable_margin: the smallest margin that these conversations pass with this power, if the true change is 0.
    """

    margin: Probability
    alpha: Probability
    power: Probability
    num_conversations: Count
    deviation: float
    num_if_unchanged: Count | None
    num_if_as_measured: Count | None
    detectable_margin: float


class Worth(Document):
    """What FP8 can gain, next to what the margin lets it lose.

    Attributes:
        baseline_step_bytes: weights that one draft step reads.
        candidate_step_bytes: the same of the candidate.
        head_share: the LM head's share of the candidate's step.
        gain: throughput at equal τ, as a fraction: the least and the most that the source gives.
        break_even_loss: of τ, at which that gain is gone.
        source: of the step times, in words.
        margin_is_at_most_half: of the smallest gain.
    """

    baseline_step_bytes: Count
    candidate_step_bytes: Count
    head_share: float
    gain: tuple[float, float] | None
    break_even_loss: tuple[float, float] | None
    source: str
    margin_is_at_most_half: bool | None
    sentence: str


class Evidence(Document):
    """What the verdict stands on.

    Attributes:
        parity_sha256: of the file; of what `parity` would write where the counts were not kept.
        splits: prompts of each split; a verdict takes the parity split alone.
    """

    parity: str
    parity_sha256: Sha256
    num_speculative_tokens: Annotated[int, Field(ge=1)]
    num_prompts: Count
    splits: dict[str, Count]
    baseline: Arm
    candidate: Arm
    provenance: Provenance


class Verdict(Document):
    """May the candidate ship in place of the baseline?

    Attributes:
        rule: what decided.
        reason: one or two sentences with the numbers.
        causes: of a failure, the likeliest first.
        margin: the largest relative loss of τ that would still be called parity.
        alpha: of each tail, over all looks together.
        category_margin: the same of every category; null where they are shown and do not gate.
        noise: how much serving differs from itself; null where the drafts were replayed.
        expected_baseline: τ that the baseline had to reach within 5 %.
        required_arch: on which all of the evidence had to be measured; null where any would do.
    """

    schema_version: Literal[1]
    outcome: Outcome
    exit_code: int
    rule: Rule
    reason: str
    causes: list[str]
    margin: Probability
    alpha: Probability
    category_margin: Probability | None
    looks: Looks
    bias: Bias
    expected_baseline: float | None
    required_arch: str | None = None
    difference: Difference | None
    noise: Noise | None = None
    categories: list[Category]
    power: Power | None
    worth: Worth | None
    evidence: Evidence | None
    created: str
    command_line: list[str]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _outcome_and_exit_code_agree(self) -> Verdict:
        if self.exit_code != EXIT_CODES[self.outcome]:
            raise ValueError(f"outcome {self.outcome} has exit code {EXIT_CODES[self.outcome]}, not {self.exit_code}")
        return self

    @classmethod
    def read(cls, path: Path) -> Verdict:
        """The document in a file.

        Raises:
            StorageError: the file may not be read.
            QuarkEagleError: it is not such a document.
        """
        what = f"verdict of schema version {VERDICT_SCHEMA_VERSION}"
        return read_document(cls, path, what, "quark-eagle gate --output FILE", has_prose=True)
