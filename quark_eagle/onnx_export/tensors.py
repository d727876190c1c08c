"""DraftTensors: the checkpoint's tensors by canonical name, described as ONNX describes them; no value is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import TensorProto

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint, TensorInfo

# Both formats are little-endian and row-major, so that the bytes are the same.
_DTYPES = {
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "F8_E4M3": TensorProto.FLOAT8E4M3FN,
    "I64": TensorProto.INT64,
    "I32": TensorProto.INT32,
}

# (one scale for a whole weight, a calibrated input scale) → what Quark calls it.
_SCHEMES = {(False, False): "ptpc_fp8", (True, True): "fp8", (False, True): "fp8_channel_static"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftTensors:
    """The tensors of a draft on disk."""

    checkpoint: Checkpoint
    layout: Eagle3Layout

    def has(self, canonical: str) -> bool:
        """Whether there is one of that name."""
        return self.layout.has(canonical)

    def info(self, canonical: str) -> TensorInfo:
        """Where it lies, and its dtype and shape there."""
        return self.checkpoint.info(self.layout.by_canonical[canonical])

    def dtype(self, canonical: str) -> int:
        """Its ``TensorProto.DataType``."""
        return _DTYPES[self.info(canonical).dtype]

    def is_exportable(self, canonical: str) -> bool:
        """Whether ONNX has its dtype."""
        return self.info(canonical).dtype in _DTYPES

    def is_fp8(self, module: str) -> bool:
        """Whether the weight of a linear layer is FP8."""
        return self.info(f"{module}.weight").dtype == "F8_E4M3"

    def has_scale(self, module: str) -> bool:
        """Whether its FP8 weight has a scale for all of it, or for each output channel."""
        return self.has(f"{module}.weight_scale") and self.num_scales(module) in (
            1,
            self.info(f"{module}.weight").shape[0],
        )

    def num_scales(self, module: str) -> int:
        """How many scales its weight has: 1, or one for each output channel, whatever their shape on disk."""
        return math.prod(self.info(f"{module}.weight_scale").shape)

    @property
    def scheme(self) -> str:
        """Which scheme the linear layers are in, as Quark calls it, told by their tensors; "none" without FP8."""
        weights = (name.removesuffix(".weight") for name in self.layout.by_canonical if name.endswith(".weight"))
        kinds = {
            (self.num_scales(module) == 1, self.has(f"{module}.input_scale"))
            for module in weights
            if self.is_fp8(module) and ".kv_b_proj" not in module  # has no product of its own
        }
        if not kinds:
            return "none"
        return _SCHEMES.get(kinds.pop(), "mixed") if len(kinds) == 1 else "mixed"
