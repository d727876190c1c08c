"""Prometheus pages of vLLM, and whether they agree with the answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quark_eagle.errors import EngineError
from quark_eagle.serving.completion import Completion, Failure, Reported
from quark_eagle.serving.metrics import Counters, parse, reconcile, vouched_for
from quark_eagle.serving.rounds import clipped

K = 3
# As vLLM 0.32 writes it, for two engines.
PAGE = """\
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="t"} 4.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="t"} 1.0
# TYPE vllm:spec_decode_num_drafts_created gauge
vllm:spec_decode_num_drafts_created{engine="0",model_name="t"} 1.79e+09
# TYPE vllm:spec_decode_num_draft_tokens_total counter
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="t"} 12.0
vllm:spec_decode_num_draft_tokens_total{engine="1",model_name="t"} 3.0
# TYPE vllm:spec_decode_num_accepted_tokens_total counter
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="t"} 5.0
vllm:spec_decode_num_accepted_tokens_total{engine="1",model_name="t"} 3.0
# TYPE vllm:spec_decode_num_accepted_tokens_per_pos_total counter
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="t",position="0"} 2.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="t",position="1"} 2.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="t",position="2"} 1.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="t",position="0"} 1.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="t",position="1"} 1.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="t",position="2"} 1.0
"""
COUNTED = Counters(num_drafts=5, num_draft_tokens=15, num_accepted_tokens=8, accepted_per_position=(3, 3, 2))
FAILED = Failure(kind="timeout", message="no answer within 1 s", attempts=3)


def answered(*accepted: int, reported: bool = True, attempts: int = 1) -> Completion:
    rounds = clipped(accepted, 1 + sum(length + 1 for length in accepted))
    told = Reported(accepted=accepted, drafted=(K,) * len(accepted), num_speculative_tokens=K) if reported else None
    return Completion(
        token_ids=(0,), finish_reason="stop", seconds=1.0, rounds=rounds, reported=told, attempts=attempts
    )


ANSWERS = [answered(2, 0, 3), answered(0, 3)]


def test_counters_are_summed_over_engines() -> None:
    assert parse(PAGE, "here") == COUNTED


def test_positions_are_ordered_as_numbers() -> None:
    lines = [
        f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{position="{i}"}} {20 - i}' for i in range(11, -1, -1)
    ]
    kept = [line for line in PAGE.splitlines() if "per_pos_total{" not in line]
    assert parse("\n".join([*kept, *lines, ""]), "here").accepted_per_position == tuple(range(20, 8, -1))


def test_what_was_counted_between_is_a_difference() -> None:
    later = replace(COUNTED, num_drafts=7, accepted_per_position=(4, 3, 2))
    assert (later - COUNTED).num_drafts == 2
    assert (later - COUNTED).accepted_per_position == (1, 0, 0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (("num_drafts_total{", "drafts{"), r"here/metrics: vllm:spec_decode_num_drafts_total is missing"),
        (("} 12.0", "} NaN"), r"num_draft_tokens_total is nan, which is no count"),
        (("} 12.0", "} -3"), r"num_draft_tokens_total is -3, which is no count"),
        (("} 12.0", "} 2.5"), r"num_draft_tokens_total is 2.5, which is no count"),
        (('position="2"', 'place="2"'), r"has a sample without its position"),
        (("} 12.0", "} twelve"), r"is no Prometheus page"),
    ],
)
def test_a_page_without_counts_is_refused(spoil: tuple[str, str], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        parse(PAGE.replace(*spoil), "here")


def test_a_server_without_a_draft_is_named_as_a_reason() -> None:
    with pytest.raises(EngineError, match=r"(?s)4 problems.*serves without a draft") as caught:
        parse("python_info 1.0\n", "here")
    assert "num_accepted_tokens_per_pos_total is missing" in str(caught.value)


def test_answers_that_account_for_every_count_agree() -> None:
    assert reconcile(COUNTED, ANSWERS) == ()


def test_each_difference_is_named() -> None:
    assert reconcile(COUNTED, ANSWERS[:1]) == (
        "num_drafts: /metrics counts 5, the answers 3",
        "num_draft_tokens: /metrics counts 15, the answers 9",
        "num_accepted_tokens: /metrics counts 8, the answers 5",
        "accepted at position 0: /metrics counts 3, the answers 2",
        "accepted at position 1: /metrics counts 3, the answers 2",
        "accepted at position 2: /metrics counts 2, the answers 1",
    )


def test_what_failed_was_counted_too_but_nothing_is_answered_uncounted() -> None:
    assert reconcile(COUNTED, [ANSWERS[0], FAILED]) == ()
    assert reconcile(COUNTED, [ANSWERS[0], answered(0, attempts=2)]) == ()
    assert reconcile(COUNTED, [*ANSWERS, answered(1), FAILED])


def test_another_number_of_positions_is_another_server() -> None:
    fewer = replace(COUNTED, accepted_per_position=COUNTED.accepted_per_position[:-1])
    with pytest.raises(EngineError, match="counted 2 draft positions before the requests and 3 after them"):
        COUNTED - fewer


def test_streamed_rounds_that_no_exact_count_vouches_for_are_no_rounds() -> None:
    """One request that was tried again would hide any number of merged pieces."""
    streamed = replace(answered(2, 0, 1, reported=False), rounds_from="stream")
    told = replace(answered(0, 0), rounds_from="metrics")
    assert vouched_for([streamed, told]) == [streamed, told]
    for bad in (replace(streamed, attempts=2), FAILED):
        first, *_ = vouched_for([streamed, bad])
        assert isinstance(first, Completion)
        assert (first.rounds, first.rounds_from, first.num_speculative_tokens) == (None, None, None)
    assert vouched_for([told, FAILED]) == [told, FAILED]


def test_of_streamed_rounds_only_the_number_is_compared() -> None:
    """The last of each answer may have been cut short."""
    streamed = [answered(2, 0, 1, reported=False), answered(0, 0, reported=False)]
    assert reconcile(COUNTED, streamed) == ()
    assert reconcile(COUNTED, streamed[:1]) == ("num_drafts: /metrics counts 5, the answers 3",)
