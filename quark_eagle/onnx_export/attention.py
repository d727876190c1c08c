"""Attention as ONNX nodes: grouped-query, and latent (MLA) with nothing but latents in the cache.

To be read beside `quark_eagle.model.grouped_query` and `quark_eagle.model.latent`. Heads come before rows here:
[batch, heads, rows, width], the layout of optimum's cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from onnx import TensorProto

from quark_eagle.model.rope import Rope, deepseek_score_factor
from quark_eagle.onnx_export.graph import GraphBuilder
from quark_eagle.onnx_export.operators import linear, matrix, rms_norm

_LOWEST = float(np.finfo(np.float32).min)  # not -inf: the softmax of a padding row, which sees nothing, would be NaN


class Attention(Protocol):
    """The attention of one layer."""

    def __call__(self, x: str) -> str:
        """[batch, rows, hidden] of the layer's input ``x`` [batch, rows, in]; reads and writes the layer's cache."""


def attention(g: GraphBuilder, layer: int) -> Attention:
    """The attention of a layer of the draft that the graph is of."""
    return GroupedQuery(g, layer) if g.tensors.layout.geometry.mla is None else Latent(g, layer)


class GroupedQuery:
    """Llama's, and Qwen3's with a norm on the heads of queries and keys."""

    def __init__(self, g: GraphBuilder, layer: int) -> None:
        """Of a layer of the draft that the graph is of."""
        geometry = g.tensors.layout.geometry
        self.g, self.layer, self.name, self.geometry = g, layer, f"layers.{layer}.self_attn", geometry
        self.rotary = Rotary(g, Rope.of(geometry.rope, geometry.head_dim), geometry.head_dim)
        self.mix = Mix(
            kv_heads=geometry.num_key_value_heads,
            group=geometry.num_attention_heads // geometry.num_key_value_heads,
            width=geometry.head_dim,
            value_width=geometry.head_dim,
            scale=geometry.head_dim**-0.5,
        )

    def __call__(self, x: str) -> str:
        """[batch, rows, hidden] of the layer's input ``x`` [batch, rows, in]."""
        g, geometry = self.g, self.geometry
        queries = self.rotary(self._heads("q_proj", x, norm="q_norm"))
        keys = grown(g, self.layer, "key", self.rotary(self._heads("k_proj", x, norm="k_norm")))
        values = grown(g, self.layer, "value", self._heads("v_proj", x))
        seen = visible(g, geometry.sliding_windows[self.layer])
        with g.scope(self.name):
            mixed = self.mix(g, queries, keys, values, seen)
            flat = g("Reshape", g("Transpose", mixed, perm=[0, 2, 1, 3]), g.constant([0, 0, -1], np.int64))
        return linear(g, f"{self.name}.o_proj", flat)

    def _heads(self, projection: str, x: str, norm: str = "") -> str:
        g = self.g
        wide = linear(g, f"{self.name}.{projection}", x)
        with g.scope(f"{self.name}.{projection}"):
            heads = g("Reshape", wide, g.constant([0, 0, -1, self.geometry.head_dim], np.int64))
            heads = g("Transpose", heads, perm=[0, 2, 1, 3])
        if g.tensors.has(f"{self.name}.{norm}.weight"):
            return rms_norm(g, f"{self.name}.{norm}", heads, self.geometry.rms_norm_eps)
        return heads


