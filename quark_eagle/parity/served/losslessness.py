"""Losslessness: at temperature 0 a draft may change how fast an answer comes, and no token of it.

The answers of each arm are held against those of the target alone. In bfloat16 most of them differ somewhere, whatever
the draft: verifying k + 1 tokens at once is another matrix shape than decoding one, sums come in another order, and
where the target's two likeliest tokens are all but tied the argmax turns. So what counts is by how much the target,
asked alone, preferred its own token to the one that came instead, at the first place where the answers differ (after it
they answer different texts). Arithmetic turns what is tied; a fault of the engine turns what is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quark_eagle.documents.served import FirstDifference, Losslessness, ServedArmName
from quark_eagle.serving.completion import Completion

TIE_MARGINS: Mapping[str, float] = {"float32": 0.0, "float16": 0.125, "bfloat16": 1.0}
"""Differences of logits below which a dtype's arithmetic may turn an argmax: 8 spacings of bfloat16 (and as many of
float16) where logits are from 16 to 32. In float32 nothing is a tie: all answers must be equal."""
TIES_KEPT = 5


def tie_margin(dtype: str) -> float:
    """Of a dtype of the target's arithmetic, the widest where it is not known."""
    return TIE_MARGINS.get(dtype, max(TIE_MARGINS.values()))


def losslessness(
    arm: ServedArmName, alone: Mapping[str, Completion], blocks: Sequence[Mapping[str, Completion]], dtype: str
) -> Losslessness:
    """One arm's answers against the target's own.

    Args:
        arm: whose answers.
        alone: answers of the target without speculation by prompt, with top log-probabilities.
        blocks: answers of the arm in each block, by prompt; prompts that `alone` lacks are not compared.
        dtype: of the target's arithmetic.
    """
    compared = [
        (prompt, block, alone[prompt], answer)
        for block, answers in enumerate(blocks)
        for prompt, answer in answers.items()
        if prompt in alone
    ]
    found = [first_difference(*row) for row in compared]
    differences = [difference for difference in found if difference is not None]
    margin = tie_margin(dtype)
    ties = [it for it in differences if it.margin is not None and it.margin < margin]  # unknown: not a tie
    return Losslessness(
        arm=arm,
        num_compared=len(compared),
        num_equal=len(compared) - len(differences),
        num_ties=len(ties),
        tie_margin=margin,
        real=[it for it in differences if it not in ties],
        ties=ties[:TIES_KEPT],
    )


def first_difference(prompt: str, block: int, alone: Completion, answer: Completion) -> FirstDifference | None:
    """Where an answer first differs from the target's own; None if it does not."""
    if alone.token_ids == answer.token_ids:
        return None
    pairs = zip(alone.token_ids, answer.token_ids, strict=False)
    shorter = min(len(alone.token_ids), len(answer.token_ids))
    place = next((i for i, (expected, found) in enumerate(pairs) if expected != found), shorter)
    expected, found = _at(alone, place), _at(answer, place)
    return FirstDifference(
        prompt=prompt,
        block=block,
        position=place,
        expected=expected,
        found=found,
        margin=_preference(alone, place, expected, found),
    )


def _preference(alone: Completion, place: int, expected: int | None, found: int | None) -> float | None:
    """By how much the target preferred one token to another; None if one of them is not among its likeliest."""
    if expected is None or found is None or alone.top_logprobs is None or place >= len(alone.top_logprobs):
        return None
    likeliest = alone.top_logprobs[place]
    if expected not in likeliest or found not in likeliest:
        return None
    return max(0.0, likeliest[expected] - likeliest[found])


def _at(answer: Completion, place: int) -> int | None:
    return answer.token_ids[place] if place < len(answer.token_ids) else None
