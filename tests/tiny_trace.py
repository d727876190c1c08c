"""A trace on disk that fits a tiny draft: random states, and tokens that the draft proposes more often than not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.manifest import digest, sha256_of_weights
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.documents.base import sha256_of_prompts
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.parity.acceptance import walk
from quark_eagle.parity.replay import replay
from quark_eagle.trace.target_trace import ROWS_NAME, TRACE_NAME, TracedPrompt
from quark_eagle.trace.trace_document import (
    Sampling,
    ShardInfo,
    StatesId,
    TargetId,
    TraceDocument,
    TracedPromptInfo,
)

PROMPT_LENGTH = 4
CATEGORIES = ("coding", "math")


def write_tiny_trace(
    directory: Path,
    draft: Path,
    *,
    num_prompts: int = 4,
    num_generated: int = 16,
    obeys: float = 0.8,
    seed: int = 0,
    served_k: int | None = None,
) -> Path:
    """Writes a trace for the draft and returns its directory.

    Args:
        directory: to be made.
        draft: a tiny BF16 draft without embed_tokens.
        num_prompts: categories take turns.
        num_generated: tokens of each answer.
        obeys: how often the target emits what the draft proposes first; the rest is drawn from the draft's vocabulary.
        seed: of states and tokens.
        served_k: as if the draft had been served along at this k, and had got accepted what replay finds.
    """
    generator = torch.Generator().manual_seed(seed)
    checkpoint = Checkpoint.open(draft)
    layout = Eagle3Layout.of(checkpoint)
    geometry = layout.geometry
    rows = {
        "embed_ids": torch.arange(geometry.vocab_size),
        "embed_rows": torch.randn(geometry.vocab_size, geometry.hidden_size, generator=generator).bfloat16(),
    }
    model = Eagle3Draft.load(checkpoint, layout, rows)
    n = PROMPT_LENGTH + num_generated
    width = geometry.num_aux_hidden_states * geometry.target_hidden_size
    states = torch.randn(num_prompts * (n - 1), width, generator=generator).bfloat16()
    infos = [_info(i, n) for i in range(num_prompts)]
    tokens = [_answer(model, info, states[info.first_row :][: n - 1], obeys, generator) for info in infos]
    directory.mkdir(parents=True)
    shard = {
        "token_ids": torch.cat(tokens),
        "log_probs": torch.zeros(num_prompts * num_generated),
        "top2_margin": torch.ones(num_prompts * num_generated),
        "states": states,
    }
    metadata, provenance = {}, dict(_PROVENANCE)
    if served_k is not None:
        traced = [
            traced_prompt(info, path, states[info.first_row :][: n - 1])
            for info, path in zip(infos, tokens, strict=True)
        ]
        rounds = [
            [accepted for _, accepted in walk(replay(model, it, served_k).matched.tolist(), served_k)] for it in traced
        ]
        metadata["trace"] = json.dumps({"served_rounds": rounds})
        weights = sha256_of_weights(draft, checkpoint.shards)
        provenance["served"] = {"num_speculative_tokens": served_k, "draft_weights_sha256": weights}
    save_file(shard, directory / "shard-00000.safetensors", metadata)
    save_file(rows, directory / ROWS_NAME)
    document = replace(_document(directory, layout, infos, width), provenance=provenance)
    (directory / TRACE_NAME).write_bytes(document.to_bytes())
    return directory


def traced_prompt(info: TracedPromptInfo, token_ids: torch.Tensor, states: torch.Tensor) -> TracedPrompt:
    return TracedPrompt(
        info=info,
        token_ids=token_ids,
        aux_hidden_states=states,
        projected=None,
        log_probs=torch.zeros(info.num_generated),
        top2_margin=torch.ones(info.num_generated),
    )


def _answer(
    draft: Eagle3Draft, info: TracedPromptInfo, states: torch.Tensor, obeys: float, generator: torch.Generator
) -> torch.Tensor:
    vocabulary = torch.arange(draft.geometry.draft_vocab_size)
    if "d2t" in draft.weights:
        vocabulary = vocabulary + draft.weights["d2t"]
    tokens = vocabulary[torch.randint(len(vocabulary), (info.num_tokens,), generator=generator)]
    follows = torch.rand(info.num_tokens, generator=generator) < obeys
    for place in range(PROMPT_LENGTH + 1, info.num_tokens):
        if follows[place]:
            so_far = traced_prompt(_info(0, place + 1), tokens[: place + 1], states[:place])
            tokens[place] = replay(draft, so_far, 1).proposals[-1, 0]
    return tokens


def _info(i: int, n: int) -> TracedPromptInfo:
    generated = n - PROMPT_LENGTH
    return TracedPromptInfo(
        id=f"prompt-{i}",
        category=CATEGORIES[i % len(CATEGORIES)],
        split="parity",
        sha256=hashlib.sha256(bytes([i])).hexdigest(),
        num_tokens=n,
        prompt_length=PROMPT_LENGTH,
        stop_reason="length",
        shard="shard-00000.safetensors",
        first_token=i * n,
        first_generated=i * generated,
        first_row=i * (n - 1),
    )


def _document(directory: Path, layout: Eagle3Layout, infos: list[TracedPromptInfo], width: int) -> TraceDocument:
    geometry = layout.geometry
    assert geometry.aux_layer_ids is not None
    return TraceDocument(
        target=TargetId(
            name="tiny-target",
            revision=None,
            config_sha256="0" * 64,
            weights_sha256=None,
            num_hidden_layers=12,
            hidden_size=geometry.target_hidden_size,
            vocab_size=geometry.vocab_size,
            aux_layer_ids=geometry.aux_layer_ids,
            dtype="bfloat16",
            engine="tests",
            device="cpu",
        ),
        sampling=Sampling(max_tokens=infos[0].num_generated),
        states=StatesId(dtype="bfloat16", width=width, projection=None),
        prompts=tuple(infos),
        prompts_sha256=sha256_of_prompts((it.id, it.category, it.split, it.sha256) for it in infos),
        shards=tuple(_shard(directory / name) for name in (ROWS_NAME, "shard-00000.safetensors")),
        row_names=("embed_ids", "embed_rows"),
        provenance=_PROVENANCE,
    )


def _shard(path: Path) -> ShardInfo:
    found = digest(path)
    return ShardInfo(file=path.name, size_bytes=found.size_bytes, sha256=found.sha256)


_PROVENANCE: dict[str, Any] = {"engine": "tests", "versions": {"torch": str(torch.__version__)}}
