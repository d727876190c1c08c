"""Attention and its cache as a batch of answers needs them: allocated once, written in place, no head copied."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "quark_eagle_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one new token per row without copying keys once per query head.

    With a mask, transformers 5.16 repeats keys and values for every query head of a group (`repeat_kv`), several times
    the work of the attention itself. The heads of a group can instead stand as the rows of one query: [B, kv_heads,
    group, width] is the same product. Everything else goes to transformers' own function.
    """
    rows, heads, columns, width = query.shape
    group = heads // key.shape[1]
    if columns > 1 or group == 1 or kwargs.get("position_bias") is not None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
        return output, None
    mixed = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], group, width), key, value, attn_mask=attention_mask, scale=scaling
    )
    return mixed.reshape(rows, 1, heads, value.shape[-1]), None


class CacheLayer(transformers.cache_utils.DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, allocated once and written in place; transformers' own copies all at every step."""

    def __init__(self, rows: int, capacity: int) -> None:
        """Room for ``capacity`` columns; allocated when the first come, since only then the shapes are known."""
        super().__init__()
        self.rows, self.capacity, self.length = rows, capacity, 0

    def place(self, first_row: int, layer: transformers.cache_utils.DynamicLayer, end: int) -> None:
        """Take over what some rows have read, [n, heads, columns, width], so that it ends at column ``end``."""
        if not self.is_initialized:
            self.lazy_initialization(layer.keys, layer.values)
            # Zeros: what is masked still takes part in the product, and NaN times nothing is NaN.
            self.keys, self.values = (
                like.new_zeros(self.rows, like.shape[1], self.capacity, like.shape[3])
                for like in (layer.keys, layer.values)
            )
        rows, start = slice(first_row, first_row + len(layer.keys)), end - layer.keys.shape[2]
        self.keys[rows, :, start:end], self.values[rows, :, start:end] = layer.keys, layer.values
        self.length = end

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns [B, heads, columns, width]; all columns so far are returned."""
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        """Columns so far; the mask is made for this many."""
        return self.length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Row i becomes what row ``indices[i]`` was; a row that moves comes from beyond the new end."""
        for new, old in enumerate(indices.tolist()):
            if new != old:
                self.keys[new, :, : self.length] = self.keys[old, :, : self.length]
                self.values[new, :, : self.length] = self.values[old, :, : self.length]
        self.keys, self.values = self.keys[: len(indices)], self.values[: len(indices)]
