"""The target in vLLM before it is started, and what is read out of its answers: decisions as data, no engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import TraceError, UsageError
from quark_eagle.serving.engine import Engine, EngineVersion
from quark_eagle.trace.lent_weights import LentWeights
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import RecordOptions
from quark_eagle.trace.target_identity import TargetGeometry
from quark_eagle.trace.trace_document import Sampling
from quark_eagle.trace.vllm_options import VllmOptions, parse_options
from quark_eagle.trace.vllm_start import Described, describe, engine_arguments
from quark_eagle.trace.vllm_target import _rounds
from tests.tiny import write_tensors

CPU = EngineVersion(
    vllm="0.32.0", torch="2.13.0", python="3.11", platform="cpu", arch="x86_64 AVX2", device="", num_devices=0
)
MI355X = replace(CPU, platform="rocm", arch="gfx950", device="AMD Instinct MI355X", num_devices=8)
OPTIONS = RecordOptions(vllm=VllmOptions())


def on(machine: EngineVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "version", lambda self: machine)


def described(target: Path, options: RecordOptions = OPTIONS) -> Described:
    return describe(target, "target", lambda layers: (1, 3, 5), options)


def test_the_engines_part_of_the_identity(tiny_target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(MI355X, monkeypatch)
    options = replace(OPTIONS, vllm=VllmOptions(tensor_parallel_size=4))
    identity = described(tiny_target, options).id
    assert identity.engine == "vllm 0.32.0, torch 2.13.0, 4 ranks"
    assert identity.device == "AMD Instinct MI355X"
    assert identity.aux_layer_ids == (1, 3, 5)


def test_sampling_is_refused_where_a_request_cannot_be_seeded(
    tiny_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = replace(OPTIONS, sampling=Sampling(temperature=0.7))
    on(CPU, monkeypatch)
    with pytest.raises(UsageError, match=r"--temperature 0\.7: vLLM's CPU worker dies of a request with a seed"):
        described(tiny_target, sampled)
    on(MI355X, monkeypatch)
    assert described(tiny_target, sampled).id.device == "AMD Instinct MI355X"


def test_what_the_trace_depends_on_is_ours_and_the_rest_the_users(
    tiny_target: Path, fitting_draft: Checkpoint, eight_prompts: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(MI355X, monkeypatch)
    vllm = VllmOptions(
        tensor_parallel_size=8,
        num_speculative_tokens=4,
        options={
            "gpu_memory_utilization": 0.8,
            "max_num_seqs": 7,
            "speculative_config": {"draft_tensor_parallel_size": 1, "model": "another"},
        },
    )
    options = replace(OPTIONS, dtype="bfloat16", vllm=vllm)
    found = engine_arguments(described(tiny_target, options), fitting_draft, eight_prompts, options)
    assert found["tensor_parallel_size"] == 8
    assert found["gpu_memory_utilization"] == 0.8
    assert found["max_num_seqs"] == 7
    assert found["enforce_eager"] is True
    assert found["enable_prefix_caching"] is False
    assert found["worker_extension_cls"] == "quark_eagle_capture.StateCapture"
    assert found["speculative_config"] == {
        "method": "eagle3",
        "model": str(fitting_draft.directory),
        "num_speculative_tokens": 4,
        "draft_tensor_parallel_size": 1,
    }
    assert found["max_model_len"] == 512  # the target's own limit, below what the prompts could need


def test_without_an_anchor_no_draft_is_served(
    tiny_target: Path, fitting_draft: Checkpoint, eight_prompts: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(CPU, monkeypatch)
    options = replace(OPTIONS, vllm=VllmOptions(num_speculative_tokens=None))
    found = engine_arguments(described(tiny_target, options), fitting_draft, eight_prompts, options)
    assert "speculative_config" not in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (VllmOptions(options={"enforce_eager": False}), "--vllm-option enforce_eager: cannot be set, for states"),
        (VllmOptions(options={"pipeline_parallel_size": 2}), "one rank has to see all layers"),
        (VllmOptions(tensor_parallel_size=0), "--tensor-parallel-size 0: must be 1 or more"),
        (
            VllmOptions(num_speculative_tokens=None, options={"speculative_config": {}}),
            "--no-anchor and --vllm-option speculative-config",
        ),
    ],
)
def test_options_that_would_make_another_trace_are_refused(options: VllmOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RecordOptions(vllm=options).check()


def test_a_device_is_not_vllms_to_choose() -> None:
    with pytest.raises(UsageError, match="--device cuda:1: vLLM runs on what it was built for"):
        replace(OPTIONS, device="cuda:1").check()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--max-num-seqs=16"], {"max_num_seqs": 16}),
        (["attention-backend=ROCM_AITER_MLA"], {"attention_backend": "ROCM_AITER_MLA"}),
        (["enable-expert-parallel"], {"enable_expert_parallel": True}),
        (['limit-mm-per-prompt={"image": 0}'], {"limit_mm_per_prompt": {"image": 0}}),
        (["async-scheduling=false"], {"async_scheduling": False}),
    ],
)
def test_flags_are_read_as_vllm_names_them(given: list[str], wanted: dict[str, Any]) -> None:
    assert parse_options(given) == wanted


def test_what_is_no_flag_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--vllm-option =4: must be NAME=VALUE"):
        parse_options(["=4"])


def test_rounds_are_the_engines_steps_after_prefill() -> None:
    done = {"answers": [{"steps": [1, 3, 1, 4]}, {"steps": [1]}, {"steps": [1, 2]}], "num_drafts": 4}
    assert _rounds(done) == [(2, 0, 3), (), (1,)]


@pytest.mark.parametrize("counted", [None, 3, 5])
def test_rounds_are_not_told_where_the_engine_counted_others(counted: int | None) -> None:
    """A step without a draft looks like a round that accepted nothing."""
    assert _rounds({"answers": [{"steps": [1, 3, 1]}, {"steps": [1, 1, 1]}], "num_drafts": counted}) == [None, None]


def write_config(directory: Path, content: dict[str, Any]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(content))
    return directory


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
