"""Rotary embeddings against transformers' own formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quark_eagle.errors import CheckpointError
from quark_eagle.model.rope import Rope

HEAD_DIM = 128
KINDS: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 100000.0},
    {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 8192},
    {"rope_type": "yarn", "rope_theta": 50000.0, "factor": 64.0, "original_max_position_embeddings": 4096,
     "beta_fast": 32.0, "beta_slow": 1.0},
    {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096,
     "mscale": 1.0, "mscale_all_dim": 1.0},
    {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "original_max_position_embeddings": 4096,
     "truncate": False},
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
]  # fmt: skip


@pytest.mark.parametrize("rope", KINDS, ids=lambda rope: f"{rope['rope_type']}-{rope['rope_theta']:g}")
def test_frequencies_and_magnitude_equal_transformers(rope: dict[str, Any]) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=HEAD_DIM * 2, num_attention_heads=2, head_dim=HEAD_DIM, max_position_embeddings=262144,
        rope_parameters=dict(rope),
    )  # fmt: skip
    ours = Rope.of(rope, HEAD_DIM)
    if rope["rope_type"] == "default":
        theirs = LlamaRotaryEmbedding(config).inv_freq, 1.0
    else:
        theirs = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
    torch.testing.assert_close(ours.inverse_frequencies, theirs[0].float(), rtol=1e-5, atol=1e-9)
    assert ours.magnitude == pytest.approx(theirs[1])


def test_turning_keeps_products_that_depend_on_the_distance_alone() -> None:
    rope = Rope.of(KINDS[0], HEAD_DIM)
    query, key = torch.randn(2, 1, 1, HEAD_DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    near = (rope(query, torch.tensor([7])) * rope(key, torch.tensor([3]))).sum()
    far = (rope(query, torch.tensor([107])) * rope(key, torch.tensor([103]))).sum()
    torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-3)


def test_an_unknown_kind_is_refused_with_what_still_works() -> None:
    with pytest.raises(CheckpointError, match=r"kind 'longrope'.*replay knows default, linear, llama3 and yarn"):
        Rope.of({"rope_type": "longrope", "rope_theta": 1e4}, HEAD_DIM)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(CheckpointError, match="'low_freq_factor'"):
        Rope.of({"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}, HEAD_DIM)
