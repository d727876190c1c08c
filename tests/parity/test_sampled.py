"""Replay along sampled paths, against rejection sampling with the same Eagle3 draft, summed over all its draws.

The target is a table of 5 tokens whose hidden states go with its contexts; the draft is a real one, tiny, with a
pruned vocabulary. Every answer of 5 tokens that the target can give is recorded and replayed.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import UsageError
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.parity.acceptance import walk
from quark_eagle.parity.replay import PromptReplay, replay, replay_walk
from quark_eagle.parity.sampled import ProbabilisticDraft, log_probs
from quark_eagle.trace.sampling import choose
from quark_eagle.trace.target_trace import TracedPrompt
from quark_eagle.trace.trace_document import Sampling, TracedPromptInfo
from tests.naive_draft import NaiveDraft
from tests.rejection_sampling import Outcome, Probs, Speculation, Tokens, greedy
from tests.tiny import write_tiny_draft

VOCABULARY, NUM_TOKENS, K = 5, 5, 3
PROMPT: Tokens = (1, 3)
SAMPLING = Sampling(temperature=0.8, top_p=0.9, seed=7, max_tokens=NUM_TOKENS)
SIGMAS = 4.5  # a true count is further off in one of 150 000 seeds


class World:
    """The target, the draft by product code and by the slow road, and every path."""

    def __init__(self, directory: Path) -> None:
        checkpoint = Checkpoint.open(write_tiny_draft(directory, vocab=VOCABULARY, draft_vocab=4, embed_tokens=True))
        layout = Eagle3Layout.of(checkpoint)
        self.draft = Eagle3Draft.load(checkpoint, layout, dtype=torch.float32)
        weights = {canonical: checkpoint.tensor(name) for canonical, name in layout.by_canonical.items()}
        geometry = layout.geometry
        self.naive = NaiveDraft(weights, checkpoint.config, weights["embed_tokens.weight"])
        self.outside = next(token for token in range(VOCABULARY) if token not in self._draft_tokens)
        generator = torch.Generator().manual_seed(0)
        width = geometry.num_aux_hidden_states * geometry.target_hidden_size
        self._states = torch.randn(VOCABULARY, VOCABULARY, width, generator=generator).bfloat16()
        self._logits = torch.randn(VOCABULARY, VOCABULARY, VOCABULARY, generator=generator)
        self.pair = Speculation(target=cache(self._target), draft=cache(self._proposes), k=K)

    @property
    def _draft_tokens(self) -> list[int]:
        d2t = self.naive.weights["d2t"]
        return (torch.arange(len(d2t)) + d2t).tolist()

    def states(self, tokens: Tokens) -> torch.Tensor:
        """[n - 1, width]: row t after the target consumed token t."""
        before = (0, *tokens)
        return torch.stack([self._states[before[t], token] for t, token in enumerate(tokens[:-1])])

    def logits(self, known: Tokens) -> torch.Tensor:
        return self._logits[known[-2], known[-1]]

    def _target(self, known: Tokens) -> Probs:
        """Temperature and top-p by their definitions."""
        probs = (self.logits(known).double() / SAMPLING.temperature).softmax(-1).numpy()
        kept = np.zeros_like(probs)
        for token in np.argsort(-probs):
            kept[token] = probs[token]
            if kept.sum() >= SAMPLING.top_p:
                break
        return kept / kept.sum()

    def _proposes(self, known: Tokens, chain: Tokens) -> Probs:
        """The draft's distribution in a round that began after ``known``, as a server computes it; temperature only."""
        state, normed, cache = self.naive.read(known, self.states(known), len(known) - 2)
        for step, token in enumerate(chain, start=1):
            state, normed = self.naive.row(state, token, len(known) - 2 + step, cache)
        probs = (self.naive.logits(normed) / SAMPLING.temperature).softmax(-1)
        spread = torch.zeros(VOCABULARY, dtype=torch.float64).index_copy(0, torch.tensor(self._draft_tokens), probs)
        return spread.numpy()

    def recorded(self, path: Tokens, seed: int = 0) -> TracedPrompt:
        """A path as `quark-eagle trace` keeps it."""
        tokens = PROMPT + path
        log_probs = [np.log(self.pair.target(PROMPT + path[:i])[y]) for i, y in enumerate(path)]
        name = f"{seed}:{path}"
        info = TracedPromptInfo(
            id=name, category="c", split="parity", sha256=hashlib.sha256(name.encode()).hexdigest(),
            num_tokens=len(tokens), prompt_length=len(PROMPT), stop_reason="length", shard="shard-00000.safetensors",
            first_token=0, first_row=0, first_generated=0,
        )  # fmt: skip
        return TracedPrompt(
            info=info, token_ids=torch.tensor(tokens), aux_hidden_states=self.states(tokens), projected=None,
            log_probs=torch.tensor(log_probs, dtype=torch.float32), top2_margin=torch.ones(len(path)),
        )  # fmt: skip

    @cached_property
    def paths(self) -> Mapping[Tokens, float]:
        return self.pair.paths(PROMPT, NUM_TOKENS)

    def walked(self, seed: int = 0, method: ProbabilisticDraft | None = None) -> list[tuple[Tokens, PromptReplay]]:
        """Every path with its replay."""
        recorded = [self.recorded(path, seed) for path in self.paths]
        return list(zip(self.paths, replay_walk(self.draft, recorded, K, method), strict=True))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world") / "draft")


