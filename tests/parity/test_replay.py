"""The replay against a server's loop written out, and what may not change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from quark_eagle.checkpoint.family import DraftFamily
from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import CheckpointError, MissingTensorError
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.parity.replay import DEAD, _Context, replay, replay_walk
from quark_eagle.trace.target_trace import TracedPrompt
from quark_eagle.trace.trace_document import TracedPromptInfo
from tests.naive_draft import NaiveDraft
from tests.published import PUBLISHED
from tests.tiny import TinyDraft, write_tiny_draft

K = 4
VARIANTS: dict[str, TinyDraft] = {
    "plain": TinyDraft(),
    "normed": TinyDraft(norm_before_residual=True, norm_output=True),
    "whole vocabulary": TinyDraft(draft_vocab=None, embed_tokens=True),
    "wide heads": TinyDraft(kv_heads=4, head_dim=32, attention_bias=True),
    "no query bottleneck": TinyDraft(family=DraftFamily.DEEPSEEK_MLA, q_lora_rank=None),
    **{name: draft for name, draft in PUBLISHED.items() if not name.startswith("P-EAGLE")},
}


def opened(directory: Path) -> tuple[Checkpoint, Eagle3Layout]:
    checkpoint = Checkpoint.open(directory)
    return checkpoint, Eagle3Layout.of(checkpoint)


def traced_prompt(
    token_ids: torch.Tensor, prompt_length: int, aux: torch.Tensor | None, projected: torch.Tensor | None = None
) -> TracedPrompt:
    generated = len(token_ids) - prompt_length
    info = TracedPromptInfo(
        id="p", category="c", split="parity", sha256="0" * 64, num_tokens=len(token_ids), prompt_length=prompt_length,
        stop_reason="length", shard="shard-00000.safetensors", first_token=0, first_row=0, first_generated=0,
    )  # fmt: skip
    return TracedPrompt(
        info=info, token_ids=token_ids, aux_hidden_states=aux, projected=projected,
        log_probs=torch.zeros(generated), top2_margin=torch.zeros(generated),
    )  # fmt: skip


class Pair:
    """A tiny draft and a recorded path on which it is right often enough to be interesting."""

    def __init__(self, directory: Path, draft: TinyDraft | None = None, seed: int = 0) -> None:
        self.checkpoint, self.layout = opened(write_tiny_draft(directory, draft))
        generator = torch.Generator().manual_seed(seed)
        geometry = self.layout.geometry
        self.embed = torch.randn(geometry.vocab_size, geometry.hidden_size, generator=generator).bfloat16()
        rows = {} if "embed_tokens.weight" in self.layout.by_canonical else {
            "embed_ids": torch.arange(geometry.vocab_size), "embed_rows": self.embed,
        }  # fmt: skip
        if not rows:
            self.embed = self.checkpoint.tensor(self.layout.by_canonical["embed_tokens.weight"])
        self.draft = Eagle3Draft.load(self.checkpoint, self.layout, rows, dtype=torch.float32)
        weights = {canonical: self.checkpoint.tensor(name) for canonical, name in self.layout.by_canonical.items()}
        self.naive = NaiveDraft(weights, self.checkpoint.config, self.embed)
        self.prompt = self._path(generator, num_tokens=24, prompt_length=5)

    def _path(self, generator: torch.Generator, num_tokens: int, prompt_length: int) -> TracedPrompt:
        """A path that takes the draft's own proposals most of the time, as a target that it knows well would."""
        geometry = self.layout.geometry
        aux = torch.randn(
            num_tokens - 1, geometry.num_aux_hidden_states * geometry.target_hidden_size, generator=generator
        ).bfloat16()
        tokens = torch.randint(0, geometry.vocab_size, (prompt_length + 1,), generator=generator).tolist()
        while len(tokens) < num_tokens:
            proposals = self.naive.accepted([*tokens, 0], aux, len(tokens) - 2, K)[1]
            wanted = int(torch.randint(0, K + 1, (1,), generator=generator))
            tokens += [*proposals[:wanted], int(torch.randint(0, geometry.vocab_size, (1,), generator=generator))]
        return traced_prompt(torch.tensor(tokens[:num_tokens]), prompt_length, aux)


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair") / "draft", VARIANTS[request.param])


def test_replay_equals_a_server_loop_at_every_start(pair: Pair) -> None:
    result = replay(pair.draft, pair.prompt, K)
    tokens, first = pair.prompt.token_ids.tolist(), pair.prompt.info.prompt_length - 1
    assert pair.prompt.aux_hidden_states is not None
    naive = [
        pair.naive.accepted(tokens, pair.prompt.aux_hidden_states, first + s, K) for s in range(len(result.matched))
    ]
    assert result.matched.tolist() == [matched for matched, _ in naive]
    for start, (row, (matched, proposals)) in enumerate(zip(result.proposals.tolist(), naive, strict=True)):
        made = [token for token in row if token != DEAD]
        assert made == proposals[: min(matched + 1, K, len(naive) - start)]
    assert len(set(result.matched.tolist())) > 2, "the path should hold rounds of several lengths"


