"""The numbers themselves, read in pieces so that memory does not grow with the checkpoint: are they sane?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quark_eagle.checkpoint.reader import Checkpoint, TensorInfo
from quark_eagle.deploy.findings import FP8, Finding, errors
from quark_eagle.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Integer of the same width, and the bits that are all ones in NaN and infinity; e4m3fn has no infinity.
_NOT_FINITE = {
    "BF16": ("int16", 0x7F80),
    "F16": ("int16", 0x7C00),
    "F32": ("int32", 0x7F800000),
    FP8: ("uint8", 0x7F),
}


_SCALES = ("weight_scale", "input_scale", "output_scale", "k_scale", "v_scale")
_NEVER_FILLED = -3.4028234663852886e38
"""What vLLM gives every scale to begin with (``quark_w8a8_fp8.py``, `create_weights`): the lowest float32."""


def check_values(checkpoint: Checkpoint, progress: Progress = SILENT) -> list[Finding]:
    """Findings about values that no engine can use: NaN, infinity, a scale that is not positive."""
    found: list[Finding] = []
    with progress.task("check values", checkpoint.size_bytes) as task:
        for info in checkpoint.tensors.values():
            bad = 0
            if info.dtype in _NOT_FINITE:
                for piece in checkpoint.stream(info):
                    bad += count_not_finite(info.dtype, piece)
                    task.advance(len(piece))
            else:
                task.advance(info.size_bytes)
            kind = "are NaN (byte 0x7f or 0xff)" if info.dtype == FP8 else "are NaN or infinite"
            if bad:
                share = f"{bad} of {info.num_elements} numbers"
                found += errors(info.name, [f"{share} {kind}, and one spoils every output. Quantize again."], "content")
            elif info.name.endswith(_SCALES) and info.num_elements:
                found += _check_scale(checkpoint, info)
    return found


def check_vocabulary_map(checkpoint: Checkpoint, vocabulary: int) -> list[Finding]:
    """Findings about d2t: every draft token plus its offset must be a target token, and no two the same one."""
    import torch

    info = checkpoint.tensors.get("d2t")
    if info is None or info.dtype not in ("I64", "I32") or len(info.shape) != 1 or not info.num_elements:
        return []
    targets = (values_of(info, checkpoint.read_bytes(info)) + torch.arange(info.shape[0])).tolist()
    outside = sum(not 0 <= target < vocabulary for target in targets)
    doubled = len(targets) - len(set(targets))
    problems = []
    if outside:
        problems.append(f"maps {outside} of {len(targets)} draft tokens outside the vocabulary of {vocabulary}.")
    if doubled:
        problems.append(f"maps {doubled} of {len(targets)} draft tokens to a target token that another has.")
    return errors("d2t", [f"{problem} Copy it from the BF16 draft." for problem in problems], "content")


def count_not_finite(dtype: str, piece: bytes) -> int:
    """NaN and infinities among numbers of a dtype (safetensors' spelling), told by their bits.

    >>> count_not_finite("F8_E4M3", bytes([0x7E, 0x7F, 0xFF])), count_not_finite("BF16", bytes([0x80, 0x7F]))
    (2, 1)
    """
    import torch

    if not piece:
        return 0
    integer, mask = _NOT_FINITE[dtype]
    numbers = torch.frombuffer(bytearray(piece), dtype=getattr(torch, integer))
    return int(torch.count_nonzero(numbers.bitwise_and_(mask).eq_(mask)))


def values_of(info: TensorInfo, data: bytes) -> Tensor:
    """Bytes as numbers; in the tensor's shape if they are all of it."""
    import torch

    if not data:
        return torch.empty(info.shape)
    values = torch.frombuffer(bytearray(data), dtype=torch_dtype(info.dtype))
    return values.reshape(info.shape) if values.numel() == info.num_elements else values


def _check_scale(checkpoint: Checkpoint, info: TensorInfo) -> list[Finding]:
    smallest = float(values_of(info, checkpoint.read_bytes(info)).float().min())
    if smallest > 0:
        return []
    begun = ", the number that an engine begins with: none was ever written," if smallest == _NEVER_FILLED else ""
    problem = f"its smallest scale is {smallest:g}{begun} but a scale multiplies and must be positive."
    return errors(info.name, [problem], "content")


def torch_dtype(name: str) -> torch.dtype:
    """Of safetensors' name for it; bytes where torch has none."""
    import torch

    known = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
    known |= {FP8: torch.float8_e4m3fn, "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2": torch.float8_e5m2}
    return (known | {"I64": torch.int64, "I32": torch.int32}).get(name, torch.uint8)
