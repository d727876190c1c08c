"""A recipe is what AMD published where AMD published it, one k for every arm, and flags that the engine knows."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.errors import CheckpointError, UsageError
from quark_eagle.serving.recipe_model import ServedModel
from quark_eagle.serving.recipe_rows import PUBLISHED_K, ROWS, SERVED_WITH
from quark_eagle.serving.recipes import GPUS, Job, num_speculative_tokens, recipe

KIMI = ServedModel(name="amd/Kimi-K2.5-MXFP4", family="kimi-k2", is_mla=True)
KIMI_FP8 = ServedModel(name="amd/Kimi-K2.5-Eagle3-FP8", quantization="quark", is_mla=False)
KIMI_BF16 = ServedModel(name="lightseekorg/kimi-k2.5-eagle3", is_mla=False)
MINIMAX = ServedModel(name="MiniMaxAI/MiniMax-M2.5", family="minimax-m2", is_mla=False)
MINIMAX_BF16 = ServedModel(name="thoughtworks/MiniMax-M2.5-Eagle3", is_mla=False)
LLAMA = ServedModel(name="meta-llama/Llama-3.1-8B-Instruct")
LLAMA_DRAFT = ServedModel(name="yuhuili/EAGLE3-LLaMA3.1-Instruct-8B")


def served(**changes: Any) -> Job:
    """Kimi with its FP8 draft, as published."""
    return replace(Job(target=KIMI, draft=KIMI_FP8, trust_remote_code=True), **changes)


def test_kimi_with_the_fp8_draft_is_served_as_amd_published_it() -> None:
    command = recipe(served()).command
    assert command.environment == {
        "VLLM_ROCM_USE_AITER": "1",
        "VLLM_ROCM_USE_AITER_FP4_ASM_GEMM": "1",
        "VLLM_ROCM_QUICK_REDUCE_QUANTIZATION": "INT4",
        "VLLM_ROCM_USE_AITER_RMSNORM": "0",
    }
    assert command.options == {
        "--tensor-parallel-size": 4,
        "--gpu-memory-utilization": 0.9,
        "--max-model-len": 2304,
        "--mm-encoder-tp-mode": "data",
    }
    assert command.speculative_config == {
        "method": "eagle3",
        "model": "amd/Kimi-K2.5-Eagle3-FP8",
        "num_speculative_tokens": 6,
        "draft_tensor_parallel_size": 1,
        "attention_backend": "TRITON_ATTN",
    }
    assert (command.prefix_caching, command.trust_remote_code, command.per_request_metrics) == (False, True, True)


def test_minimax_is_served_as_amd_published_it() -> None:
    command = recipe(Job(target=MINIMAX, draft=MINIMAX_BF16)).command
    assert command.environment == {"VLLM_ROCM_USE_AITER": "1"}
    assert command.options == {
        "--tensor-parallel-size": 4,
        "--enable-expert-parallel": True,
        "--gpu-memory-utilization": 0.95,
        "--max-model-len": 2304,
        "--kv-cache-dtype": "fp8",
        "--block-size": 32,
        "--attention-backend": "ROCM_AITER_FA",
        "--reasoning-parser": "minimax_m2",
    }
    assert command.num_speculative_tokens == 3
    assert command.trust_remote_code is False


def test_eight_gpus_and_long_prompts_change_what_amds_script_changes() -> None:
    eight, long = recipe(served(tensor_parallel_size=8)).command, recipe(served(isl=8192)).command
    assert "VLLM_ROCM_USE_AITER_RMSNORM" not in eight.environment
    assert eight.options["--tensor-parallel-size"] == 8
    assert long.options["--long-prefill-token-threshold"] == 8192
    assert long.options["--max-num-batched-tokens"] == 16384
    assert long.options["--max-model-len"] == 8192 + 1024 + 256


def test_k_is_the_published_one() -> None:
    assert recipe(served()).command.num_speculative_tokens == 6
    assert recipe(served(draft=KIMI_BF16)).command.num_speculative_tokens == 4
    assert recipe(Job(target=MINIMAX, draft=MINIMAX_BF16)).command.num_speculative_tokens == 3
    assert recipe(served(draft=KIMI_BF16, num_speculative_tokens=2)).command.num_speculative_tokens == 2


@pytest.mark.parametrize("target", [KIMI, MINIMAX, LLAMA])
@pytest.mark.parametrize("gpu", GPUS)
def test_the_arms_of_a_comparison_differ_in_the_draft_alone(target: ServedModel, gpu: str) -> None:
    drafts = (replace(KIMI_BF16, name="draft"), replace(KIMI_FP8, name="draft"))
    bf16, fp8 = (recipe(Job(target=target, draft=draft, gpu=gpu, compare=True)).command for draft in drafts)
    assert bf16 == fp8


def test_a_comparison_says_which_k_and_why() -> None:
    k, reason, _ = num_speculative_tokens(served(draft=KIMI_BF16, compare=True))
    assert k == 6
    assert "not the 4 published for the BF16 draft" in reason


def test_the_target_alone_speculates_with_nothing() -> None:
    alone = recipe(served(draft=None)).command
    assert alone.speculative_config is None
    assert alone.per_request_metrics is False
    assert not any(word.startswith("--speculative") for word in alone.flags())
    assert alone.options == recipe(served()).command.options


def test_remote_code_is_left_out_unless_it_is_trusted_and_said() -> None:
    made = recipe(served(trust_remote_code=False))
    assert made.command.trust_remote_code is False
    assert "--trust-remote-code" not in made.command.flags()
    assert any("Read that code first" in note for note in made.notes)


@pytest.mark.parametrize("gpu", GPUS)
def test_the_drafts_attention_is_pinned_on_rocm_alone(gpu: str) -> None:
    config = recipe(Job(target=LLAMA, draft=LLAMA_DRAFT, gpu=gpu)).command.speculative_config
    assert config is not None
    assert ("attention_backend" in config) == gpu.startswith("mi")


def test_an_mla_draft_keeps_the_engines_choice() -> None:
    made = recipe(served(draft=replace(KIMI_FP8, is_mla=True)))
    assert "attention_backend" not in made.command.speculative


@pytest.mark.parametrize(
    ("vllm", "lacking"),
    [
        ((0, 19), ["attention_backend", "per_request_metrics"]),
        ((0, 28), ["per_request_metrics"]),
        ((0, 29), ["VLLM_ROCM_USE_AITER_FP4_ASM_GEMM"]),
        ((0, 31), []),
        ((0, 32), []),
    ],
)
def test_what_a_version_lacks_is_left_out_and_said(vllm: tuple[int, int], lacking: list[str]) -> None:
    made = recipe(served(vllm=vllm))
    assert {part.name for part in recipe(served()).parts} - {part.name for part in made.parts} == set(lacking)
    told = [note for note in made.notes if "lacks" in note]
    assert told == ([f"vLLM 0.{vllm[1]} lacks {', '.join(lacking)}: 0.31 has it."] if lacking else [])


def test_fp4_assembly_is_for_gfx950() -> None:
    assert "VLLM_ROCM_USE_AITER_FP4_ASM_GEMM" not in recipe(served(gpu="mi300x")).command.environment
    assert "Published for MI355X; on mi300x nobody has." in recipe(served(gpu="mi300x")).notes


def test_a_target_that_nobody_published_for_gets_no_tuning_and_a_note() -> None:
    made = recipe(Job(target=LLAMA, draft=LLAMA_DRAFT))
    assert set(made.command.options) == {"--tensor-parallel-size", "--gpu-memory-utilization", "--max-model-len"}
    assert any(note.startswith("Nobody published a recipe") for note in made.notes)


def test_every_row_has_a_reason_and_a_source() -> None:
    assert all(row.reason and row.source for row in ROWS)
    assert all(source for _, source in PUBLISHED_K.values())


def test_an_unknown_gpu_and_too_long_a_sequence_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--gpu mi999: must be one of mi355x"):
        Job(target=KIMI, gpu="mi999")
    short = replace(LLAMA, max_positions=2048)
    with pytest.raises(UsageError, match="together over the 2048 positions"):
        Job(target=short, isl=2000, osl=100)
    assert Job(target=short, isl=1000, osl=1000).max_model_len == 2048


# the shell


def words_of(script: str, tmp_path: Path) -> list[str]:
    """What bash would run as `vllm`, with an environment of its own; nothing else may be run."""
    fake = tmp_path / "bin"
    fake.mkdir(exist_ok=True)
    (fake / "vllm").write_text(
        f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([dict(os.environ), sys.argv[1:]]))\n"
    )
    (fake / "vllm").chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={"PATH": f"{fake}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    environment, arguments = json.loads(done.stdout)
    return [*(f"{name}={value}" for name, value in environment.items() if name.startswith("VLLM_")), *arguments]


def test_the_shell_runs_the_command_and_sets_the_environment(tmp_path: Path) -> None:
    made = recipe(served())
    words = words_of(made.shell(port=8123), tmp_path)
    expected = [f"{name}={value}" for name, value in made.command.environment.items()]
    expected += ["serve", KIMI.name, *made.command.flags()[2:], "--host", "127.0.0.1", "--port", "8123"]
    assert sorted(words) == sorted(expected)


@pytest.mark.parametrize(
    "name", ["a b", "$(touch hacked)", "x'; touch hacked #", "new\ntouch hacked", '"', "-rf", "`id`"]
)
def test_no_name_of_a_model_escapes_its_quotes(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = words_of(
        recipe(served(target=replace(KIMI, name=name), draft=replace(KIMI_FP8, name=name))).shell(), tmp_path
    )
    assert name in words
    assert not (tmp_path / "hacked").exists()


def test_the_json_says_what_the_shell_does(tmp_path: Path) -> None:
    made = recipe(served())
    document = json.loads(json.dumps(made.to_json()))
    run = [word for word in words_of(made.shell(), tmp_path) if not word.startswith("VLLM_")]
    assert document["argv"] == ["vllm", *run[: run.index("--port")]]
    assert {part["name"] for part in document["parts"]} == {part.name for part in made.parts}
    assert (document["arch"], document["vllm"], document["num_speculative_tokens"]) == ("gfx950", "0.31", 6)


# what is known of a model


def write_config(directory: Path, config: dict[str, Any], size: int = 1000) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(bytes(size))
    return directory


KIMI_CONFIG = {
    "architectures": ["KimiK25ForConditionalGeneration"],
    "model_type": "kimi_k25",
    "text_config": {
        "model_type": "kimi_k2",
        "hidden_size": 7168,
        "num_hidden_layers": 61,
        "num_attention_heads": 64,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "max_position_embeddings": 262144,
        "quantization_config": {"quant_method": "quark"},
    },
}


def test_kimi_is_known_by_its_nested_config_whatever_its_directory_is_called(tmp_path: Path) -> None:
    model = ServedModel.of("m", write_config(tmp_path / "m", KIMI_CONFIG))
    assert (model.family, model.is_mla, model.quantization, model.hidden_size) == ("kimi-k2", True, "quark", 7168)
    assert model.cache_bytes == 61 * (512 + 64) * 2
    assert (model.size_bytes, model.max_positions) == (1000, 262144)


def test_a_config_outweighs_a_name(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = ServedModel.of("amd/Kimi-K2.5-MXFP4", write_config(tmp_path / "Kimi-K2.5", config))
    assert (model.family, model.is_mla) == ("generic", False)
    assert model.cache_bytes == 2 * 2 * 4 * 16 * 2


def test_minimax_is_known_by_its_config(tmp_path: Path) -> None:
    assert ServedModel.of("m", write_config(tmp_path / "m", {"model_type": "minimax_m2"})).family == "minimax-m2"


def test_a_model_that_is_not_on_the_disk_is_known_by_its_name_and_it_is_said() -> None:
    made = recipe(Job(target=ServedModel.of("amd/Kimi-K2.5-MXFP4", None), draft=ServedModel.of("x/y-fp8", None)))
    assert made.command.num_speculative_tokens == 6
    assert made.notes[0] == "amd/Kimi-K2.5-MXFP4 is not on this disk: taken for kimi-k2 by its name alone."
    assert made.notes[-1] == "x/y-fp8 is not on this disk: taken for a draft in FP8 by its name alone."


def test_an_index_tells_the_size_where_the_weights_are_not(tmp_path: Path) -> None:
    directory = write_config(tmp_path / "m", {"model_type": "llama"})
    (directory / "model.safetensors").unlink()
    assert ServedModel.of("m", directory).size_bytes is None
    (directory / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 550000000000}}')
    assert ServedModel.of("m", directory).size_bytes == 550_000_000_000


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_config_that_cannot_be_read_is_said(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json: .*Check the directory"):
        ServedModel.of("m", tmp_path)


# against the engine

ASK = """
import json, sys
from dataclasses import fields
import vllm.envs
from vllm.config.speculative import SpeculativeConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.attention.backends.registry import AttentionBackendEnum
parser = make_arg_parser(FlexibleArgumentParser())
asked, refused = json.load(sys.stdin), []
for flags in asked["flags"]:
    try:
        parser.parse_args(flags)
    except SystemExit:
        refused.append(flags)
