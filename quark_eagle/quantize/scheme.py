"""Scheme: the ways to quantize a draft, what each needs, and which engines run it.

Where an engine runs a scheme was read in its source; of the three devices only the CPU was at hand.

* vLLM, all versions from 0.19 to 0.32 alike: ``layers/quantization/quark/quark.py`` (`_is_fp8_w8a8`) accepts the three,
  ``schemes/quark_w8a8_fp8.py`` builds their parameters, and ``kernels/linear`` chooses the product
  (`_POSSIBLE_FP8_KERNELS`). A per-tensor input beside a per-channel weight is left to CUTLASS on CUDA. On ROCm only
  `ChannelWiseTorchFP8ScaledMMLinearKernel` takes the pair (``scaled_mm/pytorch.py``), and it cuts the input's scale to
  one row per token (``torch.narrow``), which fails for the one number that a static scale is.
* vLLM's CPU build has no ``static_scaled_fp8_quant``: with ``fp8`` it stops while loading, where weights are brought to
  one scale (``w8a8_utils.py``, `requantize_with_max_scale`), with ``fp8_channel_static`` in the first forward pass.
* SGLang has a copy of vLLM's class (``layers/quantization/quark/schemes/quark_w8a8_fp8.py``) and leaves the product to
  `apply_fp8_linear`. It was only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from quark_eagle.checkpoint.reader import TensorInfo
from quark_eagle.errors import UsageError

Granularity = Literal["per_tensor", "per_channel", "per_token"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Whether an engine runs a scheme on a kind of device.

    Attributes:
        engine: its name, with versions.
        device: "ROCm", "CUDA" or "CPU".
        runs: the answer.
        how: by what product, or why not.
        seen: whether it was tried; else it was read in the source.
    """

    engine: str
    device: Literal["ROCm", "CUDA", "CPU"]
    runs: bool
    how: str
    seen: bool = False


class Scheme(str, Enum):
    """A quantization scheme; the value is what the command line and ``quark_eagle.json`` call it.

    ``ptpc_fp8`` and ``fp8`` are Quark's own names (``LLMTemplate.get_config(scheme=…)``). Quark has no name for
    ``fp8_channel_static``, only the parts it is made of.
    """

    PTPC_FP8 = "ptpc_fp8"
    """Per-channel weights; per-token activations, scaled at run time. What AMD ships."""

    FP8 = "fp8"
    """Per-tensor weights and static per-tensor activations."""

    FP8_CHANNEL_STATIC = "fp8_channel_static"
    """Per-channel weights and static per-tensor activations."""

    @classmethod
    def named(cls, name: str) -> Scheme:
        """The scheme of this name.

        Raises:
            UsageError: there is none; if Quark has one of that name, the message says why it is not made here.

        >>> Scheme.named("fp8").needs_calibration
        True
        """
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(scheme.value for scheme in cls)
            why = REFUSED.get(name, "is not known")
            raise UsageError(f"--scheme {name}: {why}. What engines run for an Eagle3 draft: {known}.") from None

    @classmethod
    def of(cls, tensors: Mapping[str, TensorInfo]) -> Scheme | None:
        """The scheme whose scales lie beside the weights of a checkpoint; None if it is none of these.

        Args:
            tensors: of the checkpoint, by name.
        """
        scales = [info.shape for name, info in tensors.items() if name.endswith(".weight_scale")]
        is_static = any(name.endswith(".input_scale") for name in tensors)
        if not scales or any(len(shape) > 1 and shape[1] > 1 for shape in scales):
            return None
        if all(shape in ((), (1,)) for shape in scales):
            return cls.FP8 if is_static else None
        return cls.FP8_CHANNEL_STATIC if is_static else cls.PTPC_FP8

    @property
    def weight(self) -> Granularity:
        """What shares a scale in a weight [out_features, in_features]: each row, or all of it."""
        return "per_tensor" if self is Scheme.FP8 else "per_channel"

    @property
    def activation(self) -> Granularity:
        """What shares a scale in activations [tokens, in_features]: each row, or all that ever come."""
        return "per_token" if self is Scheme.PTPC_FP8 else "per_tensor"

    @property
    def needs_calibration(self) -> bool:
        """Whether activations must be observed first; PTPC's scales are made anew for every token."""
        return self.activation == "per_tensor"

    @property
    def weight_dtype(self) -> str:
        """Of a quantized weight [out_features, in_features], in safetensors' spelling: e4m3fn on every machine.

        vLLM converts at load where the hardware computes in e4m3fnuz (MI300).
        """
        return "F8_E4M3"

    @property
    def scale_dtype(self) -> str:
        """Of ``weight_scale`` and ``input_scale``, in safetensors' spelling."""
        return "F32"

    @property
    def engines(self) -> tuple[Runs, ...]:
        """Where it runs, and where it does not."""
        return _ENGINES[self]