class Latent:
    """DeepSeek's: queries are taken into the space of the latents, which are keys and values of one head for all."""

    def __init__(self, g: GraphBuilder, layer: int) -> None:
        """Of a layer of the draft that the graph is of."""
        geometry = g.tensors.layout.geometry
        assert geometry.mla is not None
        self.g, self.layer, self.name = g, layer, f"layers.{layer}.self_attn"
        self.geometry, self.mla = geometry, geometry.mla
        self.rotary = Rotary(g, Rope.deepseek(geometry.rope, self.mla.qk_rope_head_dim), self.mla.qk_rope_head_dim)
        self.mix = Mix(
            kv_heads=1,
            group=geometry.num_attention_heads,
            width=self.mla.kv_lora_rank + self.mla.qk_rope_head_dim,
            value_width=self.mla.kv_lora_rank,
            scale=geometry.head_dim**-0.5 * deepseek_score_factor(geometry.rope),
        )

    def __call__(self, x: str) -> str:
        """[batch, rows, hidden] of the layer's input ``x`` [batch, rows, in]."""
        g, mla = self.g, self.mla
        key_rows, value_rows = self._expand()
        content, place = self._queries(x)
        with g.scope(self.name):
            queries = g("Concat", g("MatMul", content, key_rows), self.rotary(place), axis=-1)
        keys = grown(g, self.layer, "key", self._keys(x))
        with g.scope(self.name):
            values = slice_last(g, keys, 0, mla.kv_lora_rank)
            mixed = self.mix(g, queries, keys, values, visible(g, None))
            out = g("MatMul", mixed, g("Transpose", value_rows, perm=[0, 2, 1]))  # [batch, heads, rows, v_head_dim]
            flat = g("Reshape", g("Transpose", out, perm=[0, 2, 1, 3]), g.constant([0, 0, -1], np.int64))
        return linear(g, f"{self.name}.o_proj", flat)

    def _expand(self) -> tuple[str, str]:
        """W_UK [heads, qk_nope_head_dim, kv_lora_rank] and W_UV [heads, v_head_dim, kv_lora_rank]."""
        g, mla = self.g, self.mla
        with g.scope(f"{self.name}.kv_b_proj"):
            rows = mla.qk_nope_head_dim + mla.v_head_dim
            shape = g.constant([self.geometry.num_attention_heads, rows, mla.kv_lora_rank], np.int64)
            by_head = g("Reshape", matrix(g, f"{self.name}.kv_b_proj"), shape)
            key_rows, value_rows = g.split(by_head, [mla.qk_nope_head_dim, mla.v_head_dim], axis=1)
        return key_rows, value_rows

    def _queries(self, x: str) -> tuple[str, str]:
        """Content [batch, heads, rows, qk_nope_head_dim] and place [batch, heads, rows, qk_rope_head_dim]."""
        g, mla = self.g, self.mla
        if mla.q_lora_rank is None:
            wide = linear(g, f"{self.name}.q_proj", x)
        else:
            narrow = linear(g, f"{self.name}.q_a_proj", x)
            normed = rms_norm(g, f"{self.name}.q_a_layernorm", narrow, self.geometry.rms_norm_eps)
            wide = linear(g, f"{self.name}.q_b_proj", normed)
        with g.scope(self.name):
            heads = g("Reshape", wide, g.constant([0, 0, -1, self.geometry.head_dim], np.int64))
            heads = g("Transpose", heads, perm=[0, 2, 1, 3])
            content, place = g.split(heads, [mla.qk_nope_head_dim, mla.qk_rope_head_dim], axis=-1)
        return content, place

    def _keys(self, x: str) -> str:
        """[batch, 1, rows, kv_lora_rank + qk_rope_head_dim]: the latent, and the key that holds the position."""
        g, mla = self.g, self.mla
        narrow = linear(g, f"{self.name}.kv_a_proj_with_mqa", x)
        with g.scope(self.name):
            latent, place = g.split(narrow, [mla.kv_lora_rank, mla.qk_rope_head_dim], axis=-1)
            place = self.rotary(g("Unsqueeze", place, g.constant([1], np.int64)))
        latent = rms_norm(g, f"{self.name}.kv_a_layernorm", latent, self.geometry.rms_norm_eps)
        with g.scope(self.name):
            return g("Concat", g("Unsqueeze", latent, g.constant([1], np.int64)), place, axis=-1)


