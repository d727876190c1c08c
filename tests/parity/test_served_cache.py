"""A draft with scales of an FP8 KV cache is served with one where its engine can keep it, and refused where not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quark_eagle.errors import UsageError
from quark_eagle.opening import open_served
from quark_eagle.parity.served.arms import Arms
from quark_eagle.serve_options import ServeOptions
from quark_eagle.serving.engine import Engine, EngineVersion
from tests.tiny import write_tiny_draft
from tests.tiny_target import write_config, write_prompts

MI355X = EngineVersion(
    vllm="0.32.0", torch="2.10", python="3.12", platform="rocm", arch="gfx950", device="MI355X", num_devices=8
)
CPU = replace(MI355X, platform="cpu", arch="x86_64 AVX2", num_devices=0)
TARGET = {"model_type": "llama", "num_hidden_layers": 6, "hidden_size": 64, "vocab_size": 256}


@pytest.fixture
def drafts(tmp_path: Path) -> tuple[Path, Path]:
    return write_tiny_draft(tmp_path / "bf16"), write_tiny_draft(tmp_path / "fp8")


def arms(drafts: tuple[Path, Path], machine: EngineVersion, *flags: str, cache: str = "fp8") -> Arms:
    scratch = drafts[0].parent
    target = scratch / "target"
    if not target.exists():
        write_config(target, TARGET)
    serve = ServeOptions(target=str(target), prompts=write_prompts(scratch / "p.jsonl", ["a"]), vllm_option=[*flags])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Engine, "version", lambda self: machine)
        made = open_served(drafts, serve, num_speculative_tokens=3, kv_cache_dtype=cache)  # type: ignore[arg-type]
    assert made.arms is not None
    return made.arms


@pytest.mark.parametrize("vllm", ["0.32.0", "0.26.0+rocm70"])
def test_the_candidates_draft_alone_has_the_cache(drafts: tuple[Path, Path], vllm: str) -> None:
    made = arms(drafts, replace(MI355X, vllm=vllm))
    baseline, candidate = (made.command(arm).to_json() for arm in ("baseline", "candidate"))
    assert candidate["speculative_config"].pop("kv_cache_dtype") == "fp8"
    assert baseline["speculative_config"].pop("model") != candidate["speculative_config"].pop("model")
    assert baseline == candidate
    assert made.command("none").speculative_config is None


def test_what_it_is_started_with_says_so(drafts: tuple[Path, Path]) -> None:
    flags = arms(drafts, MI355X).command("candidate").flags()
    assert json.loads(flags[flags.index("--speculative-config") + 1])["kv_cache_dtype"] == "fp8"


@pytest.mark.parametrize("machine", [MI355X, CPU])
def test_without_such_scales_no_server_is_told_anything(drafts: tuple[Path, Path], machine: EngineVersion) -> None:
    assert "kv_cache_dtype" not in str(arms(drafts, machine, cache="auto").command("candidate").to_json())


@pytest.mark.parametrize("vllm", ["0.25.1", "0.32.0"])
def test_where_the_target_has_such_a_cache_its_drafts_inherit_it(drafts: tuple[Path, Path], vllm: str) -> None:
    command = arms(drafts, replace(MI355X, vllm=vllm), "--kv-cache-dtype=fp8").command("candidate")
    assert command.options["--kv-cache-dtype"] == "fp8"
    assert "kv_cache_dtype" not in (command.speculative_config or {})


@pytest.mark.parametrize(
    ("machine", "flags", "says"),
    [
        (replace(MI355X, vllm="0.25.1"), [], r"0\.25\.1 has one dtype for the caches of target and draft"),
        (CPU, [], r"on a CPU vLLM 0\.32\.0 needs AVX-512 for one, and this one has x86_64 AVX2"),
        (CPU, ["--kv-cache-dtype=fp8"], r"needs AVX-512"),
    ],
)
def test_what_the_engine_cannot_keep_is_refused(
    drafts: tuple[Path, Path], machine: EngineVersion, flags: list[str], says: str
) -> None:
    with pytest.raises(UsageError, match=rf"--kv-cache-scales, --engine vllm: .*{says}"):
        arms(drafts, machine, *flags)


def test_a_cpu_with_avx_512_keeps_one(drafts: tuple[Path, Path]) -> None:
    command = arms(drafts, replace(CPU, arch="x86_64 AVX512")).command("candidate")
    assert (command.speculative_config or {})["kv_cache_dtype"] == "fp8"
