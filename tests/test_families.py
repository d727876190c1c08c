"""What docs/reference/families.md says is supported is what the code says, and what is tested."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.checkpoint.support import DEEPSEEK_ROPE_KINDS, ROPE_KINDS, not_replayed
from quark_eagle.deploy.loadable import Loadable
from quark_eagle.errors import CheckpointError
from quark_eagle.model.rope import Rope
from tests.families_table import ENGINE, table
from tests.published import NOT_LOADED, NOT_REPLAYED, PUBLISHED
from tests.tiny import write_tiny_draft

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "reference" / "families.md"


def test_the_table_is_what_the_code_says() -> None:
    assert table() in DOCUMENT.read_text(encoding="utf-8"), "`python -m tests.families_table` prints the table"


def test_exactly_those_drafts_are_refused_that_are_said_to_be() -> None:
    """The lists decide which drafts are loaded and stepped through in vLLM: none may hide there."""
    refused, not_stepped = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for i, (name, draft) in enumerate(PUBLISHED.items()):
            checkpoint = Checkpoint.open(write_tiny_draft(Path(scratch) / f"{i}", draft))
            found = Loadable.of(checkpoint, ENGINE)
            refused += [name] if found.stops else []
            assert found.stops == bool(found.reasons), found
            not_stepped += [name] if not_replayed(checkpoint, Eagle3Layout.of(checkpoint)) else []
    assert sorted(refused) == sorted(NOT_LOADED)
    assert sorted(not_stepped) == sorted(NOT_REPLAYED)


@pytest.mark.parametrize(
    "kind", ["default", "linear", "llama3", "mrope", "yarn", "deepseek_yarn", "longrope", "dynamic", "ntk"]
)
@pytest.mark.parametrize(("make", "known"), [(Rope.of, ROPE_KINDS), (Rope.deepseek, DEEPSEEK_ROPE_KINDS)])
def test_the_rotary_embeddings_that_are_said_to_be_known_are(kind: str, make: object, known: tuple[str, ...]) -> None:
    rope = {
        "rope_type": kind, "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    }  # fmt: skip
    if kind in known:
        make(rope, 32)  # type: ignore[operator]
    else:
        with pytest.raises(CheckpointError, match=f"kind '{kind}', but replay knows"):
            make(rope, 32)  # type: ignore[operator]
