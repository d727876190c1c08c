"""Replay computes where the draft's weights are, and leaves no tensor of its own on torch's default device.

There is no second device here, so the default one is made unusable: a tensor that was not placed on purpose then holds
no data, and the first product with it fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from quark_eagle.parity.replay import PromptReplay, replay, replay_walk
from quark_eagle.parity.sampled import ProbabilisticDraft
from tests.parity.test_replay import VARIANTS, K, Pair

METHODS = {"greedy": None, "probabilistic": ProbabilisticDraft(temperature=0.7, seed=3)}


@pytest.fixture
def no_default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.fixture(params=["plain", "MLA, two layers", "Qwen3, three layers", "Llama, a sliding window"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    return Pair(tmp_path / "draft", VARIANTS[request.param])


def test_a_tensor_that_is_not_placed_is_found(no_default_device: None) -> None:
    with pytest.raises(RuntimeError):
        torch.ones(2, device="cpu") + torch.arange(2)


@pytest.mark.parametrize("method", METHODS)
def test_replay_places_every_tensor_where_the_draft_is(method: str, pair: Pair, request: pytest.FixtureRequest) -> None:
    def both() -> list[PromptReplay]:
        how = METHODS[method]
        return [replay(pair.draft, pair.prompt, K, how), *replay_walk(pair.draft, [pair.prompt] * 2, K, how)]

    expected = both()
    request.getfixturevalue("no_default_device")
    for found, wanted in zip(both(), expected, strict=True):
        assert torch.equal(found.matched, wanted.matched)
        assert found.matched.device.type == "cpu"
