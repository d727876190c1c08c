"""What each round of an answer accepted, cut where the answer ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """The rounds of one answer.

    Attributes:
        accepted: draft tokens that each round contributed to the answer, in order.
        num_clipped: tokens that the last rounds accepted past the answer's end (``max_tokens``, or an end token).
        num_undrafted: tokens of the answer that no round explains: steps for which the engine had no draft. vLLM 0.32
            drafts for no request of a batch once the longest of them might pass ``max_model_len``
            (`v1/worker/gpu_model_runner.py`, ``input_fits_in_drafter``), and starts over after a preemption.
    """

    accepted: tuple[int, ...]
    num_clipped: int
    num_undrafted: int


def clipped(accepted: Sequence[int], num_tokens: int) -> Rounds:
    """The rounds of an answer of `num_tokens`, of which prefill gave the first and each round ``accepted + 1``.

    vLLM counts what a round accepted before it cuts the answer at its end.

    >>> clipped([2, 0, 3], 7)  # 1 from prefill, 3, 1, and of the last 4 only 2
    Rounds(accepted=(2, 0, 1), num_clipped=2, num_undrafted=0)
    """
    rounds: list[int] = []
    left = num_tokens - 1
    for length in accepted:
        if left <= 0:
            break
        rounds.append(min(length, left - 1))
        left -= rounds[-1] + 1
    return Rounds(accepted=tuple(rounds), num_clipped=sum(accepted) - sum(rounds), num_undrafted=max(left, 0))
