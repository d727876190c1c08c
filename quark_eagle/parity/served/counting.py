"""Counting: which prompts can be counted, and their rounds by arm and block.

A prompt counts if every pass of both drafts brought an answer of it whose rounds explain its tokens. Otherwise it is in
neither arm's counts: left out of one alone, it would make the two arms answer different prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quark_eagle.documents.counts import PromptAcceptance, PromptResult
from quark_eagle.documents.served import BlockCounts, LeftOut, ServedArmName
from quark_eagle.parity.served.session import PassResult
from quark_eagle.serving.client import Outcome
from quark_eagle.serving.completion import Failure
from quark_eagle.trace.prompts import Prompt, PromptSet

_WHY_LENGTH = 200


def uncountable(outcome: Outcome, arm: ServedArmName, num_speculative_tokens: int) -> str | None:
    """Why an outcome cannot be counted; None if it can."""
    if isinstance(outcome, Failure):
        return f"{outcome.kind} after {outcome.attempts} attempts: {outcome.message}"[:_WHY_LENGTH]
    if arm == "none":
        return None
    if outcome.rounds is None:
        return "the server did not say what its rounds accepted, or its stream was merged or tried again"
    if outcome.num_speculative_tokens != num_speculative_tokens:
        return f"{outcome.num_speculative_tokens} tokens a round, but {num_speculative_tokens} were wanted"
    if outcome.rounds.num_undrafted:
        return (
            f"{outcome.rounds.num_undrafted} of {len(outcome.token_ids)} tokens came without a proposal: the engine "
            "had no room for one in a batch, or set the request back. Fewer requests at a time help (--concurrency)"
        )
    return None


def counted(
    prompts: PromptSet, results: Sequence[PassResult], num_speculative_tokens: int
) -> tuple[list[PromptResult], list[LeftOut]]:
    """Every prompt that can be counted, in the order of the prompts, and every reason why another cannot."""
    left_out = [
        LeftOut(id=prompt.id, category=prompt.category, arm=result.turn.arm, block=result.turn.block, why=why)
        for prompt in prompts
        for result in results
        if result.turn.arm != "none"
        and (why := uncountable(result.outcomes[prompt.id], result.turn.arm, num_speculative_tokens)) is not None
    ]
    missing = {it.id for it in left_out}
    by_arm = {arm: blocks_of(arm, results) for arm in ("baseline", "candidate")}
    kept = [
        _prompt_result(prompt, {arm: _acceptance(prompt.id, blocks) for arm, blocks in by_arm.items()})
        for prompt in prompts
        if prompt.id not in missing
    ]
    return kept, left_out


def blocks_of(arm: str, results: Sequence[PassResult]) -> list[Mapping[str, Outcome]]:
    """Outcomes of an arm by prompt, block after block."""
    own = sorted((it for it in results if it.turn.arm == arm), key=lambda it: it.turn.block)
    return [result.outcomes for result in own]


def _acceptance(prompt: str, blocks: Sequence[Mapping[str, Outcome]]) -> PromptAcceptance:
    """One arm's counts of a prompt that every block has an answer of."""
    counts = []
    for outcomes in blocks:
        outcome = outcomes[prompt]
        assert not isinstance(outcome, Failure)
        assert outcome.acceptance_histogram is not None
        counts.append(BlockCounts(num_generated_tokens=len(outcome.token_ids), walk=list(outcome.acceptance_histogram)))
    walk = [sum(column) for column in zip(*(block.walk for block in counts), strict=True)]
    return PromptAcceptance(walk=walk, every_start=None, walk_num_drafts=None, blocks=counts)


def _prompt_result(prompt: Prompt, arms: Mapping[str, PromptAcceptance]) -> PromptResult:
    baseline = arms["baseline"]
    assert baseline.blocks is not None
    return PromptResult(
        id=prompt.id,
        sha256=prompt.sha256,
        category=prompt.category,
        split=prompt.split,
        num_generated_tokens=baseline.blocks[0].num_generated_tokens,
        num_proposals_compared=None,
        num_proposals_shared=None,
        baseline=baseline,
        candidate=arms["candidate"],
    )
