"""vLLM's answers, read: as one piece, as a stream, and when they are not what they should be."""

from __future__ import annotations

from typing import Any

import pytest

from quark_eagle.serving.answers import (
    BrokenOffError,
    Chunk,
    MalformedAnswerError,
    read_answer,
    read_event,
    read_stream,
)
from quark_eagle.serving.completion import Completion, CompletionRequest

K = 3


def answer(tokens: int, accepted: list[int] | None, **changes: Any) -> dict[str, Any]:
    """As `entrypoints/openai/completion/serving.py` of vLLM 0.32 writes it."""
    choice = {"index": 0, "text": "…", "finish_reason": "length", "token_ids": list(range(tokens)), "logprobs": None}
    return {"choices": [choice | changes], "metrics": account(accepted)}


def account(accepted: list[int] | None) -> dict[str, Any] | None:
    if accepted is None:
        return None
    return {
        "speculative_decoding": {
            "num_spec_steps": len(accepted),
            "num_spec_tokens": K,
            "acceptance_histogram": [accepted.count(j) for j in range(K + 1)],
            "per_step_accepted": accepted,
            "per_step_drafted": [K] * len(accepted),
        }
    }


def stream(*sizes: int, accepted: list[int] | None = None, finish_reason: str = "length") -> list[Chunk]:
    parts = [{"choices": [{"finish_reason": None, "token_ids": list(range(size))}]} for size in sizes]
    parts[-1]["choices"][0]["finish_reason"] = finish_reason
    parts.append({"choices": [], "usage": {}, "metrics": account(accepted)})
    return [Chunk(seconds=0.5 + number, data=part) for number, part in enumerate(parts)]


def test_rounds_are_cut_where_the_answer_ends_and_the_account_is_not() -> None:
    read = read_answer(answer(7, [2, 0, 3]), seconds=1.0, attempts=1)
    assert read.accepted_per_round == (2, 0, 1)
    assert read.acceptance_histogram == (1, 1, 1, 0)
    assert read.reported is not None
    assert read.reported.accepted == (2, 0, 3)


def test_an_answer_without_an_account_has_no_rounds() -> None:
    read = read_answer(answer(7, None), seconds=1.0, attempts=1)
    assert (read.rounds, read.rounds_from, read.acceptance_histogram) == (None, None, None)


def test_a_summary_alone_cannot_be_cut_and_counts_as_no_account() -> None:
    """`--per-request-spec-decode-metrics summary` leaves the order of the rounds out."""
    data = answer(7, [2, 0, 3])
    del data["metrics"]["speculative_decoding"]["per_step_accepted"]
    assert read_answer(data, seconds=1.0, attempts=1).rounds is None


def test_an_answer_of_one_token_has_an_account_without_rounds() -> None:
    """vLLM leaves the empty lists out."""
    data = answer(1, [])
    del data["metrics"]["speculative_decoding"]["per_step_accepted"]
    read = read_answer(data, seconds=1.0, attempts=1)
    assert read.accepted_per_round == ()
    assert read.acceptance_histogram == (0, 0, 0, 0)


def test_chunks_after_the_first_are_rounds() -> None:
    read = read_stream(stream(1, 3, 1, 2), attempts=1, num_speculative_tokens=K)
    assert (read.accepted_per_round, read.rounds_from) == ((2, 0, 1), "stream")
    assert (read.ttft_seconds, read.seconds) == (0.5, 3.5)  # of the tokens, not of the usage that follows them


def test_the_servers_account_goes_before_the_chunks() -> None:
    read = read_stream(stream(1, 3, 1, 2, accepted=[2, 0, 3]), attempts=1, num_speculative_tokens=K)
    assert (read.accepted_per_round, read.rounds_from) == ((2, 0, 1), "metrics")


@pytest.mark.parametrize("sizes", [(4, 3), (1, K + 2, 1)])
def test_chunks_that_were_merged_leave_the_rounds_unknown(sizes: tuple[int, ...]) -> None:
    read = read_stream(stream(*sizes), attempts=1, num_speculative_tokens=K)
    assert len(read.token_ids) == sum(sizes)
    assert read.rounds is None


def test_without_a_draft_chunks_are_no_rounds() -> None:
    assert read_stream(stream(1, 1, 1), attempts=1, num_speculative_tokens=None).rounds is None


def test_logprobs_are_keyed_by_token_id() -> None:
    logprobs = {"token_logprobs": [-0.5], "top_logprobs": [{"token_id:7": -0.5, "token_id:262": -1.5}]}
    read = read_answer(answer(1, [], logprobs=logprobs), seconds=1.0, attempts=1)
    assert read.token_logprobs == (-0.5,)
    assert read.top_logprobs == ({7: -0.5, 262: -1.5},)


@pytest.mark.parametrize("missing", ["token_ids", "finish_reason"])
def test_what_vllm_always_says_is_needed(missing: str) -> None:
    data = answer(4, [2])
    del data["choices"][0][missing]
    with pytest.raises(MalformedAnswerError, match=missing):
        read_answer(data, seconds=1.0, attempts=1)


@pytest.mark.parametrize("reason", [None, "abort", "error"])
def test_an_answer_without_its_end_is_broken_off(reason: str | None) -> None:
    with pytest.raises(BrokenOffError, match="breaks off after 4 tokens"):
        read_answer(answer(4, [2], finish_reason=reason), seconds=1.0, attempts=1)


def test_an_empty_stream_is_broken_off() -> None:
    with pytest.raises(BrokenOffError, match="empty"):
        read_stream([], attempts=1, num_speculative_tokens=K)


def test_events_are_the_lines_with_data() -> None:
    assert read_event('data: {"choices": []}') == {"choices": []}
    for line in ("data: 7", "data: null", 'data: ["error"]', "data: [DONE"):
        with pytest.raises(MalformedAnswerError):
            read_event(line)
    assert [read_event(line) for line in ("", ": ping", "data: [DONE]")] == [None, None, None]


def test_a_line_separator_within_a_text_ends_no_event() -> None:
    assert read_event('data: {"text": "a\u2028b\u0085c"}') == {"text": "a\u2028b\u0085c"}


def test_the_servers_own_error_in_a_stream_is_told() -> None:
    with pytest.raises(BrokenOffError, match="EngineCore"):
        read_event('data: {"error": {"message": "EngineCore encountered an issue", "code": 500}}')
    with pytest.raises(MalformedAnswerError, match="not JSON"):
        read_event("data: {")


def test_every_sampling_setting_is_sent() -> None:
    """Else the target's generation_config.json would set it."""
    request = CompletionRequest(prompt_token_ids=[1], max_tokens=2)
    body = request.body("m", stream=False)
    named = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"}
    assert named <= set(body)
    assert "seed" not in body
    assert CompletionRequest(prompt_token_ids=[1], max_tokens=2, seed=0).body("m", stream=False)["seed"] == 0


def test_a_completion_without_rounds_has_no_histogram() -> None:
    assert Completion(token_ids=(1,), finish_reason="stop", seconds=0.0).acceptance_histogram is None
