"""One batch in a model of transformers: a cache of its own, prompts placed in it so that all end at the same column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from quark_eagle.errors import TraceError
from quark_eagle.trace.decoding import StateTap
from quark_eagle.trace.trace_document import TargetId
from quark_eagle.trace.transformers_cache import CacheLayer

PREFILL_TOKENS = 4096  # read at a time: enough for full speed, and activations stay small


class BatchForward:
    """`decoding.Forward` of one batch: the model with a cache of its own, prompts ending at the same column."""

    def __init__(self, model: Any, identity: TargetId, device: str, max_tokens: int) -> None:
        self.model, self.device, self.max_tokens = model, device, max_tokens
        self.tap = StateTap(decoder_layers(model, identity.num_hidden_layers), identity.aux_layer_ids)
        self.cache = transformers.DynamicCache(config=model.config)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        """See `decoding.Forward`."""
        lengths = [len(prompt) for prompt in prompts]
        self.columns, capacity = max(lengths), max(lengths) + self.max_tokens
        self.lengths = torch.tensor(lengths)
        self.mask = torch.arange(capacity)[None] >= self.columns - self.lengths[:, None]  # [B, capacity]
        # Sliding windows, linear attention and the like keep transformers' own cache, into which nothing can be placed.
        if any(type(layer) is not transformers.cache_utils.DynamicLayer for layer in self.cache.layers):
            return self._read(prompts, self.cache)
        whole = [CacheLayer(len(prompts), capacity) for _ in self.cache.layers]
        logits, states = [], []
        for group in _groups(lengths):
            part = transformers.DynamicCache(config=self.model.config)
            some_logits, some_states = self._read(prompts[group.start : group.stop], part)
            logits.append(some_logits)
            states += some_states
            for layer, read in zip(whole, part.layers, strict=True):
                layer.place(group.start, read, self.columns)
        self.cache.layers = whole
        return torch.cat(logits), states

    def _read(self, prompts: Sequence[Sequence[int]], cache: Any) -> tuple[Tensor, list[Tensor]]:
        """Some of the prompts into an empty cache, padded on the left to the longest of them."""
        width = max(map(len, prompts))
        token_ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.arange(width)[None] >= torch.tensor([[width - len(prompt)] for prompt in prompts])
        logits, states = self._run(token_ids, mask, (mask.cumsum(dim=-1) - 1).clamp(min=0), cache)
        return logits, [rows[width - len(prompt) :] for rows, prompt in zip(states, prompts, strict=True)]

    def step(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """See `decoding.Forward`."""
        self.columns, positions = self.columns + 1, self.lengths[:, None]
        self.lengths = self.lengths + 1
        logits, states = self._run(token_ids[:, None], self.mask[:, : self.columns], positions, self.cache)
        return logits, states[:, 0]

    def keep(self, rows: Sequence[int]) -> None:
        """See `decoding.Forward`."""
        places = torch.tensor(rows)
        self.lengths, self.mask = self.lengths[places], self.mask[places]
        self.cache.batch_select_indices(places.to(self.device))

    def _run(self, token_ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
        output = self.model(
            input_ids=token_ids.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=positions.to(self.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].cpu(), self.tap.take()


def _groups(lengths: Sequence[int]) -> Iterator[range]:
    """Neighbours that are read together: at most `PREFILL_TOKENS` with their padding, at least one row.

    >>> list(_groups([3000, 2000, 2000, 10, 9]))
    [range(0, 1), range(1, 3), range(3, 5)]
    """
    start = 0
    for row in range(len(lengths)):
        # A row of half the length would be half padding: it is better read with its like.
        too_short = 2 * lengths[row] < max(lengths[start : row + 1])
        if row > start and (too_short or (row - start + 1) * max(lengths[start : row + 1]) > PREFILL_TOKENS):
            yield range(start, row)
            start = row
    yield range(start, len(lengths))


def decoder_layers(model: Any, num_hidden_layers: int) -> Sequence[torch.nn.Module]:
    """The decoder layers of a model: the one list of that many modules.

    Raises:
        TraceError: there is none, so the hidden states cannot be tapped.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if isinstance(layers, torch.nn.ModuleList) and len(layers) == num_hidden_layers:
        return list(layers)
    raise TraceError(
        f"{type(model).__name__}: found no list of {num_hidden_layers} decoder layers, but the hidden "
        "states are taken between them. This architecture cannot be traced through transformers."
    )
