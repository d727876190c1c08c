"""What drafts got accepted on one prompt: acceptance histograms, prompt by prompt, and what must hold of such counts.

A histogram has k + 1 counts, and on a path of T tokens accepted + rounds = T - 1, whatever k is: counts that were
mistyped or cut contradict themselves.
"""

from __future__ import annotations

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from quark_eagle.documents.base import Count, Document, Sha256, without_absent
from quark_eagle.documents.served import BlockCounts


class PromptAcceptance(Document):
    """What one draft did on one prompt.

    Attributes:
        walk: [k + 1] rounds of the walk with exactly j tokens accepted.
        every_start: [k + 1] the same of every start; null after a walk-only measurement.
        walk_num_drafts: rounds of the walk at k = 1, 2, …; null after a walk-only measurement.
        blocks: of a served measurement, whose sum `walk` is; left out where the draft was replayed.
    """

    walk: list[Count]
    every_start: list[Count] | None
    walk_num_drafts: list[Count] | None
    blocks: list[BlockCounts] | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_absent(serialize(self), "blocks")


class PromptResult(Document):
    """One prompt and what both drafts did on it.

    Attributes:
        sha256: of the prompt as it was given to the target.
        num_generated_tokens: T; the first came from prefill. Where the drafts were served, that of the baseline's first
            block, for every pass has an answer of its own.
        num_proposals_compared: places where both drafts proposed a token; null where no two proposals could be laid
            side by side: a stored baseline has only counts, and a probabilistic draft proposes a distribution.
        num_proposals_shared: of these, the places where it was the same token; null with the other.
    """

    id: str
    sha256: Sha256
    category: str
    split: str
    num_generated_tokens: Count
    num_proposals_compared: Count | None
    num_proposals_shared: Count | None
    baseline: PromptAcceptance
    candidate: PromptAcceptance


def count_problems(
    who: str, num_generated_tokens: int, counts: PromptAcceptance, num_speculative_tokens: int
) -> list[str]:
    """Where one draft's counts on one prompt break what must hold of them.

    A histogram has k + 1 counts, and on a path of T tokens accepted + rounds = T - 1, at every k. A draft that was
    served took a path of its own in every block.
    """
    k, emitted = num_speculative_tokens, max(0, num_generated_tokens - 1)
    rows = (counts.walk, counts.every_start, *(block.walk for block in counts.blocks or ()))
    if any(len(row) != k + 1 for row in rows if row is not None):
        return [f"{who}: a histogram for k = {k} has {k + 1} counts"]
    if counts.blocks is not None:
        return _block_problems(who, counts.walk, counts.blocks)
    problems = []
    if _emitted(counts.walk) != emitted:
        problems.append(f"{who}: accepted + rounds is not {emitted}, the tokens but one")
    curve = counts.walk_num_drafts
    if curve is not None and len(curve) >= k and curve[k - 1] != sum(counts.walk):
        problems.append(f"{who}: {curve[k - 1]} rounds at k = {k} in walk_num_drafts, but {sum(counts.walk)} in walk")
    return problems


def _block_problems(who: str, walk: list[int], blocks: list[BlockCounts]) -> list[str]:
    problems = [
        f"{who}, block {place}: accepted + rounds is not {block.num_generated_tokens - 1}, the tokens but one"
        for place, block in enumerate(blocks)
        if _emitted(block.walk) != max(0, block.num_generated_tokens - 1)
    ]
    if [sum(column) for column in zip(*(block.walk for block in blocks), strict=True)] != walk:
        problems.append(f"{who}: the walk is not the sum of its blocks")
    return problems


def _emitted(walk: list[int]) -> int:
    """Tokens that the rounds of a histogram emit: j accepted and the bonus token."""
    return sum((j + 1) * count for j, count in enumerate(walk))


def prompt_problems(prompt: PromptResult, k: int, num_blocks: int | None) -> list[str]:
    """Where the counts of both drafts on one prompt break what must hold of them.

    Args:
        prompt: and what both did on it.
        k: tokens proposed per draft.
        num_blocks: that were served; None where the drafts were replayed.
    """
    problems = []
    for name, counts in (("baseline", prompt.baseline), ("candidate", prompt.candidate)):
        problems += count_problems(f"prompt {prompt.id}, {name}", prompt.num_generated_tokens, counts, k)
        found = None if counts.blocks is None else len(counts.blocks)
        if found != num_blocks:
            problems.append(f"prompt {prompt.id}, {name}: counts of {found} blocks, but {num_blocks} were served")
    compared, shared = prompt.num_proposals_compared, prompt.num_proposals_shared
    if (compared is None) != (shared is None):
        problems.append(f"prompt {prompt.id}: proposals compared and shared are both known or both null")
    elif compared is not None and shared is not None and shared > compared:
        problems.append(f"prompt {prompt.id}: more proposals shared than compared")
    return problems
