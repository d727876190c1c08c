"""DecoderLayer: one layer of a draft around its attention.

To be read beside `LlamaDecoderLayer` of vLLM 0.32's ``models/llama_eagle3.py``; the layers of ``qwen3_eagle3.py`` and
``deepseek_eagle3.py`` differ in their attention only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quark_eagle.model.grouped_query import GroupedQueryAttention
from quark_eagle.model.latent import LatentAttention
from quark_eagle.model.parts import Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInput:
    """What enters attention: ``x`` [..., hidden], twice that in the first layer, and the ``residual`` [..., hidden]."""

    x: Tensor
    residual: Tensor


class DecoderLayer:
    """Attention and MLP with a residual stream; the first layer reads the token's embedding beside the state."""

    def __init__(self, parts: Parts, index: int, dtype: torch.dtype) -> None:
        """``parts`` of the whole draft; ``index`` of the layer, from 0; ``dtype`` of activations."""
        self.parts, self.index, self.dtype = parts.below(f"layers.{index}."), index, dtype
        attention = self.parts.below("self_attn.")
        self.attention: GroupedQueryAttention | LatentAttention = (
            GroupedQueryAttention(attention, parts.geometry.sliding_windows[index])
            if parts.geometry.mla is None
            else LatentAttention(attention, dtype)
        )

    def enter(self, embeds: Tensor, state: Tensor) -> LayerInput:
        """What goes into attention, of the token's embedding and the residual stream so far, [..., hidden] each."""
        if self.index > 0:
            return LayerInput(x=self.parts.norm("input_layernorm", state), residual=state)
        normed = self.parts.norm("hidden_norm", state)
        x = torch.cat((self.parts.norm("input_layernorm", embeds), normed), dim=-1)
        return LayerInput(x=x, residual=normed if self.parts.flags.norm_before_residual else state)

    def leave(self, mixed: Tensor, residual: Tensor) -> Tensor:
        """The residual stream after this layer, [..., hidden], of what attention mixed."""
        residual = (self.attention.output(mixed).float() + residual.float()).to(self.dtype)
        x = self.parts.norm("post_attention_layernorm", residual)
        gate, up = self.parts.linear("mlp.gate_proj", x), self.parts.linear("mlp.up_proj", x)
        activated = (torch.nn.functional.silu(gate.float()) * up.float()).to(self.dtype)
        return (self.parts.linear("mlp.down_proj", activated).float() + residual.float()).to(self.dtype)
