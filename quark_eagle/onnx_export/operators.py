"""Linear layers, in FP8 or not, and norms as ONNX nodes.

To be read beside `quark_eagle.model.linear` and `quark_eagle.fp8`, whose arithmetic it is, in float32. A runtime that
fuses Q, DQ and product into an FP8 product computes the same sum, for the product of two FP8 numbers is a float32.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from quark_eagle.fp8 import FP8_MAX, SMALLEST_ACTIVATION_SCALE
from quark_eagle.onnx_export.graph import GraphBuilder

_E4M3 = TensorProto.FLOAT8E4M3FN


def linear(g: GraphBuilder, module: str, x: str) -> str:
    """``x`` [..., in] → [..., out]: both sides through FP8 where the checkpoint's weight is in it."""
    with g.scope(module):
        if g.tensors.is_fp8(module):
            x = _through_fp8(g, module, x)
        y = g("MatMul", x, g("Transpose", matrix(g, module), perm=[1, 0]))
        return g("Add", y, g.wide(f"{module}.bias")) if g.tensors.has(f"{module}.bias") else y


def matrix(g: GraphBuilder, module: str) -> str:
    """A weight [out, in] as float32, by one scale for each output channel (axis 0) or by a single one if it is FP8."""
    if not g.tensors.is_fp8(module):
        return g.wide(f"{module}.weight")
    num_scales = g.tensors.num_scales(module)
    if num_scales == 1:
        return g("DequantizeLinear", g.weight(f"{module}.weight"), _scale(g, f"{module}.weight_scale", []))
    scale = _scale(g, f"{module}.weight_scale", [num_scales])
    return g("DequantizeLinear", g.weight(f"{module}.weight"), scale, axis=0)


def _scale(g: GraphBuilder, canonical: str, dims: list[int]) -> str:
    """A scale as float32; on disk it may be [out] or [out, 1], a scalar or [1]."""
    g.weight(canonical, dims)
    return g.wide(canonical)


def _through_fp8(g: GraphBuilder, module: str, x: str) -> str:
    """``x`` [..., in] quantized and dequantized: by the calibrated scale if the module has one, else per token.

    Per token is as vLLM does it at run time (0.32, ``input_quant_fp8.py``): amax / 448, not below a smallest scale. A
    token is a block as wide as the layer. Layers that read the same states share the nodes.
    """
    if g.tensors.has(f"{module}.input_scale"):
        scale = _scale(g, f"{module}.input_scale", [])
        return g("DequantizeLinear", g("QuantizeLinear", x, scale, output_dtype=_E4M3), scale)
    amax = g.once("ReduceMax", g.once("Abs", x), g.constant([-1], np.int64), keepdims=1)
    scale = g.once("Max", g.once("Div", amax, g.constant(FP8_MAX)), g.constant(SMALLEST_ACTIVATION_SCALE))
    width = g.tensors.info(f"{module}.weight").shape[1]
    quantized = g.once("QuantizeLinear", x, scale, axis=-1, block_size=width, output_dtype=_E4M3)
    return g.once("DequantizeLinear", quantized, scale, axis=-1, block_size=width)


def rms_norm(g: GraphBuilder, module: str, x: str, eps: float) -> str:
    """RMSNorm of the last dimension."""
    with g.scope(module):
        mean = g("ReduceMean", g("Mul", x, x), g.constant([-1], np.int64), keepdims=1)
        root = g("Sqrt", g("Add", mean, g.constant(eps)))
        return g("Mul", g("Div", x, root), g.wide(f"{module}.weight"))