def lengths_of(replayed: PromptReplay) -> Tokens:
    return tuple(length for _, length in walk(replayed.matched, K))


def test_argmax_proposals_on_sampled_paths_make_exactly_the_rounds_of_rejection_sampling(world: World) -> None:
    """No tolerance but rounding: given a path, an argmax draft leaves nothing to chance."""
    pair = Speculation(target=world.pair.target, draft=greedy(world.pair.draft), k=K)
    expected = pair.outcomes(PROMPT, NUM_TOKENS)
    found: dict[Outcome, float] = {(path, lengths_of(replayed)): world.paths[path] for path, replayed in world.walked()}
    assert found.keys() == expected.keys()
    assert all(mass == pytest.approx(expected[outcome], rel=1e-9) for outcome, mass in found.items())
    assert len({lengths for _, lengths in found}) >= 7, "of the 8 ways to divide 4 tokens into rounds of at most 4"


def test_a_token_is_accepted_where_its_uniform_number_lies_below_draft_over_target(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tolerance: with the numbers given, every start of a path is decided, by the slow road as by replay."""
    numbers = torch.rand(K, NUM_TOKENS - 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    monkeypatch.setattr(ProbabilisticDraft, "uniforms", lambda self, sha256, starts, step: numbers[step, :starts])
    seen = set()
    for path in list(world.paths)[::17]:
        expected = []
        for start in range(NUM_TOKENS - 1):
            known, rest = PROMPT + path[: start + 1], path[start + 1 :][:K]
            accepted = [
                float(numbers[step, start])
                < world.pair.draft(known, rest[:step])[y] / world.pair.target(known + rest[:step])[y]
                for step, y in enumerate(rest)
            ]
            expected.append([*accepted, False].index(False))
        found = replay(world.draft, world.recorded(path), K, ProbabilisticDraft.along(SAMPLING)).matched.tolist()
        assert found == expected, path
        seen |= set(found)
    assert seen == {0, 1, 2, 3}


def test_sampled_proposals_make_the_rounds_of_rejection_sampling(world: World) -> None:
    """Expected counts of every way to divide the answer into rounds, over all paths, each judged by two seeds.

    The paths are weighed, not drawn, so chance is in the uniform numbers alone, and its variance is known exactly.
    """
    expected: dict[Tokens, float] = defaultdict(float)
    variance: dict[Tokens, float] = defaultdict(float)
    seeds = range(2)
    for (path, lengths), mass in world.pair.outcomes(PROMPT, NUM_TOKENS).items():
        share = mass / world.paths[path]  # P(lengths | path)
        expected[lengths] += mass
        variance[lengths] += world.paths[path] ** 2 * share * (1 - share) / len(seeds)
    found: dict[Tokens, float] = defaultdict(float)
    for seed in seeds:
        for path, replayed in world.walked(seed, ProbabilisticDraft.along(SAMPLING)):
            found[lengths_of(replayed)] += world.paths[path] / len(seeds)
    assert found.keys() == expected.keys()
    for lengths, mass in expected.items():
        assert found[lengths] == pytest.approx(mass, abs=SIGMAS * variance[lengths] ** 0.5), lengths


def test_the_recorder_draws_the_distribution_that_acceptance_is_measured_against(world: World) -> None:
    """The log-probability that a trace holds is the target's after temperature and top-p."""
    for u in (0.05, 0.5, 0.95):
        known = (*PROMPT, 2)
        chosen = choose(world.logits(known)[None], SAMPLING, torch.tensor([u]))
        y = int(chosen.token_ids)
        assert float(chosen.log_probs.exp()) == pytest.approx(world.pair.target(known)[y], rel=1e-6)


def test_a_drafts_log_probability_is_softmax_at_the_temperature_and_nothing_outside_its_vocabulary(
    world: World,
) -> None:
    normed = torch.randn(7, 64, generator=torch.Generator().manual_seed(1))
    logits = world.draft.linears["lm_head"](normed).double() / 0.5
    for i, token in enumerate(world._draft_tokens):
        found = log_probs(world.draft, normed, torch.full((7,), token), 0.5)
        assert torch.allclose(found, logits.log_softmax(-1)[:, i])
    outside = log_probs(world.draft, normed, torch.full((7,), world.outside), 0.5)
    assert torch.equal(outside.exp(), torch.zeros(7, dtype=torch.float64))


def test_a_token_outside_the_drafts_vocabulary_is_never_accepted(world: World) -> None:
    method = ProbabilisticDraft.along(SAMPLING)
    traced = world.recorded(next(iter(world.paths)))
    tokens = torch.tensor((*PROMPT, *(world.outside,) * NUM_TOKENS))
    never = replace(traced, token_ids=tokens, log_probs=torch.full((NUM_TOKENS,), -30.0))  # min(1, draft / target) = 1
    assert replay(world.draft, never, K, method).matched.tolist() == [0, 0, 0, 0]


def test_the_walk_alone_makes_the_rounds_of_the_full_replay(world: World) -> None:
    method = ProbabilisticDraft.along(SAMPLING)
    recorded = [world.recorded(path) for path in list(world.paths)[::29]]
    for traced, walked in zip(recorded, replay_walk(world.draft, recorded, K, method), strict=True):
        assert lengths_of(walked) == lengths_of(replay(world.draft, traced, K, method))


def test_a_larger_k_changes_no_shorter_chain(world: World) -> None:
    method = ProbabilisticDraft.along(SAMPLING)
    for path in list(world.paths)[::97]:
        longer, shorter = (replay(world.draft, world.recorded(path), k, method) for k in (4, 2))
        assert torch.equal(longer.matched.clamp(max=2), shorter.matched)


def test_uniform_numbers_hang_on_seed_prompt_and_step_alone_and_are_not_those_that_drew_the_path() -> None:
    from quark_eagle.trace.sampling import uniforms_of

    method, sha256 = ProbabilisticDraft(temperature=1.0, seed=7), "ab" * 32
    numbers = method.uniforms(sha256, 1000, 0)
    assert torch.equal(numbers, method.uniforms(sha256, 1000, 0))
    others = (
        method.uniforms(sha256, 1000, 1),
        method.uniforms("cd" * 32, 1000, 0),
        ProbabilisticDraft(temperature=1.0, seed=8).uniforms(sha256, 1000, 0),
        uniforms_of(Sampling(temperature=1.0, seed=7, max_tokens=1000), sha256),
    )
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack((numbers, other)))[0, 1])) < 0.15  # 4.5 / √1000
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1


def test_a_greedy_path_has_no_distribution_to_draw_from() -> None:
    with pytest.raises(UsageError, match=r"recorded at temperature 0.*--temperature"):
        ProbabilisticDraft.along(Sampling())
