"""Quark: AMD Quark's own arithmetic, a block of rows at a time. The only import of ``quark``.

Quark's public call, ``ModelQuantizer.direct_quantize_checkpoint``, holds the whole file in memory, writes in place,
and logs errors instead of raising them. So the scheme is taken from its public ``LLMTemplate``, and the rows go to the
function that the public call itself uses for each weight, which is not public: ``_single_stage_quantize_weight``. With
one scale per row no row knows of another, so blocks of rows give the same bytes. Where a whole tensor shares a scale,
each block is given one row more, which holds the tensor's largest magnitude, and comes back without it.
tests/quantize/test_quark_backend.py holds payload and scales bit-identical to the public call's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from quark_eagle.errors import QuantizationError
from quark_eagle.quantize.quark_import import importing
from quark_eagle.quantize.scheme import Granularity, Scheme

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_ELEMENTS = 1 << 22
"""Elements in a block of rows: large enough that Quark's 0.3 ms per call vanish, small enough for a few 16 MB."""


_WITH_THE_WEIGHTS: Mapping[Granularity, str] = {"per_channel": "ptpc_fp8", "per_tensor": "fp8"}
"""Quark's scheme whose weights have this granularity; of a scheme's activations the weights know nothing."""


@dataclass(frozen=True, slots=True)
class Quark:
    """Quark, imported and set to one scheme. Made by `load_quark`."""

    _quantize_weight: Any
    _weight_config: Any

    def quantize_rows(self, rows: Tensor, amax: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Some rows of a weight in FP8.

        Args:
            rows: [rows, in_features], bfloat16, float16 or float32.
            amax: [] in the rows' dtype, where the scheme has one scale for a whole weight: the largest magnitude of all
                that shares the scale with these rows. None where each row has its own.

        Returns:
            Payload [rows, in_features] float8_e4m3fn, and scale float32, [rows] or, with `amax`, []. A scale is not
            finite where what it stands for holds NaN or an infinity: Quark's minimum and maximum carry both through.
        """
        import torch

        if amax is None:
            return self._quantize(rows)
        largest = rows.new_zeros(1, rows.shape[1])
        largest[0, 0] = amax
        payload, scale = self._quantize(torch.cat((rows, largest)))
        return payload[: len(rows)], scale

    def _quantize(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        made: dict[str, Tensor] = {}
        self._quantize_weight(
            tensor=rows,
            tensor_name="weight",
            layer_name="layer",
            weight_config=self._weight_config,
            quantized_tensors=made,
            safetensor_filename="",
        )
        return made["weight"], made["weight_scale"]


def require_quark() -> None:
    """Finds out without importing it whether Quark is installed.

    Raises:
        QuantizationError: it is not.
    """
    if find_spec("quark") is None:
        raise QuantizationError(
            "AMD Quark: not installed, but it does the quantization. Install it: pip install 'quark-eagle[quantize]'."
        )


def load_quark(scheme: Scheme) -> Quark:
    """Imports Quark, which takes 20 seconds the first time, and sets it to a scheme.

    Raises:
        QuantizationError: it cannot be imported, or this version lacks what is used.
    """
    require_quark()
    try:
        with importing():
            from quark.torch import LLMTemplate
            from quark.torch.quantization.file2file_quantization import _single_stage_quantize_weight

            config = LLMTemplate.get("llama").get_config(scheme=_WITH_THE_WEIGHTS[scheme.weight])
    except (ImportError, AttributeError, KeyError, ValueError) as error:
        raise QuantizationError(
            f"AMD Quark {quark_version()}: could not be used for {scheme.value} ({type(error).__name__}: {error}), but "
            "0.13 is known to work. Install that version: pip install 'amd-quark==0.13'."
        ) from error
    return Quark(_single_stage_quantize_weight, config.global_quant_config.weight)


def quark_version() -> str:
    """The installed version; "unknown" if its metadata is missing."""
    try:
        return version("amd-quark")
    except PackageNotFoundError:
        return "unknown"
