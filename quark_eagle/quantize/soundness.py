"""Weights that cannot be put into FP8: not finite, vanishing in their dtype, or changed by vLLM when it loads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import QuantizationError, findings
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.quark_backend import BLOCK_ELEMENTS
from quark_eagle.quantize.streaming import row_blocks

if TYPE_CHECKING:
    from torch import Tensor

FP8_MAX = 448.0
SMALLEST_KEPT_SCALE = 2.0**-15
LARGEST_KEPT_SCALE = 65504.0 / FP8_MAX  # FP16's largest number


def non_finite_weights(checkpoint: Checkpoint, plan: QuantPlan) -> str:
    """Every weight to quantize that is not finite, with count and first place, as a message."""
    problems = []
    for name in plan.quantized:
        count, first = 0, ""
        for first_row, rows in row_blocks(checkpoint, checkpoint.tensors[name], BLOCK_ELEMENTS):
            places = (~rows.isfinite()).nonzero()
            if len(places) and not count:
                row, column = places[0].tolist()
                first = f"row {first_row + row}, column {column}: {rows[row, column].item()}"
            count += len(places)
        if count:
            total = checkpoint.tensors[name].num_elements
            problems.append(f"{name}: {count} of {total} elements are not finite (first at {first}).")
    advice = (
        "FP8 has no infinity, and one NaN spoils its row. Repair the draft before quantizing, or --keep the weight."
    )
    return findings(str(checkpoint.directory), problems, advice)


def require_divisible(checkpoint: Checkpoint, name: str, first_row: int, rows: Tensor, scale: Tensor) -> None:
    """Refuses rows whose scale is too small for the weight's own dtype, in which Quark 0.13 divides by it.

    In BF16 that takes weights below 1e-35. In F16 it happens to rows whose largest weight is below 0.01: the scale
    becomes subnormal, then zero, and the row's payload noise or NaN, without an error.

    Args:
        checkpoint: the input, to be named.
        name: of the weight.
        first_row: the number of the first of `rows`.
        rows: [rows, in_features], as they are on disk.
        scale: [rows] float32, finite.

    Raises:
        QuantizationError: a scale changes by more than BF16 rounds (2**-8) when it takes on the weight's dtype.
    """
    lost = (scale.to(rows.dtype).float() - scale).abs() > scale * 2.0**-8
    if not lost.any():
        return
    row = int(lost.nonzero()[0])
    amax, dtype = rows[row].abs().max().item(), checkpoint.tensors[name].dtype
    place = f"row {first_row + row}: at most {amax:.3g}"
    raise QuantizationError(
        f"{checkpoint.directory}: {name} has weights too small for {dtype} ({place}). Quark divides a row by its scale "
        "in that dtype, and would write noise. Convert the draft to F32 first, or --keep the weight."
    )


def require_kept_by_vllm(checkpoint: Checkpoint, name: str, scale: Tensor) -> None:
    """Refuses a weight that vLLM would not run as it is written, because its one scale is too small or too large.

    vLLM 0.19 to 0.32 take every weight with a per-tensor scale through FP16 when they load it (``w8a8_utils.py``,
    `requantize_with_max_scale`): ``q * scale`` is rounded there and quantized again to the same scale. FP16 moves
    a number by ``2**-25`` at most where it is coarsest. That is less than half a step of FP8, ``2**-10 * scale`` at
    least, if the scale is ``2**-15`` or more; and ``448 * scale`` must not overflow.

    Args:
        checkpoint: the input, to be named.
        name: of the weight.
        scale: [] float32, finite.

    Raises:
        QuantizationError: the scale is outside of that.
    """
    if SMALLEST_KEPT_SCALE <= scale.item() <= LARGEST_KEPT_SCALE:
        return
    amax = scale.item() * FP8_MAX
    raise QuantizationError(
        f"{checkpoint.directory}: {name} has weights of at most {amax:.3g}, but under one scale for all they must "
        f"reach {SMALLEST_KEPT_SCALE * FP8_MAX:.3g} and not exceed {LARGEST_KEPT_SCALE * FP8_MAX:.6g}. vLLM takes "
        "such a weight through FP16 at load, and would run other bytes than these. Take a scheme with a scale per "
        "channel, or --keep the weight."
    )