_VLLM, _SGLANG = "vLLM 0.19-0.32", "SGLang"
_NO_STATIC_ON_CPU = "its CPU build has no static_scaled_fp8_quant"

_ENGINES: Mapping[Scheme, tuple[Runs, ...]] = {
    Scheme.PTPC_FP8: (
        Runs(
            engine=_VLLM, device="ROCm", runs=True, how="AITER where tuned for the shape, else torch._scaled_mm by rows"
        ),
        Runs(engine=_VLLM, device="CUDA", runs=True, how="CUTLASS"),
        Runs(engine=_VLLM, device="CPU", runs=True, how="torch._scaled_mm, scaled afterwards", seen=True),
        Runs(engine=_SGLANG, device="ROCm", runs=True, how="apply_fp8_linear, per token"),
    ),
    Scheme.FP8: (
        Runs(engine=_VLLM, device="ROCm", runs=True, how="skinny product up to 4 tokens, else torch._scaled_mm"),
        Runs(engine=_VLLM, device="CUDA", runs=True, how="FlashInfer or CUTLASS"),
        Runs(engine=_VLLM, device="CPU", runs=False, how=f"stops while loading: {_NO_STATIC_ON_CPU}", seen=True),
        Runs(engine=_SGLANG, device="ROCm", runs=True, how="apply_fp8_linear with input_scale"),
    ),
    Scheme.FP8_CHANNEL_STATIC: (
        Runs(engine=_VLLM, device="ROCm", runs=False, how="no kernel takes one input scale beside one per channel"),
        Runs(engine=_VLLM, device="CUDA", runs=True, how="CUTLASS"),
        Runs(engine=_VLLM, device="CPU", runs=False, how=f"stops in the forward pass: {_NO_STATIC_ON_CPU}", seen=True),
        Runs(engine=_SGLANG, device="ROCm", runs=True, how="apply_fp8_linear with input_scale"),
    ),
}

_NOT_FP8 = "is a scheme of Quark's, but not of FP8, which is all that was measured for drafts here"
_NO_CLASS = "is a scheme of Quark's, but vLLM has no class for it and stops"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("int8", "int4_wo_32", "int4_wo_64", "int4_wo_128"), _NOT_FP8),
    **dict.fromkeys(("uint4_wo_32", "uint4_wo_64", "uint4_wo_128"), _NOT_FP8),
    **dict.fromkeys(("mxfp4", "mxfp4_weight_only", "mxfp4_fp8", "nvfp4", "fp4_block16_scale_e4m3"), _NOT_FP8),
    **dict.fromkeys(("mxfp6_e3m2", "mxfp6_e2m3", "mxfp4_mxfp6_e2m3"), _NOT_FP8),
    **dict.fromkeys(
        ("int4_fp8", "int4_wa_64", "int4_wo_per_channel", "uint4_wo_per_channel", "mx6", "mx9", "bfp16"), _NO_CLASS
    ),
    **dict.fromkeys(("amdfp4", "amdfp4_g32", "amdfp4_global16", "amdfp4_global32"), _NO_CLASS),
    "fp8_weight_only": "has no input_tensors, and vLLM stops with NotImplementedError",
}
"""Names of Quark 0.13's that are not made here, and why; a test asks Quark for its names and vLLM for each class."""

PTPC_FP8 = Scheme.PTPC_FP8