@dataclass(frozen=True, slots=True)
class Rotary:
    """Turns heads by the rows' positions, as `quark_eagle.model.rope`; layers share cosines and sines."""

    g: GraphBuilder
    rope: Rope
    width: int

    def __call__(self, x: str) -> str:
        """``x`` [batch, heads, rows, width]: its first dimensions turned, the others passed."""
        g, turned = self.g, 2 * len(self.rope.inverse_frequencies)
        cos, sin = self._tables()
        with g.scope("rotary"):
            passed = None
            if turned < self.width:
                x, passed = g.split(x, [turned, self.width - turned], axis=-1)
            if self.rope.interleaved:  # neighbours become two columns of their own
                pairs = g("Reshape", x, g.constant([0, 0, 0, turned // 2, 2], np.int64))
                first, second = (g("Gather", pairs, g.constant(i, np.int64), axis=-1) for i in (0, 1))
            else:
                first, second = g.split(x, [turned // 2, turned // 2], axis=-1)
            ahead = g("Sub", g("Mul", first, cos), g("Mul", second, sin))
            behind = g("Add", g("Mul", second, cos), g("Mul", first, sin))
            if self.rope.interleaved:
                last = g.constant([-1], np.int64)
                pairs = g("Concat", g("Unsqueeze", ahead, last), g("Unsqueeze", behind, last), axis=-1)
                x = g("Reshape", pairs, g.constant([0, 0, 0, turned], np.int64))
            else:
                x = g("Concat", ahead, behind, axis=-1)
            return x if passed is None else g("Concat", x, passed, axis=-1)

    def _tables(self) -> tuple[str, str]:
        """Cosines and sines [batch, 1, rows, turned / 2]."""
        g = self.g
        with g.scope("rotary"):
            inverse = g.constant(self.rope.inverse_frequencies.numpy(), name="rotary.inverse_frequencies")
            rows = g.once("Unsqueeze", g.cast("position_ids", TensorProto.FLOAT), g.constant([1, 3], np.int64))
            angles = g.once("Mul", rows, inverse)
            magnitude = g.constant(self.rope.magnitude)
            return g.once("Mul", g.once("Cos", angles), magnitude), g.once("Mul", g.once("Sin", angles), magnitude)


def visible(g: GraphBuilder, window: int | None) -> str:
    """[batch, 1, 1, rows, total] bool: a row sees what is not padding, not after it, and not before its window."""
    zero, one = g.constant(0, np.int64), g.constant(1, np.int64)
    with g.scope("visible"):
        total = g.once("Gather", g.once("Shape", "attention_mask"), one)
        rows = g.once("Gather", g.once("Shape", "position_ids"), one)
        keys = g.once("Range", zero, total, one)
        first = g.once("Sub", total, rows)
        queries = g.once("Unsqueeze", g.once("Range", first, total, one), g.constant([1], np.int64))
        real = g.once("Unsqueeze", g.cast("attention_mask", TensorProto.BOOL), g.constant([1, 2, 3], np.int64))
        seen = g.once("And", g.once("LessOrEqual", keys, queries), real)
        if window is None:
            return seen
        start = g.once("Sub", queries, g.constant(window, np.int64))
        return g.once("And", seen, g.once("Greater", keys, start))


def grown(g: GraphBuilder, layer: int, part: str, made: str) -> str:
    """The layer's cache with this step's rows behind it: [batch, kv_heads, total, width]."""
    return g("Concat", f"past_key_values.{layer}.{part}", made, axis=2, output=f"present.{layer}.{part}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What each query head takes of the values; ``group`` query heads share a head of keys."""

    kv_heads: int
    group: int
    width: int
    value_width: int
    scale: float

    def __call__(self, g: GraphBuilder, queries: str, keys: str, values: str, seen: str) -> str:
        """Attention over the cache.

        Args:
            g: the graph.
            queries: [batch, kv_heads * group, rows, width].
            keys: [batch, kv_heads, total, width].
            values: [batch, kv_heads, total, value_width].
            seen: [batch, 1, 1, rows, total] bool.

        Returns:
            [batch, kv_heads * group, rows, value_width].
        """
        after_heads = g.constant([2], np.int64)
        grouped = g("Reshape", queries, g.constant([0, self.kv_heads, self.group, -1, self.width], np.int64))
        turned = g("Transpose", g("Unsqueeze", keys, after_heads), perm=[0, 1, 2, 4, 3])
        scores = g("MatMul", g("Mul", grouped, g.constant(self.scale)), turned)  # [batch, kv_heads, group, rows, total]
        weights = g("Softmax", g("Where", seen, scores, g.constant(_LOWEST)), axis=-1)
        mixed = g("MatMul", weights, g("Unsqueeze", values, after_heads))
        return g("Reshape", mixed, g.constant([0, self.kv_heads * self.group, -1, self.value_width], np.int64))


def slice_last(g: GraphBuilder, x: str, start: int, stop: int) -> str:
    """Columns ``start:stop`` of the last dimension."""
    return g("Slice", x, *(g.constant([value], np.int64) for value in (start, stop, -1)))
