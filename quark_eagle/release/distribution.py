"""A distribution of more numbers than fit into memory: exact ranks and an exact histogram in two passes.

The bits of a float32 that is not negative, read as an integer, are in the order of the numbers (IEEE 754). So numbers
are counted by their upper 16 bits in a first pass, and in a second one by the lower 16 of those alone among which a
rank lies. Upper 16 bits are a bfloat16: between edges that are bfloat16 numbers, the first pass has counted exactly.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from quark_eagle.documents.weights import Distribution

if TYPE_CHECKING:
    import torch

HALF = 1 << 16
QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)

Chunks = Callable[[], Iterator["torch.Tensor"]]
"""Gives the same numbers each time: flat float32, finite, none negative."""


def distribution(chunks: Chunks, grid: Callable[[float, float], list[float]]) -> Distribution | None:
    """Of all numbers in the chunks; None if there is none.

    A quantile is the smallest number that so large a share of the numbers does not exceed: one that occurred.

    Args:
        chunks: read twice.
        grid: from the smallest and the largest number to the histogram's edges, each but the last a bfloat16 number.
    """
    upper = _counted(chunks, lambda bits: bits // HALF)
    count = int(upper.sum())
    if not count:
        return None
    ranks = [max(0, math.ceil(share * count) - 1) for share in QUANTILES]
    smallest, p1, p50, p99, largest = _at_ranks(chunks, upper, ranks)
    edges = grid(smallest, largest)
    starts = [_bits(edge) // HALF for edge in edges[:-1]]
    counts = [int(upper[low:high].sum()) for low, high in pairwise([*starts, HALF])]
    return Distribution(
        count=count, min=smallest, p1=p1, p50=p50, p99=p99, max=largest, edges=list(edges), counts=counts
    )


def quarters_of_octaves(smallest: float, largest: float) -> list[float]:
    """Edges 1, 1.25, 1.5, 1.75 and 2 times powers of two around positive numbers: one grid for all modules.

    >>> quarters_of_octaves(1.3, 2.0)
    [1.25, 1.5, 1.75, 2.0, 2.5]
    """
    octaves = range(math.frexp(smallest)[1] - 1, math.frexp(largest)[1] + 1)
    edges = [math.ldexp(1 + quarter / 4, octave) for octave in octaves for quarter in range(4)]
    below = [edge for edge in edges if edge <= smallest]
    return [below[-1], *(edge for edge in edges if smallest < edge <= largest), min(e for e in edges if e > largest)]


def _counted(chunks: Chunks, key: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """How many numbers have each key of 16 bits [65536] int64."""
    import torch

    total = torch.zeros(HALF, dtype=torch.int64)
    for chunk in chunks():
        total += torch.bincount(key(chunk.view(torch.int32)), minlength=HALF)
    return total


def _at_ranks(chunks: Chunks, upper: torch.Tensor, ranks: Sequence[int]) -> list[float]:
    """The numbers at these places, from 0, of all in order."""
    import torch

    up_to = upper.cumsum(0)
    bins = torch.searchsorted(up_to, torch.tensor(ranks), right=True).tolist()
    lower = {bin_: torch.zeros(HALF, dtype=torch.int64) for bin_ in bins}
    for chunk in chunks():
        bits = chunk.view(torch.int32)
        for bin_, counts in lower.items():
            counts += torch.bincount(bits[bits // HALF == bin_] % HALF, minlength=HALF)
    found = []
    for rank, bin_ in zip(ranks, bins, strict=True):
        inside = rank - (int(up_to[bin_ - 1]) if bin_ else 0)
        place = int(torch.searchsorted(lower[bin_].cumsum(0), inside, right=True))
        found.append(_number(bin_ * HALF + place))
    return found


def _bits(number: float) -> int:
    bits: int = struct.unpack("<I", struct.pack("<f", number))[0]
    assert bits % HALF == 0, f"{number} is no bfloat16"
    return bits


def _number(bits: int) -> float:
    number: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return number
