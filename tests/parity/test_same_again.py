"""A draft against itself, and the same measurement in another order, in other groups, with other threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.parity.acceptance import walk_histogram
from quark_eagle.parity.compare import Comparison
from quark_eagle.parity.replay import replay, replay_walk
from quark_eagle.parity.verdict import Rules, judge
from quark_eagle.trace.target_trace import TargetTrace, TracedPrompt
from tests.tiny_trace import write_tiny_trace

K = 3


@pytest.fixture(scope="module")
def draft(pair: tuple[Path, Path]) -> Eagle3Draft:
    """In float32, where rounding makes no two logits equal that are not."""
    checkpoint = Checkpoint.open(pair[0])
    rows = TargetTrace.open(pair[1]).rows.weights
    return Eagle3Draft.load(checkpoint, Eagle3Layout.of(checkpoint), rows, torch.float32)


@pytest.fixture(scope="module")
def prompts(pair: tuple[Path, Path]) -> list[TracedPrompt]:
    return list(TargetTrace.open(pair[1]))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def counts(draft: Eagle3Draft, prompts: Sequence[TracedPrompt]) -> list[list[int]]:
    return [walk_histogram(found.matched.tolist(), K) for found in replay_walk(draft, prompts, K)]


def test_a_draft_against_itself_is_exactly_no_change_and_passes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    trace = write_tiny_trace(tmp_path / "trace", pair[0], num_prompts=64, num_generated=6)
    found = judge(Comparison.open(pair[0], pair[0], trace, walk_only=True).run(), Rules())
    assert found.difference is not None
    for interval in (found.difference.interval, found.difference.second_interval):
        assert interval is not None
        assert (interval.low, interval.high) == (0, 0)
    assert (found.outcome, found.rule) == ("pass", "interval")


def test_the_order_of_prompts_does_not_change_their_counts(draft: Eagle3Draft, prompts: list[TracedPrompt]) -> None:
    assert counts(draft, prompts[::-1])[::-1] == counts(draft, prompts)


@pytest.mark.parametrize("size", [1, 3])
def test_the_size_of_a_group_does_not_change_counts(draft: Eagle3Draft, prompts: list[TracedPrompt], size: int) -> None:
    groups = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    assert [row for group in groups for row in counts(draft, group)] == counts(draft, prompts)


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_does_not_change_counts(draft: Eagle3Draft, prompts: list[TracedPrompt]) -> None:
    many = counts(draft, prompts)
    torch.set_num_threads(1)
    assert counts(draft, prompts) == many


def test_every_round_of_a_walk_is_one_of_the_starts(draft: Eagle3Draft, prompts: list[TracedPrompt]) -> None:
    """The walk's histogram is taken from the every-start lengths, and never holds more of a length than there are."""
    for prompt, walked in zip(prompts, counts(draft, prompts), strict=True):
        every = replay(draft, prompt, K).accepted.tolist()
        assert walked == walk_histogram(every, K)
        assert all(count <= every.count(j) for j, count in enumerate(walked))
