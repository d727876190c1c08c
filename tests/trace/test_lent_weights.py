"""The embedding and the head that a draft borrows are found in the target's files before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from quark_eagle.errors import TraceError
from quark_eagle.trace.lent_weights import LentWeights
from quark_eagle.trace.target_identity import TargetGeometry
from tests.tiny import write_tensors
from tests.tiny_target import write_config


def lender(tmp_path: Path, **shapes: tuple[int, int]) -> Path:
    import torch

    directory = write_config(tmp_path / "target", {})
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}
    write_tensors(directory, tensors)
    return directory


GEOMETRY = TargetGeometry(num_hidden_layers=61, hidden_size=8, vocab_size=16)
WHOLE = {
    "language_model.model.embed_tokens.weight": (20, 8),  # padded
    "language_model.model.layers.61.embed_tokens.weight": (20, 8),  # of a layer that predicts two tokens ahead
    "language_model.lm_head.weight": (20, 8),
    "vision_tower.patch_embed.weight": (16, 8),
}


def test_embedding_and_head_are_found_by_name_wherever_they_are_nested(tmp_path: Path) -> None:
    import torch

    lent = LentWeights.find(lender(tmp_path, **WHOLE), GEOMETRY)
    assert lent.embedding == "language_model.model.embed_tokens.weight"
    rows = lent.embedding_rows(torch.tensor([3, 5]))
    assert torch.equal(rows, lent.checkpoint.tensor(lent.embedding)[[3, 5]])
    assert lent.head_rows(16).shape == (16, 8)


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    lent = LentWeights.find(
        lender(tmp_path, **{"model.embed_tokens.weight": (16, 8)}), replace(GEOMETRY, ties_head=True)
    )
    assert lent.head == lent.embedding


@pytest.mark.parametrize("missing", ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight"])
def test_what_cannot_be_lent_is_told_before_anything_is_loaded(tmp_path: Path, missing: str) -> None:
    left = {name: shape for name, shape in WHOLE.items() if name != missing}
    with pytest.raises(
        TraceError, match=r"found no tensor as the .*, but one of \[16, 8\] in BF16, F16, F32 was needed"
    ):
        LentWeights.find(lender(tmp_path, **left), GEOMETRY)
