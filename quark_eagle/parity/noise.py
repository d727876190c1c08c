"""Noise: the change that serving puts between two arms with the same draft, told from the blocks of one session.

An engine batches what arrives together, and in bfloat16 another batch is another order of summation, so the same draft
gets other counts in every pass over the same prompts. Passes of one arm differ by that and by nothing else (drift of
the machine included, which the counter-balanced order takes out of the comparison, so the floor errs upwards). With the
log of τ of each block of an arm,

    s² = Σ (log τ_block - mean of the arm)² / (2 (B - 1))        over both arms, each round its own mean,

two arms of B blocks each differ by a standard error of s √(2 / B), and the interval is that times t of 2 (B - 1)
degrees of freedom. Prompts are not resampled: they are the same in all passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quark_eagle.documents.parity import PromptAcceptance, PromptResult
from quark_eagle.documents.served import Noise
from quark_eagle.parity.delta import FloatArray, t_interval


def noise_floor(prompts: Sequence[PromptResult], confidence: float) -> Noise | None:
    """The A/A floor of a served measurement; None where it was replayed, or a block has no round."""
    taus = [block_taus([getattr(prompt, arm) for prompt in prompts]) for arm in ("baseline", "candidate")]
    if taus[0] is None or taus[1] is None or len(taus[0]) < 2:
        return None
    both = np.log(np.stack([taus[0], taus[1]]))  # [2, B]
    num_blocks = both.shape[1]
    freedom = 2 * (num_blocks - 1)
    spread = float(np.sqrt(((both - both.mean(axis=1, keepdims=True)) ** 2).sum() / freedom))
    error = spread * (2 / num_blocks) ** 0.5
    ends = t_interval(0.0, error, freedom, confidence)
    assert ends is not None
    low, high = np.expm1(ends)
    return Noise(
        num_blocks=num_blocks,
        block_changes=[float(change) for change in np.exp(both[0] - both[0].mean()) - 1],
        standard_error=error,
        degrees_of_freedom=freedom,
        confidence=confidence,
        low=float(low),
        high=float(high),
    )


def block_taus(counts: Sequence[PromptAcceptance]) -> FloatArray | None:
    """[B] τ of each block over all prompts; None where there are no blocks, or one without a round."""
    rows = [[block.walk for block in one.blocks] for one in counts if one.blocks is not None]
    if not rows or len(rows) < len(counts):
        return None
    walks = np.array(rows, dtype=np.int64).sum(axis=0)  # [B, k + 1]
    rounds = walks.sum(axis=1)
    if (rounds == 0).any():
        return None
    result: FloatArray = (walks @ np.arange(1, walks.shape[1] + 1)) / rounds
    return result