print(json.dumps({
    "refused": refused,
    "fields": [field.name for field in fields(SpeculativeConfig)],
    "arguments": [field.name for field in fields(EngineArgs)],
    "variables": list(vllm.envs.environment_variables),
    "backends": list(AttentionBackendEnum.__members__),
}))
"""


@pytest.mark.vllm
@pytest.mark.slow
def test_the_installed_vllm_knows_every_flag_field_and_variable() -> None:
    """So that recipes cannot rot: asked of vLLM's own parser, without starting an engine."""
    jobs = [
        Job(target=target, draft=draft, gpu=gpu, isl=isl, vllm=(0, 32), trust_remote_code=True)
        for target, draft in ((KIMI, KIMI_FP8), (MINIMAX, MINIMAX_BF16), (LLAMA, LLAMA_DRAFT), (KIMI, None))
        for gpu, isl in product(("mi355x", "h200", "cpu"), (1024, 8192))
    ]
    made = [recipe(job) for job in jobs]
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps({"flags": [it.command.flags() for it in made]}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["refused"] == []
    parts = [part for it in made for part in it.parts]
    assert {it.name for it in parts if it.kind == "speculative"} <= set(said["fields"])
    flags = {it.name for it in parts if it.kind == "flag"}
    assert {flag.removeprefix("--").replace("-", "_") for flag in flags} <= set(said["arguments"]), "for recordings"
    assert {it.name for it in parts if it.kind == "variable"} <= set(said["variables"])
    backends = {it.value for it in parts if it.name in ("attention_backend", "--attention-backend")}
    assert backends <= set(said["backends"])
    assert {it.name for it in parts} >= {it.name for it in ROWS}, "every row is asked about"


def test_recipes_are_for_the_image_of_the_example(repository: Path) -> None:
    image = (repository / "examples" / "rocm" / "Containerfile").read_text(encoding="utf-8")
    assert f"vllm/vllm-openai-rocm:v{'.'.join(map(str, SERVED_WITH))}.0" in image
