"""Which FP8 matrix product a device has, and FP8 numbers in the format that its product reads.

torch multiplies FP8 matrices in `torch._scaled_mm`: with one scale for each row of the left one and each column of the
right one, which is PTPC, or with a single one for each of the two, which is Quark's scheme fp8. A single one on the
left beside one per column is the former with equal rows. Sources: torch 2.13,
``aten/src/ATen/native/cuda/ScaledBlas.cpp`` (`_scaled_mm_out_cuda`, `scaled_mm_arch_allowed`, `_scaled_mm_is_fnuz`) and
``torch/_meta_registrations.py`` (`_check_scaled_mm_sizes`): both operands FP8, the left one row-major and the right one
column-major, both its sizes multiples of 16, scales [rows, 1] and [1, columns] float32 and contiguous, or both of one
element; on ROCm (hipBLASLt) the output is bfloat16 and nothing else, and the format is float8_e4m3fn, except on gfx942,
which reads float8_e4m3fnuz. vLLM 0.32 runs the same products for a Quark draft on ROCm
(``kernels/linear/scaled_mm/pytorch.py``): `RowWiseTorchFP8ScaledMMLinearKernel` for PTPC, and for fp8
`PerTensorTorchFP8ScaledMMLinearKernel`.

Nothing of this file has been run on ROCm: it was written from these sources.
"""

from __future__ import annotations

import functools
import re
from enum import Enum

import torch
from torch import Tensor

_MULTIPLE = 16
_ROCM_E4M3FN = frozenset({"gfx950", "gfx1200", "gfx1201", "gfx1250"})
_ROCM_E4M3FNUZ = frozenset({"gfx942"})
_LEAST_SM = 89  # Ada; Hopper is 90, Blackwell 100 and above
_NEGATIVE_ZERO = 0x80


class Fp8Product(Enum):
    """How an FP8 product is computed."""

    WIDENED = "FP8 values widened to float32"
    SCALED_MM = "torch._scaled_mm, float8_e4m3fn"
    SCALED_MM_FNUZ = "torch._scaled_mm, float8_e4m3fnuz"


def fp8_product(arch: str | None, out_features: int, in_features: int, dtype: torch.dtype) -> Fp8Product:
    """The product for a weight [out_features, in_features] and activations of ``dtype`` on a GPU (None: on a CPU).

    A shape or a dtype that the device's product does not take is widened there as on a CPU: the numbers are the same.

    >>> fp8_product("gfx950", 7168, 12288, torch.bfloat16).name, fp8_product(None, 7168, 12288, torch.bfloat16).name
    ('SCALED_MM', 'WIDENED')
    """
    if dtype != torch.bfloat16 or out_features % _MULTIPLE or in_features % _MULTIPLE:
        return Fp8Product.WIDENED
    if arch in _ROCM_E4M3FNUZ:
        return Fp8Product.SCALED_MM_FNUZ
    capability = re.fullmatch(r"sm_(\d+)", arch or "")
    if arch in _ROCM_E4M3FN or (capability is not None and int(capability[1]) >= _LEAST_SM):
        return Fp8Product.SCALED_MM
    return Fp8Product.WIDENED


@functools.cache
def gpu_arch(device: torch.device) -> str | None:
    """What a GPU is: "gfx950" an MI355X, "sm_90" an H100; None of a CPU.

    ROCm names an architecture with its features ("gfx950:sramecc+:xnack-"), of which the first word counts.
    """
    if device.type != "cuda":
        return None
    found = torch.cuda.get_device_properties(device)
    gcn = getattr(found, "gcnArchName", "")  # ROCm's builds only
    return gcn.split(":")[0] if gcn else f"sm_{found.major}{found.minor}"


def as_fnuz(q: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """FP8 numbers ``scale * q`` with ``q`` float8_e4m3fn, as the same numbers with ``q`` float8_e4m3fnuz.

    The same bits mean half as much there, so scales double; those of -0 mean NaN, and become 0. Source: vLLM 0.32,
    ``quantization/utils/w8a8_utils.py``, `normalize_e4m3fn_to_e4m3fnuz`. On such a GPU vLLM quantizes activations to
    ±224 (``quant_utils.py``, `get_fp8_min_max`), which is ±448 in these bits: activations take the same road.

    >>> q, scale = as_fnuz(torch.tensor([448.0, -0.0]).to(torch.float8_e4m3fn), torch.tensor([0.5]))
    >>> (q.float() * scale).tolist()
    [224.0, 0.0]
    """
    bits = q.view(torch.uint8)
    return bits.masked_fill(bits == _NEGATIVE_ZERO, 0).view(torch.float8_e4m3fnuz), scale * 2
