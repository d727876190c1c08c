"""Noise: the change that serving puts between two arms with the same draft, told from the blocks of one session.

An engine batches what arrives together, and in bfloat16 another batch is another order of summation, so the same draft
gets other counts in every pass over the same prompts. Passes of one arm differ by that and by nothing else (drift of
the machine included, which the counter-balanced order takes out of the comparison, so the floor errs upwards). With the
log of τ of each block of an arm,

    s² = Σ (log τ_block - mean of the arm)² / (2 (B - 1))        over both arms, each round its own mean,

two arms of B blocks each differ by a standard error of s √(2 / B), and the interval is that times t of 2 (B - 1)
degrees of freedom. Prompts are not resampled: they are the same in all passes.

What is measured between two drafts has this error beside that of the choice of conversations. The blocks are not
resampled for it: three of them, drawn with replacement, have 2/3 of their variance, and a bootstrap's tails are the
normal's where t of 4 degrees of freedom belongs. At passes of 0.3 % standard deviation that made 12 to 15 % of false
passes where 5 % were meant. Instead, the floor's own interval is added to any other interval of the change in
quadrature, each end by itself: `widened`, the method of variance estimates recovery (Howe 1974, "Approximate Confidence
Limits on the Mean of X + Y", JASA 69; Zou and Donner 2008, Statistics in Medicine 27).

What is noise of a single answer and not of the whole pass is in both errors: of standard deviation e in each
conversation and pass, 2 e² / (B C) is counted twice. If serving had no other noise and the drafts' difference were the
same in all C conversations, the interval would be √2 times too wide; where e is the deviation of that difference
between conversations, 1.18 times at three blocks. It is left so, because it errs on the safe side and what could be
subtracted is an estimate as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quark_eagle.documents.counts import PromptAcceptance, PromptResult
from quark_eagle.documents.served import Noise
from quark_eagle.parity.delta import Bounds, FloatArray, IntArray, Spread, t_interval


def noise_floor(prompts: Sequence[PromptResult], confidence: float) -> Noise | None:
    """The A/A floor of a served measurement; None where it was replayed, or a block has no round."""
    taus = [block_taus([getattr(prompt, arm) for prompt in prompts]) for arm in ("baseline", "candidate")]
    if taus[0] is None or taus[1] is None or len(taus[0]) < 2:
        return None
    found = between_passes(np.stack([taus[0], taus[1]]))
    ends = t_interval(0.0, found.error, found.freedom, confidence)
    assert ends is not None
    low, high = np.expm1(ends)
    baseline = np.log(taus[0])
    return Noise(
        num_blocks=len(baseline),
        block_changes=[float(change) for change in np.exp(baseline - baseline.mean()) - 1],
        standard_error=found.error,
        degrees_of_freedom=int(found.freedom),
        confidence=confidence,
        low=float(low),
        high=float(high),
    )


def between_passes(taus: FloatArray) -> Spread:
    """Of log(1 + change) between two arms, by τ [2, B] of each arm's blocks; B is 2 or more."""
    logs = np.log(taus)
    num_blocks = logs.shape[1]
    freedom = 2 * (num_blocks - 1)
    variance = float(((logs - logs.mean(axis=1, keepdims=True)) ** 2).sum()) / freedom
    return Spread(error=(2 * variance / num_blocks) ** 0.5, freedom=freedom)


def noise_of(by_block: IntArray) -> Spread | None:
    """The same by counts [C, B, 4], as `Conversations` has them; None where fewer than two blocks tell it."""
    emitted_b, rounds_b, emitted_c, rounds_c = by_block.sum(axis=0).T  # [B] each
    emitted, rounds = np.stack([emitted_b, emitted_c]), np.stack([rounds_b, rounds_c])
    if len(rounds_b) < 2 or (rounds == 0).any():
        return None
    return between_passes(emitted / rounds)


def widened(ends: Bounds, estimate: float, noise: Spread, confidence: float) -> Bounds:
    """An interval of a relative change with serving's noise added to it: exactly as it was where there is none.

    Args:
        ends: of an interval of this confidence that knows of no noise.
        estimate: the change.
        noise: of log(1 + change).
        confidence: of both.
    """
    floor = t_interval(0.0, noise.error, noise.freedom, confidence)
    if noise.error == 0 or floor is None:
        return ends
    centre = np.log1p(estimate)
    low, high = (np.hypot(np.log1p(end) - centre, floor[1]) for end in ends)
    return float(np.expm1(centre - low)), float(np.expm1(centre + high))


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
