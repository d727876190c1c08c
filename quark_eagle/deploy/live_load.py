"""LiveLoad: a draft loaded in a real vLLM, parameter by parameter, as the engine itself tells it.

The engine runs in a process of its own, by the Python that has vLLM, which need not be ours
(`quark_eagle.deploy.in_vllm`). What it tells is facts: no rule of ours has been applied to them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.stand_in import stand_in
from quark_eagle.errors import VerificationError
from quark_eagle.progress import SILENT, Progress

SCRIPT = Path(__file__).parent / "in_vllm" / "start.py"
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # so that the loader runs in the process that watches it
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_DTYPES = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "int64": "I64",
    "int32": "I32",
}
_LAST_LINES = 12
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Rows of a tensor of the file in a parameter.

    Attributes:
        tensor: its name on disk.
        parameter: the runtime name.
        row: of the parameter where they begin.
        rows: how many.
    """

    tensor: str
    parameter: str
    row: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveParameter:
    """One parameter of the draft as it was when loading ended, before weights are processed for a device's kernels.

    Attributes:
        name: its runtime name.
        dtype: in safetensors' spelling.
        shape: with the rows that pad a vocabulary.
        sha256: of its bytes, in hexadecimal.
        unwritten: ranges of rows, first and past the last, that the loader did not touch.
        smallest, largest: value of a scale; None of anything else.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    unwritten: tuple[tuple[int, int], ...]
    smallest: float | None = None
    largest: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLoad:
    """What one vLLM did with one draft.

    Attributes:
        vllm: its version.
        arch: of the machine that it ran on.
        num_target_layers: as it told the draft; None if it did not come so far.
        parameters: by runtime name; empty if the draft was refused.
        placements: where each tensor of the file went, in the order of reading; nowhere if empty.
        refused_while: "config", "build" or "load" where it stopped on the draft; empty if it loaded.
        ready: whether the engine came up with it.
        failure: the exception if it did not.
    """

    vllm: str
    arch: str
    num_target_layers: int | None
    parameters: Mapping[str, LiveParameter]
    placements: Mapping[str, tuple[Placement, ...]]
    refused_while: str
    ready: bool
    failure: str

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> LiveLoad:
        """From the answer of `quark_eagle.deploy.in_vllm`."""
        parameters = {
            name: LiveParameter(
                name=name,
                dtype=_DTYPES.get(facts["dtype"], facts["dtype"]),
                shape=tuple(facts["shape"]),
                sha256=facts["sha256"],
                unwritten=tuple((first, end) for first, end in facts["unwritten"]),
                smallest=facts.get("smallest"),
                largest=facts.get("largest"),
            )
            for name, facts in answer["parameters"].items()
        }
        placements = {
            name: tuple(Placement(tensor=name, **place) for place in places)
            for name, places in answer["tensors"].items()
        }
        return cls(
            vllm=answer["vllm"],
            arch=answer["arch"],
            num_target_layers=answer["num_target_layers"],
            parameters=parameters,
            placements=placements,
            refused_while="" if answer["stage"] == "loaded" else answer["stage"],
            ready=answer["ready"],
            failure=answer["failure"],
        )


def live_load(
    draft: Path | str,
    target: Path | str | None = None,
    *,
    real_target: bool = False,
    python: Path | str = sys.executable,
    dtype: str = "bfloat16",
    trust_remote_code: bool = False,
    timeout_seconds: float = 900.0,
    progress: Progress = SILENT,
) -> LiveLoad:
    """Load a target and a draft in vLLM, on one device. Takes about half a minute on a CPU, nearly all of it its start.

    Args:
        draft: directory of the draft.
        target: directory of its target, of which only config.json is read. None makes one up that fits the draft.
        real_target: load the target itself, weights and all, instead of a stand-in of its geometry.
        python: an interpreter that has vLLM.
        dtype: of the target, and so of the draft's high-precision parameters.
        trust_remote_code: let vLLM run the real target's own Python code.
        timeout_seconds: after which the engine is killed.
        progress: told when the draft is loaded, and when the engine is up.

    Raises:
        VerificationError: vLLM could not be started, or took too long; the end of its log is quoted.
        CheckpointError: draft or target cannot be read.
    """
    directory = Checkpoint.open(draft).directory.absolute()
    with tempfile.TemporaryDirectory(prefix="quark-eagle-live-") as name:
        scratch = Path(name)
        engine: dict[str, Any] = {
            "model": str(target)
            if target is not None and real_target
            else _write_stand_in(scratch, draft, target, dtype),
            "load_format": "auto" if real_target else "dummy",
            "dtype": dtype,
            "trust_remote_code": trust_remote_code,
            "skip_tokenizer_init": True,
            "enforce_eager": True,
            "max_model_len": 128,
            "max_num_seqs": 1,
        }
        answer, log = scratch / "answer.json", scratch / "log.txt"
        job = scratch / "job.json"
        job.write_text(json.dumps({"draft": str(directory), "answer": str(answer), "engine": engine}), encoding="utf-8")
        with log.open("w", encoding="utf-8") as out, _running([str(python), str(SCRIPT), str(job)], out) as process:
            problem = _wait(process, answer, timeout_seconds, progress)
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LAST_LINES:])
        if not answer.is_file():
            raise VerificationError(f"{python}: vLLM could not be asked: {problem}. The last lines of its log:\n{last}")
        told = json.loads(answer.read_text(encoding="utf-8"))
    if problem and not told["failure"]:  # it died after it had loaded the draft
        told |= {"failure": f"{problem}; the last lines of its log:\n{last}"}
    return LiveLoad.of(told)


def _write_stand_in(scratch: Path, draft: Path | str, target: Path | str | None, dtype: str) -> str:
    """A directory with the config.json of one; its weights are made up by vLLM's dummy loader."""
    config = stand_in(_config(draft), _config(target) if target is not None else None, dtype)
    directory = scratch / "target"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(directory)


def _config(directory: Path | str) -> dict[str, Any]:
    path = Path(directory) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerificationError(f"{path}: cannot be read as JSON ({error}), but the geometry lies there.") from error
    if not isinstance(config, dict):
        raise VerificationError(f"{path}: holds no JSON object, but the geometry lies there.")
    return config


@contextmanager
def _running(command: list[str], log: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process group of its own, which is gone when the block ends, however it ends.

    It ends with us as well, and if we are interrupted before the block has begun: the pipe that it reads is then closed
    (`in_vllm.leash`).
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=os.environ | ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        raise VerificationError(f"{command[0]}: vLLM could not be asked ({error}). Is it installed there?") from error
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _wait(process: subprocess.Popen[bytes], answer: Path, timeout_seconds: float, progress: Progress) -> str:
    """Until it ends; why that is no good end, or nothing."""
    deadline, told = time.monotonic() + timeout_seconds, False
    with progress.task("load in vLLM", 2, "step") as task:
        while (code := process.poll()) is None:
            if time.monotonic() > deadline:
                return f"it took longer than {timeout_seconds:g} s"
            if not told and answer.is_file():
                task.advance(1)
                told = True
            time.sleep(_POLL_SECONDS)
        task.advance(1 if told else 2)
    return f"it ended with {code}" if code else ""
