"""The target in vLLM before it is started, and what is read out of its answers: decisions as data, no engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import UsageError
from quark_eagle.opening import open_served
from quark_eagle.serve_options import ServeOptions
from quark_eagle.serving.command import Option
from quark_eagle.serving.engine import Engine, EngineVersion
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import RecordOptions
from quark_eagle.trace.trace_document import Sampling
from quark_eagle.trace.vllm_options import VllmOptions
from quark_eagle.trace.vllm_start import Described, _by_python_names, describe, engine_arguments
from quark_eagle.trace.vllm_target import _rounds
from tests.tiny_target import write_config, write_prompts
from tests.trace.conftest import CONTENTS

CPU = EngineVersion(
    vllm="0.32.0", torch="2.13.0", python="3.11", platform="cpu", arch="x86_64 AVX2", device="", num_devices=0
)
MI355X = replace(CPU, platform="rocm", arch="gfx950", device="AMD Instinct MI355X", num_devices=8)
OPTIONS = RecordOptions(vllm=VllmOptions())
Describe = Callable[..., Described]


def on(machine: EngineVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "version", lambda self: machine)


@pytest.fixture
def described(fitting_draft: Checkpoint, eight_prompts: PromptSet) -> Describe:
    def describe_it(target: Path, options: RecordOptions = OPTIONS) -> Described:
        return describe(target, "target", fitting_draft, eight_prompts, lambda layers: (1, 3, 5), options)

    return describe_it


def test_the_engines_part_of_the_identity(
    tiny_target: Path, described: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(MI355X, monkeypatch)
    options = replace(OPTIONS, vllm=VllmOptions(tensor_parallel_size=4))
    identity = described(tiny_target, options).id
    assert identity.engine == "vllm 0.32.0, torch 2.13.0, 4 ranks"
    assert identity.device == "AMD Instinct MI355X"
    assert identity.aux_layer_ids == (1, 3, 5)


def test_sampling_is_refused_where_a_request_cannot_be_seeded(
    tiny_target: Path, described: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = replace(OPTIONS, sampling=Sampling(temperature=0.7))
    on(CPU, monkeypatch)
    with pytest.raises(UsageError, match=r"--temperature 0\.7: vLLM's CPU worker dies of a request with a seed"):
        described(tiny_target, sampled)
    on(MI355X, monkeypatch)
    assert described(tiny_target, sampled).id.device == "AMD Instinct MI355X"


def test_what_the_trace_depends_on_is_ours_and_the_rest_the_users(
    tiny_target: Path,
    described: Describe,
    fitting_draft: Checkpoint,
    eight_prompts: PromptSet,
    monkeypatch: pytest.MonkeyPatch,
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
    found = engine_arguments(described(tiny_target, options), eight_prompts, options)
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
        "attention_backend": "TRITON_ATTN",
        "draft_tensor_parallel_size": 1,
    }
    assert found["max_model_len"] == 512  # the target's own limit, below what the prompts could need


@pytest.mark.parametrize("machine", [CPU, MI355X])
def test_without_an_anchor_no_draft_is_served(
    tiny_target: Path,
    described: Describe,
    eight_prompts: PromptSet,
    monkeypatch: pytest.MonkeyPatch,
    machine: EngineVersion,
) -> None:
    on(machine, monkeypatch)
    options = replace(OPTIONS, vllm=VllmOptions(serves_draft=False))
    found = described(tiny_target, options)
    assert found.num_speculative_tokens is None
    assert "speculative_config" not in engine_arguments(found, eight_prompts, options)


# What a recording settles by itself, on every machine.
OURS = {
    "dtype": "auto",
    "seed": 0,
    "trust_remote_code": False,
    "enforce_eager": True,
    "enable_prefix_caching": False,
    "disable_log_stats": False,
    "worker_extension_cls": "quark_eagle_capture.StateCapture",
    "max_num_seqs": 128,
}
GEOMETRY_CHANGES: dict[str, dict[str, Any]] = {
    "generic": {},
    "kimi": {"model_type": "kimi_k25", "text_config": {"model_type": "kimi_k2", "kv_lora_rank": 512}},
    "minimax": {"model_type": "minimax_m2"},
}


def target_like(kind: str, directory: Path) -> Path:
    """The config of a target of this kind and of the tiny target's size: nothing else of it is read here."""
    changes = GEOMETRY_CHANGES[kind]
    sizes = {"num_hidden_layers": 6, "hidden_size": 64, "vocab_size": 264, "max_position_embeddings": 4096}
    nested = {"text_config": {**sizes, **changes["text_config"]}} if "text_config" in changes else sizes
    return write_config(directory / kind, {"model_type": "llama", **changes, **nested})


