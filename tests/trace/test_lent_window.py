"""What a target lends to a draft: read as vLLM reads it, kept in the trace, and used when the draft is replayed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.parity.compare import Comparison
from quark_eagle.trace.lent_window import lent_window
from quark_eagle.trace.target_trace import TRACE_NAME, TargetTrace
from quark_eagle.trace.trace_document import TraceDocument
from quark_eagle.trace.transformers_target import identify
from tests.published import PUBLISHED
from tests.tiny import write_tiny_draft
from tests.tiny_trace import write_tiny_trace

SIX = {"num_hidden_layers": 6}
FOUR_SLIDE = [*["sliding_attention"] * 4, *["full_attention"] * 2]


@pytest.mark.parametrize(
    ("kind", "config", "lent"),
    [
        ("llama", {}, None),
        ("mistral", {}, 4096),  # transformers' own default, which config.json need not say
        ("mistral", {"sliding_window": None}, None),
        ("mixtral", {"sliding_window": 1024}, 1024),
        ("starcoder2", {"sliding_window": 0}, None),
        ("ministral", {"sliding_window": 512}, 512),  # fills in layers that all slide
        ("qwen3", {"sliding_window": 512}, None),  # forgets it unless use_sliding_window
        ("qwen3", {"sliding_window": 512, "use_sliding_window": True, "max_window_layers": 0}, 512),
        ("qwen3", {"sliding_window": 512, "use_sliding_window": True, "layer_types": FOUR_SLIDE}, None),
        ("gpt_oss", {}, None),  # every second layer slides
        ("gemma2", {}, None),
    ],
)
def test_a_window_is_lent_where_all_layers_slide(kind: str, config: dict[str, object], lent: int | None) -> None:
    assert lent_window(AutoConfig.for_model(kind, **(SIX | config))) == lent


@pytest.fixture
def mistral(tmp_path: Path) -> Path:
    AutoConfig.for_model("mistral", **SIX, sliding_window=4).save_pretrained(tmp_path / "target")
    return tmp_path / "target"


def test_the_trace_says_what_its_target_lends(mistral: Path) -> None:
    found = identify(mistral, "mistral", lambda layers: [1, 2, 3], dtype="bfloat16", device="cpu")
    assert found.sliding_window == 4


def lending(trace: Path, window: int | None) -> TargetTrace:
    """The trace, of a target that lends such a window."""
    document = TraceDocument.read(trace / TRACE_NAME)
    changed = replace(document, target=replace(document.target, sliding_window=window))
    (trace / TRACE_NAME).write_bytes(changed.to_bytes())
    return TargetTrace.open(trace)


def test_replay_looks_back_as_far_as_the_target_lends(tmp_path: Path) -> None:
    draft = write_tiny_draft(tmp_path / "draft")
    trace = write_tiny_trace(tmp_path / "trace", draft)
    counts = {}
    for window in (None, 512, 4):
        lending(trace, window)
        comparison = Comparison.open(draft, draft, trace)
        assert [layer.attention.window for layer in comparison.drafts[0].layers] == [window]
        counts[window] = [prompt.candidate.walk for prompt in comparison.run().prompts]
    assert counts[None] == counts[512] != counts[4]


def test_a_trace_from_before_this_was_kept_lends_nothing(tmp_path: Path) -> None:
    trace = write_tiny_trace(tmp_path / "trace", write_tiny_draft(tmp_path / "draft"))
    path = trace / TRACE_NAME
    path.write_text(path.read_text(encoding="utf-8").replace(',\n  "sliding_window": null', ""), encoding="utf-8")
    assert "sliding_window" not in path.read_text(encoding="utf-8")
    assert TargetTrace.open(trace).target.sliding_window is None


@pytest.mark.parametrize(
    ("name", "windows"),
    [("Llama, two layers", (9, 9)), ("Llama, a sliding window", (6,)), ("MLA, two layers", (None, None))],
)
def test_a_layer_keeps_its_own_window_and_a_latent_one_takes_none(
    tmp_path: Path, name: str, windows: tuple[int | None, ...]
) -> None:
    geometry = Eagle3Layout.of(Checkpoint.open(write_tiny_draft(tmp_path / "draft", PUBLISHED[name]))).geometry
    assert geometry.within(9).sliding_windows == windows
