"""One request to ``/v1/completions`` and what came of it: an answer with its rounds, or a failure with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from quark_eagle.serving.rounds import Rounds

RoundsFrom = Literal["metrics", "stream"]
FailureKind = Literal["timeout", "transport", "server", "refused", "malformed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """What to generate. Every sampling setting is sent, so that none of the target's generation_config.json remains.

    Attributes:
        prompt_token_ids: the rendered prompt.
        max_tokens: the answer's longest length.
        temperature: 0 is greedy.
        seed: of sampling; None sends none (vLLM's CPU worker dies of seeds).
        ignore_eos: go on to `max_tokens` whatever is generated.
        top_logprobs: how many of the likeliest tokens are reported at every position; None reports none.
    """

    prompt_token_ids: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False
    top_logprobs: int | None = None

    def body(self, model: str, stream: bool) -> dict[str, Any]:
        """The JSON that is posted."""
        said: dict[str, Any] = {
            "model": model,
            "prompt": list(self.prompt_token_ids),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": self.ignore_eos,
            "return_token_ids": True,
        }
        if self.seed is not None:
            said["seed"] = self.seed
        if self.top_logprobs is not None:
            said |= {"logprobs": self.top_logprobs, "return_tokens_as_token_ids": True}
        if stream:
            said |= {"stream": True, "stream_options": {"include_usage": True}}
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What the server counted for one request, nothing cut off: these sum to the counters of ``/metrics``.

    Attributes:
        accepted: draft tokens accepted by each round, past the answer's end too.
        drafted: draft tokens proposed in each round.
        num_speculative_tokens: k of the server.
    """

    accepted: tuple[int, ...]
    drafted: tuple[int, ...]
    num_speculative_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An answer.

    Attributes:
        token_ids: generated, an end token included.
        finish_reason: "length" or "stop".
        seconds: from the request's first byte to the answer's last.
        ttft_seconds: to the first token; None unless streamed.
        rounds: of the answer, clipped at its end; None where nothing tells them.
        rounds_from: "metrics" (the server's own account) or "stream" (the sizes of the chunks); None with `rounds`.
        num_speculative_tokens: k, where rounds are known.
        reported: the server's account; None where it gives none.
        attempts: 1 unless it was retried.
        token_logprobs: of the generated tokens, where asked for.
        top_logprobs: token id → log-probability of the likeliest at every position, where asked for.
    """

    token_ids: tuple[int, ...]
    finish_reason: str
    seconds: float
    ttft_seconds: float | None = None
    rounds: Rounds | None = None
    rounds_from: RoundsFrom | None = None
    num_speculative_tokens: int | None = None
    reported: Reported | None = None
    attempts: int = 1
    token_logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[Mapping[int, float], ...] | None = None

    @property
    def accepted_per_round(self) -> tuple[int, ...] | None:
        """Draft tokens that each round contributed to the answer, in order."""
        return None if self.rounds is None else self.rounds.accepted

    @property
    def acceptance_histogram(self) -> tuple[int, ...] | None:
        """Rounds of the answer with exactly j accepted tokens, j = 0…k."""
        if self.rounds is None or self.num_speculative_tokens is None:
            return None
        return tuple(self.rounds.accepted.count(j) for j in range(self.num_speculative_tokens + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request that came to nothing for good.

    Attributes:
        kind: "timeout", "transport" (no connection), "server" (5xx), "refused" (4xx) or "malformed" (200, but no
            answer as vLLM gives it).
        message: one sentence.
        attempts: how often it was tried.
    """

    kind: FailureKind
    message: str
    attempts: int
