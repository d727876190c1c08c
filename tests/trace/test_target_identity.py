"""A target's geometry is read from its config, wherever the text model's is nested."""

from __future__ import annotations

from pathlib import Path

import pytest

from quark_eagle.errors import TraceError
from quark_eagle.trace.target_identity import TargetGeometry
from tests.tiny_target import write_config

TEXT = {"num_hidden_layers": 61, "hidden_size": 8, "vocab_size": 16, "max_position_embeddings": 262144}


@pytest.mark.parametrize("nested_in", ["text_config", "llm_config", None])
def test_the_geometry_is_that_of_the_text_model(tmp_path: Path, nested_in: str | None) -> None:
    whole = TEXT if nested_in is None else {"hidden_size": 1152, nested_in: TEXT, "tie_word_embeddings": True}
    found = TargetGeometry.read(write_config(tmp_path / "target", whole))
    assert (found.num_hidden_layers, found.hidden_size, found.vocab_size, found.max_length) == (61, 8, 16, 262144)
    assert found.ties_head is (nested_in is not None)


def test_a_config_without_a_number_is_no_guess(tmp_path: Path) -> None:
    directory = write_config(tmp_path / "target", {"hidden_size": 8})
    with pytest.raises(TraceError, match=r"(?s)num_hidden_layers is missing\..*vocab_size is missing\."):
        TargetGeometry.read(directory)
