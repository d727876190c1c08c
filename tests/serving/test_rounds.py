"""Rounds and the answer that they make up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quark_eagle.serving.rounds import clipped

LENGTHS = st.lists(st.integers(0, 5), max_size=20)


@given(LENGTHS, st.integers(1, 200))
def test_rounds_and_prefill_make_up_the_answer(accepted: list[int], num_tokens: int) -> None:
    rounds = clipped(accepted, num_tokens)
    assert 1 + sum(length + 1 for length in rounds.accepted) + rounds.num_undrafted == num_tokens


@given(LENGTHS, st.integers(1, 200))
def test_only_the_end_is_cut(accepted: list[int], num_tokens: int) -> None:
    rounds = clipped(accepted, num_tokens)
    assert list(rounds.accepted[:-1]) == accepted[: max(len(rounds.accepted) - 1, 0)]
    assert sum(rounds.accepted) + rounds.num_clipped == sum(accepted)


@given(LENGTHS)
def test_an_answer_that_ends_with_its_last_round_is_not_cut(accepted: list[int]) -> None:
    rounds = clipped(accepted, 1 + sum(length + 1 for length in accepted))
    assert (list(rounds.accepted), rounds.num_clipped, rounds.num_undrafted) == (accepted, 0, 0)


def test_tokens_that_no_round_explains_are_counted() -> None:
    assert clipped([2, 0], 10).num_undrafted == 5
