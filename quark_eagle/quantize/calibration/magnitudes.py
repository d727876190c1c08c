"""Magnitudes: how large the activations of one module were, exactly, and where the largest came from.

A bfloat16 number without its sign has 15 bits, and those bits as an integer are in the order of the magnitudes. So
32,768 counters hold the whole distribution, whatever the order and the batches: every percentile, and how many values a
scale would clip or flush to zero, can be told afterwards. This is the second road beside Quark's observers, and it
names the outliers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quark_eagle.errors import QuantizationError

NUM_MAGNITUDES = 1 << 15
_FIRST_NOT_FINITE = 0x7F80  # bits of infinity; NaN lies above
CLIPPED_FROM = 464.0  # halfway from 448 to what would come next; up to there 448 is the nearest number
ROUNDS_TO_ZERO = 2.0**-10  # half of e4m3fn's smallest number; a tie goes to the even neighbour, which is 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where activations were seen.

    Attributes:
        prompt: its id.
        step: of the draft, from 1.
        positions: [tokens] int64, in the text, of each row of the activations.
    """

    prompt: str
    step: int
    positions: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The largest magnitude of one module at one step of the draft.

    Attributes:
        step: from 1.
        absmax: the magnitude.
        prompt: id of the prompt.
        position: in its text, from 0.
        channel: of the activation; for keys and values head * head_dim + dimension.
    """

    step: int
    absmax: float
    prompt: str
    position: int
    channel: int


class Magnitudes:
    """The magnitudes of one module's activations, counted."""

    def __init__(self, counts: Tensor | None = None, peaks: Sequence[Peak] = ()) -> None:
        """``counts`` [32768] int64 by bit pattern; none yet if None."""
        self.counts = torch.zeros(NUM_MAGNITUDES, dtype=torch.int64) if counts is None else counts
        self._peaks = {peak.step: peak for peak in peaks}

    def see(self, name: str, x: Tensor, place: Place) -> None:
        """Count activations [tokens, ...] bfloat16; of another dtype they are rounded to it.

        Raises:
            QuantizationError: one is not finite; says where.
        """
        rows = x.detach().reshape(x.shape[0], -1)
        bits = rows.to(torch.bfloat16).contiguous().view(torch.int16).to(torch.int32) & (NUM_MAGNITUDES - 1)
        if bits.numel() == 0:
            return
        largest = int(bits.argmax())
        row, channel = divmod(largest, rows.shape[1])
        top, position = int(bits.view(-1)[largest]), int(place.positions[row])
        if top >= _FIRST_NOT_FINITE:
            raise QuantizationError(
                f"{name}: {float(rows[row, channel])} in what enters it (prompt {place.prompt}, position {position}, "
                f"step {place.step}, channel {channel}), but a scale takes finite numbers. The draft or the trace is "
                "damaged, or the draft leaves the range of bfloat16 there. Check the draft on that prompt."
            )
        self.counts += torch.bincount(bits.view(-1), minlength=NUM_MAGNITUDES).cpu()
        known = self._peaks.get(place.step)
        if known is None or values_of(torch.tensor(top)).item() > known.absmax:  # strictly: the first of equals stays
            absmax = values_of(torch.tensor(top)).item()
            self._peaks[place.step] = Peak(
                step=place.step, absmax=absmax, prompt=place.prompt, position=position, channel=channel
            )

    @property
    def peaks(self) -> tuple[Peak, ...]:
        """The largest magnitude of each step, in order."""
        return tuple(self._peaks[step] for step in sorted(self._peaks))

    @property
    def num_values(self) -> int:
        """How many were counted, zeros included."""
        return int(self.counts.sum())

    @property
    def absmax(self) -> float:
        """The largest magnitude; 0 if nothing was counted."""
        seen = self.counts.nonzero()
        return values_of(seen[-1]).item() if len(seen) else 0.0

    def percentile(self, percent: float) -> float:
        """The smallest magnitude that at least this share of all values does not exceed; 0 if nothing was counted."""
        if not self.num_values:
            return 0.0
        wanted = -(-self.num_values * percent // 100)  # the ceiling
        place = torch.searchsorted(self.counts.cumsum(0), torch.tensor(max(1, int(wanted))))
        return values_of(place).item()

    def num_clipped(self, scale: float) -> int:
        """Values that would round to more than the largest number of FP8 under a scale."""
        return int(self.counts[self._magnitudes > scale * CLIPPED_FROM].sum())

    def num_flushed(self, scale: float) -> int:
        """Values other than zero that a scale makes zero."""
        magnitudes = self._magnitudes
        return int(self.counts[(magnitudes > 0) & (magnitudes <= scale * ROUNDS_TO_ZERO)].sum())

    @property
    def _magnitudes(self) -> Tensor:
        """[32768] float64 by bit pattern; NaN and infinity, which are never counted, come out as they are."""
        return values_of(torch.arange(NUM_MAGNITUDES)).double()


def values_of(bits: Tensor) -> Tensor:
    """The bfloat16 numbers, as float32, that bit patterns without a sign stand for.

    >>> values_of(torch.tensor([0, 0x3F80, 0x4000]))
    tensor([0., 1., 2.])
    """
    return bits.to(torch.int16).view(torch.bfloat16).float()
