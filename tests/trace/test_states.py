from __future__ import annotations

import pytest
import torch

from quark_eagle.errors import TraceError
from quark_eagle.trace.states import check_path, check_states


def good(rows: int = 5, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(rows, 12, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [1, 5])
def test_ordinary_states_pass(rows: int, dtype: torch.dtype) -> None:
    check_states(good(rows, dtype), 3, "trace")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_state_that_is_not_finite_is_named(value: float) -> None:
    states = good()
    states[3, 9] = value
    with pytest.raises(
        TraceError, match=rf"trace: the hidden state of token 3 is {value} \(aux layer 3 of 3, column 1\)"
    ):
        check_states(states, 3, "trace")


def test_a_zero_state_is_refused() -> None:
    states = good()
    states[2, 4:8] = 0
    with pytest.raises(TraceError, match=r"the hidden state of token 2 is zero throughout \(aux layer 2 of 3\)"):
        check_states(states, 3, "trace")


def test_a_zero_inside_a_state_is_none() -> None:
    states = good()
    states[:, 4] = 0
    check_states(states, 3, "trace")


def test_a_constant_layer_is_refused() -> None:
    states = good()
    states[:, 8:] = states[0, 8:]
    with pytest.raises(TraceError, match=r"all 5 tokens have the same hidden state \(aux layer 3 of 3\)"):
        check_states(states, 3, "trace")


def test_a_state_of_one_number_throughout_is_refused() -> None:
    states = good()
    states[2, 4:8] = 1.5
    with pytest.raises(TraceError, match=r"the hidden state of token 2 is 1.5 throughout \(aux layer 2 of 3\)"):
        check_states(states, 3, "trace")


def test_states_whose_logits_point_elsewhere_are_not_of_the_path() -> None:
    regret = torch.zeros(100)
    regret[:5] = 3.0
    check_path([regret], "target")
    regret[5] = 3.0
    with pytest.raises(TraceError, match="6 of 100 generated tokens lie more than 1 below the largest logit"):
        check_path([regret], "target")


def test_one_answer_with_anothers_states_is_not_lost_among_many() -> None:
    many = [torch.zeros(100) for _ in range(63)]
    check_path([*many, torch.zeros(100)], "target")
    with pytest.raises(TraceError, match="target: answer 64 of 64: 100 of 100 generated tokens lie more than 1 below"):
        check_path([*many, torch.full((100,), 3.0)], "target")


def test_one_token_of_a_short_answer_is_no_finding_and_one_of_each_is() -> None:
    short = torch.tensor([0.0, 0.0, 0.0, 3.0])
    check_path([*[torch.zeros(4)] * 31, short], "target")
    with pytest.raises(TraceError, match="target: 32 of 128 generated tokens"):
        check_path([short] * 32, "target")


def test_ties_that_fall_the_other_way_are_no_other_path() -> None:
    check_path([torch.full((100,), 0.9)], "target")