def test_walk_only_equals_the_replay_at_the_starts_that_a_server_visits(pair: Pair) -> None:
    full = replay(pair.draft, pair.prompt, K)
    (walked,) = replay_walk(pair.draft, [pair.prompt], K)
    start, visited = 0, []
    while start < len(full.matched):
        visited.append(start)
        start += int(full.accepted[start]) + 1
    assert walked.matched[visited].tolist() == full.matched[visited].tolist()
    assert walked.proposals[visited].tolist() == full.proposals[visited].tolist()
    assert all(walked.matched[s] == DEAD for s in range(len(full.matched)) if s not in visited)


def test_prompts_walked_together_do_not_see_each_other(pair: Pair) -> None:
    short = traced_prompt(pair.prompt.token_ids[:15], 5, pair.prompt.aux_hidden_states[:14])  # type: ignore[index]
    alone = [replay_walk(pair.draft, [prompt], K)[0] for prompt in (pair.prompt, short)]
    together = replay_walk(pair.draft, [pair.prompt, short], K)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.matched, other.matched)


def test_a_projected_trace_gives_the_same_replay(pair: Pair) -> None:
    assert pair.prompt.aux_hidden_states is not None
    projected = pair.draft.combine(pair.prompt.aux_hidden_states)
    prompt = traced_prompt(pair.prompt.token_ids, 5, None, projected)
    assert torch.equal(replay(pair.draft, prompt, K).matched, replay(pair.draft, pair.prompt, K).matched)


def test_a_larger_k_extends_chains_and_changes_no_shorter_one(pair: Pair) -> None:
    longer, shorter = replay(pair.draft, pair.prompt, 8), replay(pair.draft, pair.prompt, 2)
    assert torch.equal(longer.matched.clamp(max=2), shorter.matched)


def test_accepted_leaves_room_for_the_bonus_token(pair: Pair) -> None:
    result = replay(pair.draft, pair.prompt, K)
    starts = torch.arange(len(result.matched))
    assert bool((result.accepted <= len(result.matched) - 1 - starts).all())
    assert result.accepted[-1] == 0


def test_a_row_leaves_as_many_numbers_in_the_cache_as_the_geometry_says(pair: Pair) -> None:
    past = _Context.of(pair.draft, pair.prompt).past
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in (*past.keys, *past.values)
    }
    assert sum(held.values()) == 4 * (len(pair.prompt.token_ids) - 1) * pair.layout.geometry.cache_width


def test_shared_tensors_are_held_once(tmp_path: Path) -> None:
    checkpoint, layout = opened(write_tiny_draft(tmp_path / "draft", embed_tokens=True))
    first = Eagle3Draft.load(checkpoint, layout)
    second = Eagle3Draft.load(checkpoint, layout, like=first)
    assert all(second.weights[name] is tensor for name, tensor in first.weights.items())


def test_a_miscast_fc_proposes_nothing_that_is_accepted(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "draft")
    rows = {"embed_ids": torch.arange(256), "embed_rows": pair.embed}
    dead = Eagle3Draft.load(pair.checkpoint, pair.layout, rows, dtype=torch.float32, miscast=["fc"])
    assert int(replay(pair.draft, pair.prompt, K).matched.sum()) > 5
    assert int(replay(dead, pair.prompt, K).matched.sum()) <= 1


def test_a_draft_without_a_head_says_what_brings_it(tmp_path: Path) -> None:
    checkpoint, layout = opened(write_tiny_draft(tmp_path / "draft", lm_head=False, draft_vocab=None))
    with pytest.raises(MissingTensorError, match=r"no lm_head\.weight.*Record the trace"):
        Eagle3Draft.load(checkpoint, layout)


def test_a_token_without_its_embedding_row_is_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "draft")
    pair.draft.weights["embed_ids"], pair.draft.weights["embed_rows"] = torch.arange(3), pair.embed[:3]
    with pytest.raises(MissingTensorError, match="no embedding row"):
        replay(pair.draft, pair.prompt, K)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"eagle_config": {"use_aux_hidden_state": False}}, "reads none of the target's aux states"),
        ({"architectures": ["PEagleDraftModel"]}, r"P-EAGLE draft, which proposes all tokens in one pass"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rotary embedding of kind 'longrope'"),
        ({"logit_scale": 0.5}, r"logit_scale is 0\.5"),
        ({"is_causal": False}, "is_causal is false"),
    ],
)
def test_what_replay_would_compute_otherwise_is_refused_with_that_reason(
    extra: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    checkpoint, layout = opened(write_tiny_draft(tmp_path / "draft", extra=extra))
    with pytest.raises(CheckpointError, match=rf"config\.json.*(?s:.*){reason}(?s:.*)`verify` work"):
        Eagle3Draft.load(checkpoint, layout)
