"""A draft's KV cache in FP8: what attention reads back of the keys and values that were stored.

vLLM stores ``x / scale``, cut off at ±448, and reads ``q * scale`` in the queries' dtype. Sources, vLLM 0.32, below
``v1/attention/ops``: ``triton_reshape_and_cache_flash.py``, `reshape_and_cache_kernel_flash`, for the one, and
``triton_unified_attention.py``, `_cast_kv_tile`, for the other. Keys are stored after RoPE. What some attention kernels
do beside it, quantizing queries and probabilities too (FlashAttention 3, AITER), is not emulated.

The scales are those of the checkpoint, ``self_attn.k_scale`` and ``self_attn.v_scale``. Where it has none, vLLM takes 1
(``layers/quantization/kv_cache.py``, `process_weights_after_loading`): values above 448 are cut off, and those below
2**-10 vanish. Quark's scales are rounded to the model's dtype, in which their parameters are made
(`KVCacheScaleParameter` there); those of compressed-tensors stay float32 (``compressed_tensors.py``,
`CompressedTensorsKVCacheMethod.create_weights`).

A latent cache (MLA) is stored and read in the same way, latents and turned keys under one scale
(``triton_decode_attention.py``), which is always 1: no scale of the checkpoint is loaded (`deploy.kv_cache`). There the
rows of a prefill see each other's latents as they were before they were stored (``layers/attention/mla_attention.py``,
`forward_mha`); here they see them as every later row does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from quark_eagle.fp8 import FP8_DTYPE, FP8_MAX
from quark_eagle.model.eagle3 import Eagle3Draft

KvCacheDtype = Literal["auto", "fp8"]
"""As vLLM's option of that name: the dtype of the model, or float8_e4m3fn."""
KV_CACHE_DTYPES: tuple[KvCacheDtype, ...] = get_args(KvCacheDtype)


@dataclass(frozen=True, slots=True)
class Fp8Cache:
    """Keys or values of one layer on their way through an FP8 cache.

    >>> Fp8Cache(torch.tensor(0.5))(torch.tensor([1.0, 300.0])).tolist()
    [1.0, 224.0]
    """

    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` [...] as it is read back, in its own dtype."""
        q = (x.float() / self.scale).clamp(-FP8_MAX, FP8_MAX).to(FP8_DTYPE)
        return (q.float() * self.scale).to(x.dtype)


def store_in(draft: Eagle3Draft, dtype: KvCacheDtype, *, rounds_scales: bool = False) -> None:
    """Have a draft keep its KV cache in this dtype from now on.

    Args:
        draft: that stores.
        dtype: of the cache.
        rounds_scales: whether the engine rounds the checkpoint's scales to the model's dtype.
    """
    draft.caches.clear()
    if dtype == "fp8":
        draft.caches.update(_fp8_caches(draft, draft.dtype if rounds_scales else torch.float32))


def has_cache_scales(draft: Eagle3Draft) -> bool:
    """Whether the checkpoint has scales of its own for an FP8 cache, for every layer, that an engine takes."""
    if draft.geometry.mla is not None:
        return False
    layers = range(draft.geometry.num_layers)
    return all(name in draft.weights for layer in layers for name in _scale_names(layer).values())


def _fp8_caches(draft: Eagle3Draft, scale_dtype: torch.dtype) -> Iterator[tuple[str, Fp8Cache]]:
    one = torch.ones((), device=draft.device)
    for layer in range(draft.geometry.num_layers):
        for kind, name in _scale_names(layer).items():
            scale = draft.weights.get(name, one) if draft.geometry.mla is None else one
            as_loaded = scale.reshape(()).to(scale_dtype).float()
            yield f"layers.{layer}.self_attn.{kind}", Fp8Cache(as_loaded)


def _scale_names(layer: int) -> dict[str, str]:
    return {"keys": f"layers.{layer}.self_attn.k_scale", "values": f"layers.{layer}.self_attn.v_scale"}
