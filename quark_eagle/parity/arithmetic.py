"""What a replayed draft computed in FP8, and by what: the evidence says which it was."""

from __future__ import annotations

from typing import Literal

from quark_eagle.documents.arithmetic import Fp8Arithmetic
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.model.fp8_product import Fp8Product, fp8_product, gpu_arch
from quark_eagle.model.kv_cache import KvCacheDtype, has_cache_scales
from quark_eagle.model.linear import Linear


def fp8_arithmetic(draft: Eagle3Draft, kv_cache_dtype: KvCacheDtype) -> Fp8Arithmetic | None:
    """Of a draft whose KV cache has this dtype; None if nothing of it is in FP8."""
    linears = [linear for linear in draft.linears.values() if isinstance(linear, Linear) and linear.scale is not None]
    if not linears and kv_cache_dtype == "auto":
        return None
    arch = gpu_arch(draft.device)
    products = {fp8_product(arch, linear.out_features, linear.weight.shape[1], draft.dtype) for linear in linears}
    is_static = any(linear.input_scale is not None for linear in linears)
    has_scales: Literal["checkpoint", "1.0"] = "checkpoint" if has_cache_scales(draft) else "1.0"
    return Fp8Arithmetic(
        products=None if not linears else "emulated" if Fp8Product.WIDENED in products else "device",
        activation_scales=None if not linears else "static" if is_static else "per token",
        kv_cache_dtype=kv_cache_dtype,
        kv_cache_scales=has_scales if kv_cache_dtype == "fp8" else None,
    )
