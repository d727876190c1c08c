"""What a weight loses in FP8, and the sums that every such loss is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quark_eagle.documents.schemes import Error, decibels

BLOCK_ELEMENTS = 1 << 22  # widened to float64 at once


@dataclass(slots=True, kw_only=True)
class Sums:
    """Sums of squares in float64, of what is exact and of the difference to it."""

    num_values: int = 0
    signal: float = 0.0
    noise: float = 0.0

    def see(self, exact: Tensor, quantized: Tensor) -> None:
        """Add values [...] of BF16 and those in their place."""
        wide = exact.double()
        self.num_values += wide.numel()
        self.signal += float(wide.square().sum())
        self.noise += float((quantized.double() - wide).square().sum())

    def error(self) -> Error:
        """As the document holds it."""
        noise = self.noise if math.isfinite(self.noise) else None
        return Error(
            num_values=self.num_values,
            signal_energy=self.signal,
            noise_energy=noise,
            sqnr_db=decibels(self.signal, noise),
        )


def weight_error(exact: Tensor, payload: Tensor, scale: Tensor) -> Error:
    """Of a weight against ``scale * payload``, which is what an engine multiplies with.

    Args:
        exact: [out, in] bfloat16, float16 or float32.
        payload: [out, in] float8_e4m3fn.
        scale: [out] or [] float32.
    """
    sums = Sums()
    rows = max(1, BLOCK_ELEMENTS // exact.shape[1])
    scales = scale.reshape(-1, 1).double().expand(len(exact), 1)
    parts = (torch.split(tensor, rows) for tensor in (exact, payload, scales))
    for before, q, beside in zip(*parts, strict=True):
        sums.see(before, q.double() * beside)
    return sums.error()
