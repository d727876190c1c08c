"""A finished trace without its anchor is continued by the command that recorded it, and by no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.documents.anchor import ANCHOR_NAME
from quark_eagle.parity.anchor import without_anchor
from quark_eagle.serving.engine import Engine
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import RecordOptions
from quark_eagle.trace.target import described
from quark_eagle.trace.target_trace import TRACE_NAME, TargetTrace
from quark_eagle.trace.trace_document import Sampling
from quark_eagle.trace.vllm_options import VllmOptions
from quark_eagle.trace.vllm_start import engine_arguments
from tests.tiny_target import write_tiny_target
from tests.tiny_trace import write_tiny_trace
from tests.trace.test_vllm_target import CPU, MI355X

OPTIONS = RecordOptions(sampling=Sampling(max_tokens=16), vllm=VllmOptions(num_speculative_tokens=2))
Found = Callable[..., TargetTrace | None]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return write_tiny_target(tmp_path / "target")


@pytest.fixture
def found(
    target: Path,
    fitting_draft: Checkpoint,
    eight_prompts: PromptSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Found:
    """What is found of a trace that ``OPTIONS`` recorded, by a command that differs from it as is said."""
    monkeypatch.setattr(Engine, "version", lambda self: CPU)
    trace = write_tiny_trace(tmp_path / "trace", fitting_draft.directory, served_k=2)
    as_recorded = described(str(target), fitting_draft, Eagle3Layout.of(fitting_draft), eight_prompts, OPTIONS)
    document = TargetTrace.open(trace).document
    arguments = json.loads(json.dumps(engine_arguments(as_recorded, eight_prompts, OPTIONS)))
    document = replace(
        document,
        target=replace(as_recorded.id, dtype="bfloat16"),
        prompts_sha256=eight_prompts.sha256,
        provenance={**document.provenance, "engine_arguments": arguments},
    )
    (trace / TRACE_NAME).write_bytes(document.to_bytes())

    def find(
        options: RecordOptions = OPTIONS,
        prompts: PromptSet = eight_prompts,
        name: str = str(target),
        draft: Checkpoint = fitting_draft,
    ) -> TargetTrace | None:
        return without_anchor(trace, name, draft, prompts, options)

    return find


def test_the_same_command_finds_its_trace(found: Found, tmp_path: Path) -> None:
    assert found() is not None
    (tmp_path / "trace" / ANCHOR_NAME).write_text("{}")
    assert found() is None


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": Sampling(max_tokens=17)},
        {"state_dtype": "float32"},
        {"project": True},
        {"dtype": "float32"},
        {"vllm": VllmOptions(num_speculative_tokens=3)},
        {"vllm": VllmOptions(num_speculative_tokens=2, options={"kv_cache_dtype": "fp8"})},
        {"vllm": VllmOptions(num_speculative_tokens=2, serves_draft=False)},
        {"vllm": None},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_another_way_of_recording_does_not(found: Found, changes: dict[str, Any]) -> None:
    assert found(replace(OPTIONS, **changes)) is None


def test_another_target_under_the_same_name_does_not(found: Found, target: Path) -> None:
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"rope_theta": 7.0}))
    assert found() is None


def test_another_engine_does_not(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "version", lambda self: replace(CPU, vllm="0.31.0"))
    assert found() is None
    monkeypatch.setattr(Engine, "version", lambda self: MI355X)
    assert found() is None


def test_other_prompts_do_not(found: Found, eight_prompts: PromptSet) -> None:
    assert found(prompts=eight_prompts.limited(4)) is None


def test_another_draft_does_not(found: Found, tiny_draft: Path) -> None:
    assert found(draft=Checkpoint.open(tiny_draft)) is None
