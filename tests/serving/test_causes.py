"""The words of real logs of vLLM 0.32 (CPU, and from the sources for GPUs) and what they are taken to mean."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from quark_eagle.serving.causes import CAUSES, cause_of, first_error, obituary
from quark_eagle.serving.process import Guarded

SAID = {
    "no_vllm": "/usr/bin/python3: Error while finding module specification for 'vllm.entrypoints.openai.api_server' "
    "(ModuleNotFoundError: No module named 'vllm')",
    "port_taken": "OSError: [Errno 98] Address already in use",
    "unknown_flag": "api_server.py: error: unrecognized arguments: --no-such-flag",
    "no_model": "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
    "'namespace/repo_name': '/nowhere/at/all'. Use `repo_type` argument if needed.",
    "out_of_memory": "ValueError: Available memory on node 0 (22.19/23.54 GiB) on kv cache allocation is less than "
    "requested memory for kv (100000.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU "
    "memory used by other processes.",
    "no_room_for_cache": "ValueError: No available memory for the cache blocks. Try increasing "
    "`gpu_memory_utilization` when initializing the engine",
    "too_long": "  Value error, User-specified max_model_len (100000) is greater than the derived max_model_len "
    "(max_position_embeddings=512.0 or model_max_length=None in model's config.json).",
    "unsupported_dtype": "ValueError: torch.float32 is not supported for quantization method quark. Supported dtypes: "
    "[torch.float16, torch.bfloat16]",
    "engine_died": "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace "
    "(above) for the root cause.",
}
ON_GPUS = (
    "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 287.98 GiB",
    "ValueError: Free memory on device cuda:0 (10.2/287.98 GiB) on startup is less than desired GPU memory utilization "
    "(0.92, 264.94 GiB).",
)


def test_every_cause_has_words_of_its_own() -> None:
    assert {cause.name for cause in CAUSES} == set(SAID)


@pytest.mark.parametrize("name", sorted(SAID))
def test_real_words_mean_their_cause(name: str) -> None:
    found = cause_of(f"INFO something\n(EngineCore pid=7) ERROR 11-22 08:50:57 [core.py:1510] {SAID[name]}\nmore")
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("said", ON_GPUS)
def test_a_gpus_words_mean_too_little_memory(said: str) -> None:
    found = cause_of(said)
    assert found is not None
    assert found.name == "out_of_memory"


def test_a_healthy_log_means_nothing() -> None:
    healthy = "(Worker pid=1) WARNING [torch_utils.py:283] OMP_NUM_THREADS=2 is set\nINFO: Started server process [1]"
    assert cause_of(healthy) is None
    assert first_error(healthy) is None


def test_the_first_error_is_the_root_of_the_others() -> None:
    log = (
        "(EngineCore pid=7288) ERROR 11-22 08:50:57 [core.py:1510] Traceback (most recent call last):\n"
        "(EngineCore pid=7288) ERROR 11-22 08:50:57 [core.py:1510] ValueError: No available memory\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert first_error(log) == "ValueError: No available memory"


def ended(tmp_path: Path, program: str) -> Guarded:
    process = Guarded.start([sys.executable, "-c", program], tmp_path / "vllm.log")
    process.guardian.wait(20)
    process.stop()
    return process


def test_an_obituary_tells_cause_remedy_root_and_log(tmp_path: Path) -> None:
    said = SAID["out_of_memory"]
    lines = [said, *map(str, range(50)), "RuntimeError: Engine core initialization failed."]
    process = ended(tmp_path, f"print({chr(10).join(lines)!r}); raise SystemExit(1)")
    message = obituary("vLLM ended with 1", process)
    assert message.startswith(
        "vLLM ended with 1. There is less memory than was asked for. End what else uses the device"
    )
    assert f"\nThe first error in its log: {said}\n" in message
    assert f"\nLog: {tmp_path / 'vllm.log'}\nIts last lines:\n31\n32\n" in message
    assert message.endswith("RuntimeError: Engine core initialization failed.")


def test_a_process_that_was_killed_without_a_word_is_told_so(tmp_path: Path) -> None:
    process = ended(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert "It was killed (SIGKILL); the kernel does that when memory runs out" in obituary("It ended", process)
