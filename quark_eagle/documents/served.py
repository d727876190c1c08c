"""Served evidence: the part of `parity.json` that tells how an engine was asked, and what it said besides the counts.

Where drafts were replayed there is no such part. Where they were served, every prompt holds its counts block by block
(`PromptAcceptance.blocks`), and this part the servers with all their settings, every pass that was driven, what was
left out, whether the text stayed the target's own, and how much serving differs from itself.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from quark_eagle.documents.base import Count, Document, Sha256

ServedArmName = Literal["none", "baseline", "candidate"]
"""What a server speculates with: nothing, the BF16 draft, or the FP8 draft."""

Layout = Literal["side by side", "one at a time", "disjoint devices", "given servers"]


class BlockCounts(Document):
    """What one draft did on one prompt in one block: a pass of its own, on which the answer may differ in its length.

    Attributes:
        num_generated_tokens: T; the first came from prefill.
        walk: [k + 1] rounds with exactly j tokens accepted, the last one clipped at the answer's end: accepted + rounds
            = T - 1.
    """

    num_generated_tokens: Count
    walk: list[Count]


class EngineCounters(Document):
    """What an engine counted, not clipped: it counts tokens accepted past an answer's end as well."""

    num_drafts: Count
    num_draft_tokens: Count
    num_accepted_tokens: Count
    accepted_per_position: list[Count]


class Pass(Document):
    """One arm's way through all prompts.

    Attributes:
        block: from 0; in each block every arm with a draft makes one pass, over the same prompts in the same order.
        num_retries: requests sent again because the first attempt brought no answer.
        num_failed: requests that brought no answer that could be counted, after all attempts.
        num_generated_tokens: of all answers.
        counters: what `/metrics` grew by from the first request to the last; null where nothing speculates.
    """

    arm: ServedArmName
    block: Count
    seconds: float
    num_requests: Count
    num_retries: Count
    num_failed: Count
    num_generated_tokens: Count
    counters: EngineCounters | None


class ServedArm(Document):
    """One arm and the server that spoke for it.

    Attributes:
        command: that started the server; null where it was running already.
        environment: that was set for it.
        devices: numbers of the accelerators it ran on, for each start; null is all that there are.
        settings: what the server said of itself, by name.
        unknown: what it could not be asked, and so may differ between the arms.
        load_seconds: from each start until it was ready; empty where it was running already.
    """

    arm: ServedArmName
    command: list[str] | None
    environment: dict[str, str]
    devices: list[str | None]
    settings: dict[str, Any]
    unknown: list[str]
    load_seconds: list[float]


class LeftOut(Document):
    """A prompt that is in neither arm's counts, because one of them has none of it in some block."""

    id: str
    category: str
    arm: ServedArmName
    block: Count
    why: str


class FirstDifference(Document):
    """Where an answer first differs from the one without speculation.

    Attributes:
        position: in the answer, from 0.
        expected: the token of the run without speculation; null where its answer had ended.
        found: the token of this arm; null where its answer had ended.
        margin: by how much the target preferred `expected` to `found`, as a difference of log-probabilities (which is
            that of logits); null where one of them is not among its likeliest tokens.
    """

    prompt: str
    block: Count
    position: Count
    expected: int | None
    found: int | None
    margin: float | None


class Losslessness(Document):
    """One arm's answers at temperature 0, held against those of the target alone.

    Attributes:
        num_compared: answers, over all blocks.
        num_equal: of these, token for token.
        num_ties: that first differ where the target all but tied: arithmetic in another order turns these.
        tie_margin: below which it is a tie; 0 in float32, where nothing is.
        real: that first differ where it did not. The engine is then not lossless.
        ties: the first few of those.
    """

    arm: ServedArmName
    num_compared: Count
    num_equal: Count
    num_ties: Count
    tie_margin: Annotated[float, Field(ge=0)]
    real: list[FirstDifference]
    ties: list[FirstDifference]


class Noise(Document):
    """The A/A floor: the change that serving alone puts between two arms with the same draft, in this session.

    Attributes:
        block_changes: of the baseline: τ of each block against that of all its blocks.
        standard_error: of log(1 + change) between two arms of as many blocks, from the spread between blocks of the
            same arm.
        degrees_of_freedom: of that spread, over both arms.
        low: end of the two-sided t interval around no change.
        high: its other end.
    """

    num_blocks: Count
    block_changes: list[float]
    standard_error: Annotated[float, Field(ge=0)]
    degrees_of_freedom: Count
    confidence: Annotated[float, Field(gt=0, lt=1)]
    low: float
    high: float


class Served(Document):
    """How the counts of a served measurement came about.

    Attributes:
        deterministic: one request at a time, so that the engine's batches are always the same.
        order: of the passes in time, as "baseline 0"; those that ran at the same time are joined by " | ".
        rendering_sha256: of the token ids of all prompts, as the served engine rendered them, the same for all arms.
        concurrency: requests in flight at most.
        lossless: of each arm with a draft; empty where it was not checked, and `notes` says why.
        notes: what a reader has to know beside the numbers.
    """

    layout: Layout
    deterministic: bool
    num_blocks: Annotated[int, Field(ge=1)]
    concurrency: Annotated[int, Field(ge=1)]
    order: list[str]
    rendering_sha256: Sha256
    arms: list[ServedArm]
    passes: list[Pass]
    left_out: list[LeftOut]
    lossless: list[Losslessness]
    noise: Noise | None
    notes: list[str]
