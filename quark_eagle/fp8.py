"""The arithmetic of FP8: one scale per output channel or per tensor for weights, per token or static for activations.

FP8 here is ``float8_e4m3fn``: 4 exponent bits, 3 mantissa bits, largest finite value 448, no infinity. A group of
numbers (a weight row, or one token's activations) is divided by ``scale = amax / 448`` so that its largest element
lands on the largest FP8 value, and rounded to nearest. The scale is the number that multiplies on the way back, ``w ≈
scale * q``: it is what Quark and vLLM store as ``weight_scale``. (nanochat's and torchao's working scale is its
reciprocal.)

AMD Quark does the quantization of weights. What is here is the second road: the same numbers from the definition, to
check Quark's output, to bound its error, and to replay what an engine computes at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quark_eagle.errors import NonFiniteWeightError

FP8_DTYPE = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8_DTYPE).max  # 448
SMALLEST_ACTIVATION_SCALE = 1.0 / (FP8_MAX * 512.0)  # vLLM 0.32, input_quant_fp8.py: _FP8_MIN_SCALING_FACTOR
# Quark 0.13, observer.py, get_scale; any positive number would do.
SCALE_OF_A_ZERO_ROW = torch.finfo(torch.float32).eps


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Weight:
    """A linear weight in FP8: ``q`` [out, in] float8_e4m3fn and its dequantizing ``scale`` [out] or [] float32."""

    q: Tensor
    scale: Tensor

    def dequantize(self) -> Tensor:
        """The weight [out, in] in float32 that the engine computes with."""
        return self.q.float() * _beside(self.scale)


def quantize_per_channel(weight: Tensor) -> Fp8Weight:
    """A linear weight in FP8, one scale per output channel, bit for bit as Quark 0.13 makes it.

    The scale is float32, but Quark divides in the weight's own dtype, so a BF16 weight is rounded twice: to BF16 and to
    FP8. How far an element may move is `error_bound`.

    Args:
        weight: [out_features, in_features], bfloat16, float16 or float32.

    Raises:
        NonFiniteWeightError: an element is NaN or infinite. An infinite amax would make the scale infinite and silently
            zero the rest of its row.

    >>> quantize_per_channel(torch.tensor([[2.0, -4.0]])).scale * 448
    tensor([4.])
    """
    _require_finite(weight)
    scale = weight.abs().amax(dim=1).float() / FP8_MAX  # [out]
    scale = scale.masked_fill(scale == 0, SCALE_OF_A_ZERO_ROW)
    return Fp8Weight(q=_rounded(weight / scale.to(weight.dtype)[:, None]), scale=scale)


def quantize_per_tensor(weight: Tensor, amax: Tensor | None = None) -> Fp8Weight:
    """A linear weight in FP8 under one scale, bit for bit as Quark 0.13 makes it.

    Quark divides by the float32 scale here, and rounds the quotient to the weight's own dtype.

    Args:
        weight: [out_features, in_features], bfloat16, float16 or float32.
        amax: [] in the same dtype: the largest magnitude of all that shares the scale; the weight's own if None.

    Raises:
        NonFiniteWeightError: an element is NaN or infinite.

    >>> quantize_per_tensor(torch.tensor([[2.0], [-4.0]])).q.float().flatten().tolist()
    [224.0, -448.0]
    """
    _require_finite(weight)
    scale = (weight.abs().amax() if amax is None else amax).float() / FP8_MAX  # []
    scale = scale.masked_fill(scale == 0, SCALE_OF_A_ZERO_ROW)
    return Fp8Weight(q=_rounded((weight.float() / scale).to(weight.dtype)), scale=scale)


def _rounded(quotient: Tensor) -> Tensor:
    return quotient.float().clamp(-FP8_MAX, FP8_MAX).to(FP8_DTYPE)  # clamp: casts differ between torch versions


def _beside(scale: Tensor) -> Tensor:
    """A weight's scale, [out] or [], so that it multiplies the weight's rows."""
    return scale[:, None] if scale.dim() else scale


def _require_finite(weight: Tensor) -> None:
    if not weight.isfinite().all():
        row, column = (~weight.isfinite()).nonzero()[0].tolist()
        raise NonFiniteWeightError(
            f"a weight of shape {list(weight.shape)} is not finite at row {row}, column {column}. "
            "FP8 has no infinity. Repair the BF16 checkpoint before quantizing."
        )


def quantize_per_token(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Activations [tokens, in] as the engine quantizes them at run time.

    Returns ``q`` [tokens, in] float8_e4m3fn and ``scale`` [tokens, 1] float32. Source: vLLM 0.32
    ``QuantFP8.forward_native`` with ``GroupShape.PER_TOKEN``, reciprocal included.

    >>> q, scale = quantize_per_token(torch.tensor([[1.0, 7.0]]))
    >>> (q.float() * scale).tolist()
    [[1.0, 7.0]]
    """
    amax = activations.abs().amax(dim=-1, keepdim=True).float()
    scale = (amax / FP8_MAX).clamp(min=SMALLEST_ACTIVATION_SCALE)
    q = (activations.float() * scale.reciprocal()).clamp(-FP8_MAX, FP8_MAX).to(FP8_DTYPE)
    return q, scale


def quantize_static(activations: Tensor, scale: Tensor) -> Tensor:
    """Activations [tokens, in] as the engine quantizes them under a scale that was found before: [tokens, in] FP8.

    What exceeds ``448 * scale`` is cut off there. Source: vLLM 0.32, `QuantFP8.forward_native`, and the CUDA kernel
    that it stands for (``csrc/quantization/w8a8/fp8/common.cu``): both multiply by the scale's reciprocal.

    Args:
        activations: of any float dtype.
        scale: [] float32.

    >>> quantize_static(torch.tensor([[1.0, 900.0]]), torch.tensor(0.5)).float().tolist()
    [[2.0, 448.0]]
    """
    return (activations.float() * scale.float().reciprocal()).clamp(-FP8_MAX, FP8_MAX).to(FP8_DTYPE)


def error_bound(weight: Tensor, scale: Tensor) -> Tensor:
    """The largest distance [out, in] that quantizing may put between ``weight`` [out, in] and ``scale * q``.

    Rounding to FP8 moves an element of magnitude at least ``2**-6 * scale`` by at most 1/17 of itself (3 mantissa bits,
    round to nearest), a smaller one by at most ``2**-10 * scale``. Before that, dividing in the weight's dtype rounds
    twice, scale and quotient: by ``eps`` of that dtype together. Widened by 0.1 % for float32 arithmetic.
    """
    magnitude = weight.float().abs()
    rounding = torch.maximum(magnitude / 17.0, _beside(scale.float()) * 2.0**-10)
    return (rounding + magnitude * torch.finfo(weight.dtype).eps * 18.0 / 17.0) * 1.001
