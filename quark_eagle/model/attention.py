"""The attention of a chain of draft steps, for all starts at once.

A draft round that starts at row t proposes k tokens. Its first step is a row of an ordinary causal pass. Step j
attends to the rows up to t, whose keys come from the target's own states, and to the keys of its own j - 1 earlier
steps and itself. No start sees another start's proposals. So a step j for every start is one masked product over the
sequence plus j diagonals: the attention of EAGLE-3's training-time test (arXiv 2503.01840, figure 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SCORE_BYTES = 64 << 20  # queries are taken in blocks whose score matrix stays below this


def chain_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    visible: Tensor,
    own_keys: Sequence[Tensor] = (),
    own_values: Sequence[Tensor] = (),
    *,
    scale: float | None = None,
) -> Tensor:
    """Grouped-query attention over the sequence and over each query's own chain, computed in float32.

    Args:
        queries: [..., S, heads, head_dim].
        keys: [..., T, kv_heads, head_dim], the rows whose keys come from the target's states.
        values: [..., T, kv_heads, value_dim].
        visible: [..., S, T] bool, which rows each query sees.
        own_keys: one [..., S, kv_heads, head_dim] for each step of the chain so far, the query's own last.
        own_values: one [..., S, kv_heads, value_dim] for each of them.
        scale: of the scores; head_dim ** -0.5 if not given.

    Returns:
        [..., S, heads * value_dim] in the queries' dtype.
    """
    num, heads, head_dim = queries.shape[-3:]
    kv_heads = keys.shape[-2]
    grouped = (queries.float() * (head_dim**-0.5 if scale is None else scale)).reshape(
        *queries.shape[:-2], kv_heads, heads // kv_heads, head_dim
    )  # [..., S, kv, group, d]
    wide_keys, wide_values = keys.float(), values.float()
    own_k = torch.stack([k.float() for k in own_keys], dim=-3) if own_keys else None  # [..., S, j, kv, d]
    own_v = torch.stack([v.float() for v in own_values], dim=-3) if own_values else None
    block = max(1, SCORE_BYTES // (4 * heads * max(1, keys.shape[-3])))
    mixed = [
        _attend(
            grouped[..., rows, :, :, :],
            wide_keys,
            wide_values,
            visible[..., rows, :],
            None if own_k is None else own_k[..., rows, :, :, :],
            None if own_v is None else own_v[..., rows, :, :, :],
        )
        for rows in (slice(start, start + block) for start in range(0, num, block))
    ]
    return torch.cat(mixed, dim=-4).flatten(-3).to(queries.dtype)


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor, own_keys: Tensor | None, own_values: Tensor | None
) -> Tensor:
    """[..., S, kv_heads, group, value_dim] for one block of queries; all operands float32."""
    scores = torch.einsum("...skgd,...tkd->...kgst", queries, keys)
    scores = scores.masked_fill(~visible[..., None, None, :, :], -torch.inf)
    if own_keys is not None:
        scores = torch.cat((scores, torch.einsum("...skgd,...sjkd->...kgsj", queries, own_keys)), dim=-1)
    weights = scores.softmax(dim=-1)
    mixed = torch.einsum("...kgst,...tkd->...skgd", weights[..., : keys.shape[-3]], values)
    if own_values is not None:
        mixed = mixed + torch.einsum("...kgsj,...sjkd->...skgd", weights[..., keys.shape[-3] :], own_values)
    return mixed
