"""A batch of answers, decoded together, with the hidden states of every token on the way.

transformers' own `generate` copies its whole cache at every step and keeps the states of all layers. Here the cache
is allocated once, three layers are tapped, rows leave the batch when they finish, and the head runs for one position
only. Padding is masked and positions are counted without it, so in float32 a prompt's path does not depend on its
neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from quark_eagle.trace.sampling import choose, uniforms_of
from quark_eagle.trace.trace_document import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt as tokens."""

    token_ids: tuple[int, ...]
    sha256: str  # of the prompt: what is random in its answer follows from it


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the target did with one request of p tokens; n tokens in all."""

    token_ids: Tensor  # [n] int64
    log_probs: Tensor  # [n - p] float32
    top2_margin: Tensor  # [n - p] float32
    aux_hidden_states: Tensor  # [n - 1, num_aux * hidden]
    stop_reason: str  # "stop" or "length"
    accepted: tuple[int, ...] | None = None  # draft tokens in each round, if a draft was served along with it


@dataclass(slots=True, kw_only=True)
class Pace:
    """How long a batch took."""

    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0

    def seconds(self, prompt_tokens: int, new_tokens: int, num_answers: int) -> float:
        """What so many tokens would take at this pace, which was measured on ``num_answers`` answers."""
        # The first token of an answer comes from prefill.
        decoded = max(1, self.decode_tokens - num_answers)
        return prompt_tokens * self.prefill_seconds / self.prefill_tokens + new_tokens * self.decode_seconds / decoded


class Forward(Protocol):
    """A target with the cache of one batch."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        """Read B prompts: (logits after the last token [B, vocab], aux states [p, num_aux * hidden] of each)."""

    def step(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """One more token for each row, [B] int64: (logits [B, vocab], aux states [B, num_aux * hidden])."""

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows of the batch but these, which become rows 0, 1, …."""


@dataclass(slots=True, kw_only=True)
class _Row:
    """One answer being written."""

    request: Request
    uniforms: Tensor  # [max_tokens] float64
    states: Tensor  # [p + max_tokens - 1, width]
    generated: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    stop_reason: str = ""

    @classmethod
    def of(cls, request: Request, prompt_states: Tensor, sampling: Sampling, state_dtype: torch.dtype) -> _Row:
        length, width = prompt_states.shape
        states = torch.empty(length + sampling.max_tokens - 1, width, dtype=state_dtype)
        states[:length] = prompt_states
        return cls(request=request, uniforms=uniforms_of(sampling, request.sha256), states=states)

    @property
    def length(self) -> int:
        return len(self.request.token_ids) + len(self.generated)

    def finish(self) -> Answer:
        return Answer(
            token_ids=torch.tensor([*self.request.token_ids, *self.generated]),
            log_probs=torch.tensor(self.log_probs),
            top2_margin=torch.tensor(self.margins),
            aux_hidden_states=self.states[: self.length - 1],
            stop_reason=self.stop_reason,
        )


@torch.inference_mode()
def decode(
    forward: Forward,
    requests: Sequence[Request],
    sampling: Sampling,
    stop_token_ids: Collection[int],
    state_dtype: torch.dtype,
    on_tokens: Callable[[int], None] = lambda n: None,
) -> tuple[list[Answer], Pace]:
    """The answers to a batch of requests, in their order.

    Args:
        forward: the target, with an empty cache.
        requests: at least one.
        sampling: how tokens are chosen.
        stop_token_ids: any of these ends an answer, as its last token.
        state_dtype: of the states that are kept.
        on_tokens: told how many of ``len(requests) * max_tokens`` have been generated or will not be.
    """
    clock, pace = time.perf_counter(), Pace(prefill_tokens=sum(len(request.token_ids) for request in requests))
    logits, prompt_states = forward.prefill([request.token_ids for request in requests])
    rows = [
        _Row.of(request, states, sampling, state_dtype) for request, states in zip(requests, prompt_states, strict=True)
    ]
    del prompt_states
    clock, pace.prefill_seconds = time.perf_counter(), time.perf_counter() - clock

    active = list(rows)
    for step in range(sampling.max_tokens):
        _append(active, logits, sampling, stop_token_ids, step)
        finished = [bool(row.stop_reason) for row in active]
        never = sum(sampling.max_tokens - step - 1 for row in active if row.stop_reason == "stop")
        on_tokens(len(active) + never)
        pace.decode_tokens += len(active)
        if all(finished):
            break
        if any(finished):
            places = _survivors(finished)
            active = [active[place] for place in places]
            forward.keep(places)
        logits, states = forward.step(torch.tensor([row.generated[-1] for row in active]))
        for row, state in zip(active, states, strict=True):
            row.states[row.length - 1] = state
    pace.decode_seconds = time.perf_counter() - clock
    return [row.finish() for row in rows], pace


def _append(
    active: Sequence[_Row], logits: Tensor, sampling: Sampling, stop_token_ids: Collection[int], step: int
) -> None:
    """Give every active row its next token."""
    chosen = choose(logits, sampling, torch.stack([row.uniforms[step] for row in active]))
    values = zip(active, chosen.token_ids.tolist(), chosen.log_probs.tolist(), chosen.top2_margin.tolist(), strict=True)
    for row, token, log_prob, margin in values:
        row.generated.append(token)
        row.log_probs.append(log_prob)
        row.margins.append(margin)
        if token in stop_token_ids:
            row.stop_reason = "stop"
        elif len(row.generated) == sampling.max_tokens:
            row.stop_reason = "length"


def _survivors(finished: Sequence[bool]) -> list[int]:
    """Places that go on, the last ones moved into the gaps, so that few rows of the cache have to be copied.

    >>> _survivors([False, True, False, True, False])
    [0, 4, 2]
    """
    order = list(range(len(finished)))
    i = 0
    while i < len(order):
        if not finished[order[i]]:
            i += 1
        elif i == len(order) - 1:
            order.pop()
        else:
            order[i] = order.pop()
    return order


class StateTap:
    """Hooks that keep what chosen layers put into the residual stream during a forward pass."""

    def __init__(self, layers: Sequence[torch.nn.Module], aux_layer_ids: Sequence[int]) -> None:
        """Id i is tapped where layer i - 1 leaves, id 0 where layer 0 enters."""
        self._layers, self._ids = layers, tuple(aux_layer_ids)
        self._seen: dict[int, Tensor] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The hooks are in place inside this block."""
        handles = [
            self._layers[0].register_forward_pre_hook(self._on_enter, with_kwargs=True)
            if i == 0
            else self._layers[i - 1].register_forward_hook(self._on_leave(i))
            for i in self._ids
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def take(self) -> Tensor:
        """[B, columns, num_aux * hidden] of the last forward pass."""
        states = torch.cat([self._seen[i] for i in self._ids], dim=-1)
        self._seen.clear()
        return states.cpu()

    def _on_enter(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._seen[0] = args[0] if args else kwargs["hidden_states"]

    def _on_leave(self, aux_layer_id: int) -> Callable[[torch.nn.Module, Any, Any], None]:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            self._seen[aux_layer_id] = output[0] if isinstance(output, tuple) else output

        return hook
