"""Which vLLM: the Python that has it, and what that one says of itself.

Everything is started as ``python -m module``: the console script of vLLM's CPU package dies (``No package metadata was
found for vllm``), and of any console script the interpreter is in its first lines.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from quark_eagle.errors import UsageError
from quark_eagle.serving import engine_probe
from quark_eagle.serving.asking import ask

# `#!/opt/venv/bin/python3`, or what installers write where that line would be too long or hold a space:
# `#!/bin/sh` and then `'''exec' "/opt/a venv/bin/python3" "$0" "$@"`.
_SHEBANG = re.compile(
    r"""\A#!(?P<short>/\S*python[\d.]*)\s*\n|\A#!/bin/sh\n'''exec' "?(?P<long>/[^"\n]*?python[\d.]*)"? """
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineVersion:
    """What an engine is and what it runs on: this is what evidence is stamped with.

    Attributes:
        vllm: its version.
        torch: the version of its torch.
        python: the version of its interpreter.
        platform: "rocm", "cuda" or "cpu".
        arch: ``gfx950`` of an MI355X, ``sm_90`` of an H100, ``x86_64 AVX512`` where there is no GPU.
        device: the name of its first device; may be empty on a CPU.
        num_devices: GPUs that it sees.
        hip: the HIP version of its torch on ROCm.
        cuda: the CUDA version of its torch on CUDA.
    """

    vllm: str
    torch: str
    python: str
    platform: str
    arch: str
    device: str
    num_devices: int
    hip: str | None = None
    cuda: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How to run vLLM.

    Attributes:
        python: an interpreter that has it.
        environment: variables that are set for every process of it, over the ones we run in ourselves.
    """

    python: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def find(cls, python: Path | None = None, bin: Path | None = None) -> Engine:
        """The engine that the user means: an interpreter, or the `vllm` script of an environment, or our own.

        Args:
            python: of ``--vllm-python``.
            bin: of ``--vllm-bin``: the console script; its interpreter is the one that its first line names.

        Raises:
            UsageError: both were given, or one that is not there or is no such thing.
        """
        if python is not None and bin is not None:
            raise UsageError("--vllm-python and --vllm-bin name the same thing twice. Give one of them.")
        if bin is not None:
            return cls(python=_interpreter_of(bin))
        if python is None:
            return cls(python=Path(sys.executable))
        found = shutil.which(python)
        if found is None:
            raise UsageError(f"--vllm-python {python}: no such program, but an interpreter that has vLLM is needed.")
        return cls(python=Path(os.path.abspath(found)))  # not resolved: a venv's python is a link

    def command(self, module: str, *args: str) -> list[str]:
        """The arguments that run a module of this engine's Python.

        >>> Engine(python=Path("/opt/bin/python")).command("vllm.benchmarks.serve", "--help")
        ['/opt/bin/python', '-m', 'vllm.benchmarks.serve', '--help']
        """
        return [str(self.python), "-m", module, *args]

    def version(self) -> EngineVersion:
        """What the engine says of itself; asked once, in a process of its own, which takes 5 to 20 s.

        Raises:
            EngineError: it could not be asked: there is no vLLM, or importing it fails.
        """
        return _ask(self.python, tuple(sorted(self.environment.items())))


@cache
def _ask(python: Path, environment: tuple[tuple[str, str], ...]) -> EngineVersion:
    advice = "Name an interpreter that has vLLM with --vllm-python, or its console script with --vllm-bin."
    said = ask([str(python), engine_probe.__file__], "for its version of vLLM", advice, dict(environment))
    return EngineVersion(**said)


def _interpreter_of(script: Path) -> Path:
    found = shutil.which(script)
    if found is None:
        raise UsageError(f"--vllm-bin {script}: no such program, but the `vllm` script of an environment is needed.")
    with open(found, "rb") as file:
        beginning = file.read(1024).decode("utf-8", errors="replace")
    named = _SHEBANG.match(beginning)
    if named is None:
        raise UsageError(
            f"--vllm-bin {found}: its first line names no Python, so it is not a console script that pip installed. "
            "Name the interpreter itself with --vllm-python."
        )
    return Path(named["short"] or named["long"])
