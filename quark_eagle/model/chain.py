"""Past and Chain: a draft's keys and values along a recorded text, and rounds of draft steps that start in it.

An engine rewrites the keys of verified positions from the target's own states before it drafts again. So along a text
whose states are known every row's keys are known, in every layer, and each start can be computed by itself: its first
step is one of the rows, its later steps see the rows up to it and their own chain (`model.attention`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quark_eagle.model.attention import chain_attention
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.model.layer import DecoderLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Keys and values of every row of a text, which the target's states decide, for each layer of the draft."""

    keys: tuple[Tensor, ...]  # one [..., T, kv_heads, head_dim] for each layer
    values: tuple[Tensor, ...]

    @classmethod
    def of(cls, draft: Eagle3Draft, embeds: Tensor, combined: Tensor) -> Past:
        """Of rows at positions 0 … T - 1.

        Args:
            draft: whose keys they are.
            embeds: [..., T, hidden], of token t + 1 in row t.
            combined: [..., T, hidden], the target's states as `Eagle3Draft.combine` gives them.
        """
        positions = torch.arange(combined.shape[-2], device=combined.device)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        state = combined
        for layer in draft.layers:
            entered = layer.enter(embeds, state)
            for kept, made in zip((keys, values), layer.attention.keys_values(entered.x, positions), strict=True):
                kept.append(made)
            if layer is draft.layers[-1]:
                break  # what attention makes of the rows is asked of starts only
            mixed = chain_attention(
                layer.attention.queries(entered.x, positions),
                keys[-1],
                values[-1],
                _visible(positions, len(positions), 0, layer.attention.window),
                scale=layer.attention.scale,
            )
            state = layer.leave(mixed, entered.residual)
        return cls(keys=tuple(keys), values=tuple(values))


class Chain:
    """Rounds of draft steps that start in one text or in several, taken one step at a time, all together.

    Linear layers see all of them at once; attention sees one text at a time.
    """

    def __init__(self, draft: Eagle3Draft, starts: Sequence[tuple[Past, Tensor]], *, num_steps: int = 0) -> None:
        """``starts``: each text with the rows [S] that rounds start at. S sums up to A, the places in a step.

        ``num_steps``: 1 where the first step was taken already, with all rows of the texts.
        """
        self.draft = draft
        self._pasts = [past for past, _ in starts]
        self._rows = [rows for _, rows in starts]
        self._num_steps = num_steps
        self._own: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in draft.layers]

    @property
    def rows(self) -> Tensor:
        """[A] the row that each round starts at."""
        return torch.cat(self._rows)

    def step(self, embeds: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One more step of every round.

        Args:
            embeds: [..., A, hidden], of the tokens that are fed.
            hidden: [..., A, hidden]: in the first step the combined states of the rows, later what the last step gave.

        Returns:
            The state for the next step and the one for the head, [..., A, hidden] each.
        """
        positions = self.rows + self._num_steps
        made = self.draft.step(embeds, hidden, lambda layer, x: self._attend(layer, x, positions))
        self._num_steps += 1
        return made

    def keep(self, going: Tensor) -> None:
        """Drop every round but those that ``going`` [A] bool names; later steps take and give what is left."""
        parts = torch.split(going, [len(rows) for rows in self._rows])
        self._rows = [rows[part] for rows, part in zip(self._rows, parts, strict=True)]
        self._own = [
            ([keys[..., going, :, :] for keys in own_keys], [values[..., going, :, :] for values in own_values])
            for own_keys, own_values in self._own
        ]

    def _attend(self, layer: DecoderLayer, x: Tensor, positions: Tensor) -> Tensor:
        attention = layer.attention
        own = self._own[layer.index]
        if self._num_steps:  # the keys of a first step are among the rows'
            for kept, made in zip(own, attention.keys_values(x, positions), strict=True):
                kept.append(made)
        sizes = [len(rows) for rows in self._rows]
        queries = torch.split(attention.queries(x, positions), sizes, dim=-3)
        # Within a window a query sees its own last steps first; window None takes all of them.
        last = -(attention.window or 0)
        own_keys, own_values = ([torch.split(made, sizes, dim=-3) for made in kept[last:]] for kept in own)
        mixed = []
        for i, (past, rows) in enumerate(zip(self._pasts, self._rows, strict=True)):
            if not sizes[i]:
                continue
            seen = int(rows.max()) + 1
            mixed.append(
                chain_attention(
                    queries[i],
                    past.keys[layer.index][..., :seen, :, :],
                    past.values[layer.index][..., :seen, :, :],
                    _visible(rows, seen, self._num_steps, attention.window),
                    [made[i] for made in own_keys],
                    [made[i] for made in own_values],
                    scale=attention.scale,
                )
            )
        return torch.cat(mixed, dim=-2)


def _visible(rows: Tensor, seen: int, step: int, window: int | None) -> Tensor:
    """[S, seen] which rows a query sees that stands ``step`` after its own row; a window ends with the query itself.

    >>> _visible(torch.tensor([2]), 3, 1, 3).tolist()
    [[False, True, True]]
    """
    all_rows = torch.arange(seen, device=rows.device)
    visible = all_rows <= rows[:, None]
    return visible if window is None else visible & (all_rows > rows[:, None] + step - window)
