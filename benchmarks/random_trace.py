"""A trace of random tokens and states that fits a draft: nothing is accepted; sizes and times are what it is for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from quark_eagle.checkpoint.geometry import Geometry
from quark_eagle.checkpoint.manifest import digest
from quark_eagle.trace.fit import default_aux_layer_ids
from quark_eagle.trace.target_trace import TRACE_NAME
from quark_eagle.trace.trace_document import (
    Sampling,
    ShardInfo,
    StatesId,
    TargetId,
    TraceDocument,
    TracedPromptInfo,
)

PROMPT_LENGTH = 16
TARGET_LAYERS = 61  # Kimi-K2.5's


def write_trace(directory: Path, geometry: Geometry, num_prompts: int, num_generated: int) -> Path:
    """Writes a trace for a draft of these sizes that has its own embedding and head; returns its directory."""
    n = PROMPT_LENGTH + num_generated
    width = geometry.num_aux_hidden_states * geometry.target_hidden_size
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "token_ids": torch.randint(geometry.vocab_size, (num_prompts * n,), generator=generator),
        "log_probs": torch.zeros(num_prompts * num_generated),
        "top2_margin": torch.ones(num_prompts * num_generated),
        "states": torch.randn(num_prompts * (n - 1), width, generator=generator).bfloat16(),
    }
    directory.mkdir(parents=True)
    shard = directory / "shard-00000.safetensors"
    save_file(tensors, shard)
    written = digest(shard)
    document = TraceDocument(
        target=TargetId(
            name="random",
            revision=None,
            config_sha256="0" * 64,
            weights_sha256=None,
            num_hidden_layers=TARGET_LAYERS,
            hidden_size=geometry.target_hidden_size,
            vocab_size=geometry.vocab_size,
            aux_layer_ids=geometry.aux_layer_ids or default_aux_layer_ids(TARGET_LAYERS),
            dtype="bfloat16",
            engine="random numbers",
            device="cpu",
        ),
        sampling=Sampling(max_tokens=num_generated),
        states=StatesId(dtype="bfloat16", width=width, projection=None),
        prompts=tuple(_prompt(i, n, num_generated, shard.name) for i in range(num_prompts)),
        prompts_sha256="0" * 64,
        shards=(ShardInfo(file=shard.name, size_bytes=written.size_bytes, sha256=written.sha256),),
        row_names=(),
        provenance={},
    )
    (directory / TRACE_NAME).write_bytes(document.to_bytes())
    return directory


def _prompt(i: int, n: int, num_generated: int, shard: str) -> TracedPromptInfo:
    return TracedPromptInfo(
        id=str(i),
        category="random",
        split="parity",
        sha256=hashlib.sha256(str(i).encode()).hexdigest(),
        num_tokens=n,
        prompt_length=n - num_generated,
        stop_reason="length",
        shard=shard,
        first_token=i * n,
        first_generated=i * num_generated,
        first_row=i * (n - 1),
    )
