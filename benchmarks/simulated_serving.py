"""Served passes over simulated conversations: the same counts in every block, but for serving's noise.

A pass of one arm differs from the next as a whole (`of_pass`), and each answer differs besides (`of_answer`): log of
the rounds gets a normal deviation of either kind. Both arms have as much of it, so the true change stays that of the
counts that are served. These are made larger by `SCALE`, which changes no τ: a deviation of 0.3 % of 60 rounds would
otherwise be lost in rounding to whole ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quark_eagle.parity.delta import Spread
from quark_eagle.parity.paired import Conversations

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
SCALE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How a session serves.

    Attributes:
        num_blocks: passes of each arm.
        of_pass: standard deviation of log τ of a pass, whatever the conversation.
        of_answer: of one conversation in one pass.
    """

    num_blocks: int = 3
    of_pass: float = 0.003
    of_answer: float = 0.0

    @property
    def noise(self) -> Spread:
        """Of log(1 + change), as it is known from the blocks: of whole passes alone."""
        return Spread(error=self.of_pass * (2 / self.num_blocks) ** 0.5, freedom=2 * (self.num_blocks - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Data sets that were served.

    Attributes:
        counts: [sets, C, 4] over all blocks, as `Conversations` has them.
        by_block: [sets, B, 4] over all conversations.
        first: [few, C, B, 4] of the first data sets, whole.
    """

    counts: IntArray
    by_block: IntArray
    first: IntArray


def serve(counts: IntArray | FloatArray, serving: Serving, rng: np.random.Generator, *, num_first: int = 3) -> Served:
    """Serve data sets of conversations, counts [sets, C, 4], which are whole numbers only afterwards."""
    sets, num, _ = counts.shape
    whole, totals, first = np.zeros(counts.shape, dtype=np.int64), [], []
    for _ in range(serving.num_blocks):  # a block at a time: all of them at once do not fit into memory
        noise = serving.of_pass * rng.standard_normal((sets, 1, 2))
        if serving.of_answer:
            noise = noise + serving.of_answer * rng.standard_normal((sets, num, 2))
        exact = counts * float(SCALE)
        exact[..., 1::2] *= np.exp(noise)
        made = np.rint(exact).astype(np.int64)
        whole += made
        totals.append(made.sum(axis=1))
        first.append(made[:num_first])
    return Served(counts=whole, by_block=np.stack(totals, axis=1), first=np.stack(first, axis=2))


def conversations(by_block: IntArray, strata: IntArray) -> Conversations:
    """One data set [C, B, 4] as the gate takes it."""
    return Conversations(counts=by_block.sum(axis=1), strata=strata, num_prompts=len(by_block), by_block=by_block)


def alike(num: int, deviation: float, change: float, sets: int, rng: np.random.Generator) -> FloatArray:
    """[sets, C, 4] conversations of one length whose log(1 + change) has this deviation around the true one."""
    pull = (
        deviation / 2 * rng.standard_normal((sets, num))
    )  # on either arm half of it, so that their ratio is symmetric
    emitted = np.full((sets, num), 128.0)
    baseline, candidate = emitted / 1.8 * np.exp(pull), emitted / 1.8 / (1 + change) * np.exp(-pull)
    return np.stack([emitted, baseline, emitted, candidate], axis=-1)
