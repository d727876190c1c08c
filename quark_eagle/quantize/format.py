"""Format: the ways to write an FP8 draft down. The FP8 payload is the same bit for bit; scales and config differ.

Both formats say the same of a draft, and vLLM multiplies with the same numbers. Quark's is what AMD ships;
compressed-tensors' is what vLLM's own tools and most published FP8 checkpoints use.
"""

from __future__ import annotations

from enum import Enum

from quark_eagle.quantize.scheme import Granularity


class Format(str, Enum):
    """How scales and config are spelled; the value is the ``quant_method`` of config.json."""

    QUARK = "quark"
    """As AMD Quark 0.13 exports it."""

    COMPRESSED_TENSORS = "compressed-tensors"
    """As compressed-tensors 0.17 saves it (``quantization/lifecycle/initialize.py``, `initialize_qparams`)."""

    @property
    def shape_of_one(self) -> tuple[int, ...]:
        """Of a scale that a whole tensor shares."""
        return () if self is Format.QUARK else (1,)

    def weight_scale_shape(self, weight: Granularity, out_features: int) -> tuple[int, ...]:
        """Of ``weight_scale``, beside a weight [out_features, in_features].

        >>> Format.QUARK.weight_scale_shape("per_channel", 64)
        (64,)
        >>> Format.COMPRESSED_TENSORS.weight_scale_shape("per_channel", 64)
        (64, 1)
        """
        if weight == "per_tensor":
            return self.shape_of_one
        return (out_features,) if self is Format.QUARK else (out_features, 1)

    def cache_scale_name(self, projection: str) -> str:
        """The scale of the keys, or the values, in the KV cache, in either format a part of the attention.

        All of vLLM 0.19 to 0.32 take these to ``attn.k_scale`` and ``attn.v_scale`` (``weight_utils.py``,
        `maybe_remap_kv_scale_name`, and since 0.25 ``base_config.py``, `get_cache_scale_mapper`). Quark writes them so
        in its ``fp8`` mode. In its own it calls them ``k_proj.output_scale`` and ``v_proj.output_scale``, at which vLLM
        0.32 stops (seen on a Llama draft): its loader makes ``qkv_proj`` of ``k_proj`` before it looks for them.

        Args:
            projection: name on disk of the module that makes them.

        >>> Format.QUARK.cache_scale_name("midlayer.self_attn.k_proj")
        'midlayer.self_attn.k_scale'
        """
        attention, _, part = projection.rpartition(".")
        return f"{attention}.{part.removesuffix('_proj')}_scale"
