"""What runs inside vLLM's workers, without vLLM: which rows are a path's, and how likely its tokens were."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from quark_eagle.trace.sampling import choose
from quark_eagle.trace.trace_document import Sampling
from quark_eagle.trace.vllm_capture import StateCapture, _Path, _score

PATH = [5, 7, 7, 9, 2]
HEAD = torch.randn(11, 4, generator=torch.Generator().manual_seed(0))


class Model(torch.nn.Module):
    """Hands out aux states as vLLM's targets do, once it is told which."""

    layers: tuple[int, ...] = ()

    def set_aux_hidden_state_layers(self, layers: tuple[int, ...]) -> None:
        self.layers = layers

    def forward(self, *, input_ids: torch.Tensor | None, positions: torch.Tensor) -> Any:
        hidden = positions[:, None].float().expand(-1, 4) + 1
        return (hidden, [hidden * 10 + layer for layer in self.layers]) if self.layers else hidden

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ HEAD.T


class Worker(StateCapture):
    def __init__(self, *, speculates: bool = False) -> None:
        self.model = Model()
        self.vllm_config = SimpleNamespace(speculative_config=object() if speculates else None)

    def get_model(self) -> Model:
        return self.model


def run(model: Model, tokens: list[int], first: int, *, given_ids: bool = True) -> Any:
    ids = torch.tensor(tokens) if given_ids else None
    return model(input_ids=ids, positions=torch.arange(first, first + len(tokens)))


@pytest.mark.parametrize("chunks", [[5], [2, 3], [1, 1, 3]])
@pytest.mark.parametrize("given_ids", [True, False])
def test_a_path_is_put_together_from_whatever_chunks_it_is_read_in(chunks: list[int], given_ids: bool) -> None:
    worker = Worker()
    worker.quark_eagle_begin([1, 3], PATH)
    first = 0
    for size in chunks:
        output = run(worker.model, PATH[first : first + size], first, given_ids=given_ids)
        assert isinstance(output, torch.Tensor)  # a runner that asked for no states gets none
        first += size
    states = torch.cat(worker._quark_eagle.finish().states)
    rows = torch.arange(5.0)[:, None].expand(-1, 4) * 10 + 10
    assert torch.equal(states, torch.cat([rows + 1, rows + 3], dim=-1))


def test_padding_and_what_follows_the_path_are_left_out() -> None:
    model = Model()
    path = _Path(model, PATH)
    positions = torch.tensor([0, 1, 2, 3, 4, 0, 0, 1])
    ids = torch.tensor([*PATH, 0, 5, 7])
    path.take(ids, positions, torch.ones(8, 4), [torch.arange(8.0)[:, None]])
    path.take(torch.tensor([2]), torch.tensor([5]), torch.ones(1, 4), [torch.tensor([[99.0]])])
    assert torch.cat(path.finish().states).tolist() == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize(("tokens", "first"), [([5, 7, 8, 9, 2], 0), (PATH, 1), (PATH[:3], 0)])
def test_rows_of_other_tokens_or_places_are_no_path(tokens: list[int], first: int) -> None:
    worker = Worker()
    worker.quark_eagle_begin([1], PATH)
    run(worker.model, tokens, first)
    with pytest.raises(RuntimeError, match=r"showed [0-3] of the 5 tokens of a path"):
        worker._quark_eagle.finish()


def test_a_runner_that_speculates_keeps_the_states_that_it_asked_for() -> None:
    worker = Worker(speculates=True)
    worker.model.set_aux_hidden_state_layers((2,))
    worker.quark_eagle_begin([1, 3], PATH)
    assert isinstance(run(worker.model, PATH, 0), tuple)
    assert worker.model.layers == (2,)  # its own, which are the draft's


def test_a_model_that_feeds_no_draft_is_refused() -> None:
    worker = Worker()
    worker.model = torch.nn.Linear(1, 1)  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="Linear has no set_aux_hidden_state_layers"):
        worker.quark_eagle_begin([1], PATH)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.7), Sampling(temperature=1.3, top_p=0.8)], ids=str
)
def test_scores_are_those_of_our_own_sampling(sampling: Sampling) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(50, 11, generator=generator) * 3
    chosen = choose(logits, sampling, torch.rand(50, generator=generator, dtype=torch.float64))
    found = _score(logits, chosen.token_ids, sampling.temperature, sampling.top_p)
    torch.testing.assert_close(found["log_probs"], chosen.log_probs)
    torch.testing.assert_close(found["top2_margin"], chosen.top2_margin)
    assert bool((found["regret"] >= 0).all())
    if sampling.is_greedy:
        assert not found["regret"].any()


def test_an_answers_scores_follow_from_its_own_rows() -> None:
    """The row of a token predicts the next one; blocks of rows make no difference."""
    model = Model()
    path = _Path(model, PATH * 40)
    hidden = torch.randn(200, 4, generator=torch.Generator().manual_seed(2))
    path.take(torch.tensor(PATH * 40), torch.arange(200), hidden, [torch.zeros(200, 1)])
    answer = [3] * 150
    found = path.scores(answer, 0.0, 1.0)
    assert found is not None
    wanted = (hidden[-150:] @ HEAD.T).log_softmax(-1)[:, 3]
    torch.testing.assert_close(found["log_probs"], wanted)