@pytest.mark.parametrize(
    ("kind", "k", "flags", "speculative", "environment"),
    [
        (
            "generic",
            3,
            {"tensor_parallel_size": 1, "gpu_memory_utilization": 0.9},
            {"attention_backend": "TRITON_ATTN"},
            {"VLLM_ROCM_USE_AITER": "1"},
        ),
        (
            "kimi",
            6,
            {"tensor_parallel_size": 4, "gpu_memory_utilization": 0.9, "mm_encoder_tp_mode": "data"},
            {"attention_backend": "TRITON_ATTN", "draft_tensor_parallel_size": 1},
            {
                "VLLM_ROCM_USE_AITER": "1",
                "VLLM_ROCM_USE_AITER_FP4_ASM_GEMM": "1",
                "VLLM_ROCM_QUICK_REDUCE_QUANTIZATION": "INT4",
                "VLLM_ROCM_USE_AITER_RMSNORM": "0",
            },
        ),
        (
            "minimax",
            3,
            {
                "tensor_parallel_size": 4,
                "gpu_memory_utilization": 0.95,
                "enable_expert_parallel": True,
                "kv_cache_dtype": "fp8",
                "block_size": 32,
                "attention_backend": "ROCM_AITER_FA",
                "reasoning_parser": "minimax_m2",
            },
            {"attention_backend": "TRITON_ATTN", "draft_tensor_parallel_size": 1},
            {"VLLM_ROCM_USE_AITER": "1"},
        ),
    ],
)
def test_on_a_gpu_a_recording_runs_as_the_recipe_serves(
    tmp_path: Path,
    described: Describe,
    fitting_draft: Checkpoint,
    eight_prompts: PromptSet,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    k: int,
    flags: dict[str, Any],
    speculative: dict[str, Any],
    environment: dict[str, str],
) -> None:
    on(MI355X, monkeypatch)
    found = described(target_like(kind, tmp_path))
    longest = max(map(len, CONTENTS))
    assert found.command.environment == environment
    assert found.num_speculative_tokens == k
    assert engine_arguments(found, eight_prompts, OPTIONS) == {
        **OURS,
        **flags,
        "model": str(tmp_path / kind),
        "max_model_len": longest + 2048 + OPTIONS.sampling.max_tokens,
        "speculative_config": {
            "method": "eagle3",
            "model": str(fitting_draft.directory),
            "num_speculative_tokens": k,
            **speculative,
        },
    }


@pytest.mark.parametrize("kind", GEOMETRY_CHANGES)
@pytest.mark.parametrize("machine", [CPU, MI355X])
def test_what_a_served_comparison_is_started_with_is_what_a_recording_is_started_with(
    tmp_path: Path,
    described: Describe,
    fitting_draft: Checkpoint,
    eight_prompts: PromptSet,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    machine: EngineVersion,
) -> None:
    """Else a trace is the path of a target that nobody serves."""
    on(machine, monkeypatch)
    target, draft = target_like(kind, tmp_path), fitting_draft.directory
    prompts = write_prompts(tmp_path / "prompts.jsonl", CONTENTS)
    served = open_served((draft, draft), ServeOptions(target=str(target), prompts=prompts))
    assert served.arms is not None
    command, found = served.arms.command("baseline"), described(target)
    assert found.command.speculative_config == command.speculative_config
    recorded = engine_arguments(found, eight_prompts, OPTIONS)
    for flag, value in command.options.items():
        if flag != "--max-model-len":
            assert recorded[flag.removeprefix("--").replace("-", "_")] == value, flag
    assert found.command.environment.items() <= command.environment.items()


def test_a_users_option_outweighs_the_recipe(
    tmp_path: Path, described: Describe, eight_prompts: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(MI355X, monkeypatch)
    vllm = VllmOptions(
        gpu="mi300x",
        tensor_parallel_size=8,
        num_speculative_tokens=2,
        options={"gpu_memory_utilization": 0.5, "speculative_config": {"attention_backend": "ROCM_AITER_UNIFIED_ATTN"}},
    )
    options = replace(OPTIONS, vllm=vllm)
    found = described(target_like("kimi", tmp_path), options)
    arguments = engine_arguments(found, eight_prompts, options)
    assert (arguments["tensor_parallel_size"], arguments["gpu_memory_utilization"]) == (8, 0.5)
    assert arguments["speculative_config"]["attention_backend"] == "ROCM_AITER_UNIFIED_ATTN"
    assert arguments["speculative_config"]["num_speculative_tokens"] == found.num_speculative_tokens == 2
    assert "VLLM_ROCM_USE_AITER_FP4_ASM_GEMM" not in found.command.environment  # of gfx950 alone


def test_a_gpu_without_a_recipe_is_told_before_anything_is_loaded(
    tiny_target: Path, described: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = replace(MI355X, platform="cuda", arch="sm_75", device="T4", num_devices=1)
    on(unknown, monkeypatch)
    with pytest.raises(UsageError, match=r"--gpu auto: there is no recipe for sm_75\. Say --gpu"):
        described(tiny_target)
    said = replace(OPTIONS, vllm=VllmOptions(gpu="h100"))
    assert described(tiny_target, said).id.device == "T4"


def test_a_recipes_flag_that_a_recording_settles_itself_is_left_out() -> None:
    flags: dict[str, Option] = {"--data-parallel-size": 2, "--seed": 7, "--async-scheduling": False, "--block-size": 32}
    assert _by_python_names(flags) == {"block_size": 32}


def test_rounds_are_the_engines_steps_after_prefill() -> None:
    done = {"answers": [{"steps": [1, 3, 1, 4]}, {"steps": [1]}, {"steps": [1, 2]}], "num_drafts": 4}
    assert _rounds(done) == [(2, 0, 3), (), (1,)]


@pytest.mark.parametrize("counted", [None, 3, 5])
def test_rounds_are_not_told_where_the_engine_counted_others(counted: int | None) -> None:
    """A step without a draft looks like a round that accepted nothing."""
    assert _rounds({"answers": [{"steps": [1, 3, 1]}, {"steps": [1, 1, 1]}], "num_drafts": counted}) == [None, None]
