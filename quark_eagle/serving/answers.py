"""vLLM's answers, read: as one piece or as a stream, with what every round accepted.

Read from vLLM 0.32, `entrypoints/openai/completion/serving.py`: ``return_token_ids`` puts the generated ids into every
choice, streamed or not; ``--per-request-spec-decode-metrics detailed`` puts ``metrics.speculative_decoding`` into the
answer, or into the last chunk of a stream that was asked for usage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quark_eagle.serving.completion import Completion, Reported, RoundsFrom
from quark_eagle.serving.rounds import Rounds, clipped

_TOKEN_ID = "token_id:"  # how ``return_tokens_as_token_ids`` names a token


class MalformedAnswerError(Exception):
    """An answer of status 200 that is not what vLLM says; the client makes a `Failure` of it."""


class BrokenOffError(Exception):
    """An answer that the server itself gave up after it had said 200; it may fare better another time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One event of a streamed answer.

    Attributes:
        seconds: when it came, since the request.
        data: its JSON.
    """

    seconds: float
    data: Mapping[str, Any]


def read_answer(data: Mapping[str, Any], seconds: float, attempts: int) -> Completion:
    """The completion of an answer that was not streamed.

    Raises:
        MalformedAnswerError: something that vLLM always says is missing.
        BrokenOffError: the answer has no end.
    """
    return _completion([data], data, seconds=seconds, ttft_seconds=None, attempts=attempts, k=None)


def read_stream(chunks: Sequence[Chunk], attempts: int, num_speculative_tokens: int | None) -> Completion:
    """The completion of a streamed answer.

    Where the server does not account for rounds itself, the sizes of the chunks do: the first holds the token that
    prefill gave, each other one the tokens of one round. That holds while the reader keeps up: vLLM merges what waits
    (`v1/engine/output_processor.py`, ``RequestOutputCollector``). A merged chunk that is longer than a round is seen
    here and leaves the rounds unknown; `metrics.reconcile` sees the others.

    Args:
        chunks: in the order of their arrival.
        attempts: how often the request was tried.
        num_speculative_tokens: k; None means that the server has no draft, and so no rounds.

    Raises:
        MalformedAnswerError: something that vLLM always says is missing.
        BrokenOffError: the answer has no end.
    """
    told = [chunk for chunk in chunks if chunk.data.get("choices")]
    if not told:
        raise BrokenOffError("the stream is empty")
    return _completion(
        [chunk.data for chunk in told],
        chunks[-1].data,
        seconds=told[-1].seconds,
        ttft_seconds=told[0].seconds,
        attempts=attempts,
        k=num_speculative_tokens,
    )


def _completion(
    parts: Sequence[Mapping[str, Any]],
    last: Mapping[str, Any],
    *,
    seconds: float,
    ttft_seconds: float | None,
    attempts: int,
    k: int | None,
) -> Completion:
    try:
        choices = [part["choices"][0] for part in parts]
        sizes = [len(choice["token_ids"]) for choice in choices]
        token_ids = tuple(int(token) for choice in choices for token in choice["token_ids"])
        finish_reason = str(choices[-1]["finish_reason"])
        reported = _reported(last.get("metrics"))
        token_logprobs, top_logprobs = _logprobs(choices)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise MalformedAnswerError(f"not an answer of vLLM ({type(error).__name__}: {error})") from error
    if finish_reason not in ("length", "stop") or not token_ids:
        raise BrokenOffError(f"the answer breaks off after {len(token_ids)} tokens (finish_reason: {finish_reason})")
    rounds, source = _rounds(reported, sizes, k)
    return Completion(
        token_ids=token_ids,
        finish_reason=finish_reason,
        seconds=seconds,
        ttft_seconds=ttft_seconds,
        rounds=rounds,
        rounds_from=source,
        num_speculative_tokens=None if rounds is None else reported.num_speculative_tokens if reported else k,
        reported=reported,
        attempts=attempts,
        token_logprobs=token_logprobs,
        top_logprobs=top_logprobs,
    )


def _rounds(
    reported: Reported | None, sizes: Sequence[int], k: int | None
) -> tuple[Rounds, RoundsFrom] | tuple[None, None]:
    """From the server's account, else from the sizes of the chunks where k says that they are rounds."""
    if reported is not None:
        return clipped(reported.accepted, sum(sizes)), "metrics"
    first, *others = [size for size in sizes if size]
    if k is None or first != 1 or any(size > k + 1 for size in others):
        return None, None
    return clipped([size - 1 for size in others], sum(sizes)), "stream"


def _reported(metrics: Mapping[str, Any] | None) -> Reported | None:
    said = (metrics or {}).get("speculative_decoding")
    if not said or ("per_step_accepted" not in said and said["num_spec_steps"]):
        return None  # no flag, or only its summary
    return Reported(
        accepted=tuple(map(int, said.get("per_step_accepted", ()))),
        drafted=tuple(map(int, said.get("per_step_drafted", ()))),
        num_speculative_tokens=int(said["num_spec_tokens"]),
    )


def _logprobs(
    choices: Sequence[Mapping[str, Any]],
) -> tuple[tuple[float, ...] | None, tuple[Mapping[int, float], ...] | None]:
    told = [choice["logprobs"] for choice in choices if choice.get("logprobs")]
    if not told:
        return None, None
    tops = (top for said in told for top in said["top_logprobs"])
    return (
        tuple(float(value) for said in told for value in said["token_logprobs"]),
        tuple({int(name.removeprefix(_TOKEN_ID)): float(value) for name, value in top.items()} for top in tops),
    )


def read_event(line: str) -> Mapping[str, Any] | None:
    """The JSON of a line of a server-sent stream; None for empty lines, comments and the closing ``[DONE]``.

    Raises:
        MalformedAnswerError: the line is no event.
        BrokenOffError: it reports the server's own error.
    """
    if not line.startswith("data:") or line == "data: [DONE]":
        return None
    try:
        event = json.loads(line.removeprefix("data:"))
    except ValueError as error:
        raise MalformedAnswerError(f"a line of the stream is not JSON: {line[:80]!r}") from error
    if not isinstance(event, dict):
        raise MalformedAnswerError(f"a line of the stream is no JSON object: {line[:80]!r}")
    if "error" in event:
        raise BrokenOffError(f"the server broke off: {str(event['error'])[:200]}")
    return event
