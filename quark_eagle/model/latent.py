"""LatentAttention: multi-head latent attention (MLA), of DeepSeek-type drafts.

To be read beside vLLM 0.32's ``models/deepseek_v2.py``, `DeepseekV2MLAAttention`, and
``layers/attention/mla_attention.py``. A row leaves one latent vector and one small key that holds its position; every
head makes its keys and values from the latent with its own rows of ``kv_b_proj``: W_UK above, W_UV below. Since
``q · (W_UK c) = (W_UK^T q) · c``, the latent can stay as it is: queries are taken into its space, and what attention
mixes is latents, taken out by W_UV. That is how vLLM decodes ("absorbed"), why its cache holds nothing but latents, and
why ``kv_b_proj`` is kept in high precision: there is no product with an activation for FP8 to speed up. The arithmetic
is that of grouped-query attention with one key-value head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quark_eagle.model.parts import Parts
from quark_eagle.model.rope import Rope, deepseek_score_factor


class LatentAttention:
    """Queries, keys and values of one layer in the latent space, and what becomes of the mix."""

    window = None

    def __init__(self, parts: Parts, dtype: torch.dtype) -> None:
        """``parts`` of ``layers.<i>.self_attn.``; ``dtype`` of activations, in which W_UK and W_UV multiply."""
        geometry, mla = parts.geometry, parts.geometry.mla
        assert mla is not None
        self.parts, self.mla, self.heads = parts, mla, geometry.num_attention_heads
        self.rope = Rope.deepseek(geometry.rope, mla.qk_rope_head_dim)
        self.scale = geometry.head_dim**-0.5 * deepseek_score_factor(geometry.rope)
        expand = parts.weight("kv_b_proj.weight").to(dtype)
        if parts.has("kv_b_proj.weight_scale"):  # vLLM dequantizes it: get_and_maybe_dequant_weights
            expand = (expand.float() * parts.weight("kv_b_proj.weight_scale").reshape(-1, 1)).to(dtype)
        by_head = expand.reshape(self.heads, mla.qk_nope_head_dim + mla.v_head_dim, mla.kv_lora_rank)
        self.key_rows, self.value_rows = torch.split(by_head, [mla.qk_nope_head_dim, mla.v_head_dim], dim=1)

    def queries(self, x: Tensor, positions: Tensor) -> Tensor:
        """[..., heads, kv_lora_rank + qk_rope_head_dim] of layer inputs ``x``: in latent space, and by position."""
        if self.mla.q_lora_rank is None:
            q = self.parts.linear("q_proj", x)
        else:
            q = self.parts.linear("q_b_proj", self.parts.norm("q_a_layernorm", self.parts.linear("q_a_proj", x)))
        by_head = q.reshape(*x.shape[:-1], self.heads, -1)
        content, place = torch.split(by_head, [self.mla.qk_nope_head_dim, self.mla.qk_rope_head_dim], dim=-1)
        latent = torch.einsum("...hn,hnr->...hr", content.float(), self.key_rows.float()).to(x.dtype)
        return torch.cat((latent, self.rope(place, positions)), dim=-1)

    def keys_values(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [..., 1, kv_lora_rank + qk_rope_head_dim], and the latents in them [..., 1, kv_lora_rank] as values."""
        made = self.parts.linear("kv_a_proj_with_mqa", x)
        latent, place = torch.split(made, [self.mla.kv_lora_rank, self.mla.qk_rope_head_dim], dim=-1)
        latent = self.parts.norm("kv_a_layernorm", latent)[..., None, :]
        keys = self.parts.cached("keys", torch.cat((latent, self.rope(place[..., None, :], positions)), dim=-1))
        return keys, keys[..., : self.mla.kv_lora_rank]

    def output(self, mixed: Tensor) -> Tensor:
        """[..., hidden] of the mix of latents [..., heads * kv_lora_rank]."""
        latents = mixed.reshape(*mixed.shape[:-1], self.heads, self.mla.kv_lora_rank)
        values = torch.einsum("...hr,hvr->...hv", latents.float(), self.value_rows.float()).to(mixed.dtype)
        return self.parts.linear("o_proj", values.flatten(-2))
