"""GroupedQueryAttention: the attention of Llama-type and Qwen3 drafts.

To be read beside vLLM 0.32's ``models/llama.py``, `LlamaAttention`, and ``models/qwen3.py``, `Qwen3Attention`, which is
the same with a norm on the heads of queries and keys before they are turned.
"""

from __future__ import annotations

from torch import Tensor

from quark_eagle.model.parts import Parts
from quark_eagle.model.rope import Rope


class GroupedQueryAttention:
    """Queries, keys and values of one layer, and what becomes of the mix."""

    def __init__(self, parts: Parts, window: int | None) -> None:
        """``parts`` of ``layers.<i>.self_attn.``; ``window``: rows that a query sees, itself included; None: all."""
        geometry = parts.geometry
        self.parts, self.window = parts, window
        self.head_dim = geometry.head_dim
        self.scale = geometry.head_dim**-0.5
        self.rope = Rope.of(geometry.rope, geometry.head_dim)

    def queries(self, x: Tensor, positions: Tensor) -> Tensor:
        """[..., heads, head_dim], turned to their positions, of layer inputs ``x``."""
        return self.rope(self._normed("q_norm", self._heads("q_proj", x)), positions)

    def keys_values(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, turned to their positions, and values: [..., kv_heads, head_dim] each."""
        keys = self.rope(self._normed("k_norm", self._heads("k_proj", x)), positions)
        return self.parts.cached("keys", keys), self.parts.cached("values", self._heads("v_proj", x))

    def output(self, mixed: Tensor) -> Tensor:
        """[..., hidden] of the mix of values [..., heads * head_dim]."""
        return self.parts.linear("o_proj", mixed)

    def _heads(self, projection: str, x: Tensor) -> Tensor:
        return self.parts.linear(projection, x).reshape(*x.shape[:-1], -1, self.head_dim)

    def _normed(self, norm: str, heads: Tensor) -> Tensor:
        return self.parts.norm(norm, heads) if self.parts.has(f"{norm}.weight") else heads
