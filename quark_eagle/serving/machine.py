"""Machine: what a machine and the engine's Python on it have, as a value that anyone can write down.

It is read by a probe in a process of the engine's Python, so that ours imports neither torch nor vLLM, and a machine
that we do not have is a value in a test.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quark_eagle.serving import doctor_probe
from quark_eagle.serving.asking import ask

GPU_ARCHES = {
    "mi355x": "gfx950",
    "mi350x": "gfx950",
    "mi325x": "gfx942",
    "mi300x": "gfx942",
    "h200": "sm_90",
    "h100": "sm_90",
    "b200": "sm_100",
}
"""GPUs by the names that people call them, with what evidence calls them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU that torch sees.

    Attributes:
        arch: ``gfx950``, ``sm_90``.
        memory_bytes: all of it, used or not.
    """

    name: str
    arch: str
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is. None, or nothing in a collection, where there is no such thing or it cannot be found out.

    Attributes:
        executable: the engine's Python, which was asked.
        python: its version.
        packages: versions by what they are to us: vllm, aiter, quark, transformers, triton.
        torch: its version.
        hip: the HIP version that torch was built for.
        cuda: the CUDA version that torch was built for.
        torch_error: why torch cannot be imported, or cannot use the GPUs.
        gpus: that torch sees.
        driver_arches: of the AMD GPUs that the kernel driver lists, whatever torch there is.
        kfd_is_open: whether this user may open /dev/kfd; None where there is none.
        nvidia_driver: whether NVIDIA's driver is loaded.
        rocm: the installed ROCm.
        block_sizes: what each attention backend's source says of its KV-cache blocks.
        speculative_fields: fields of vLLM's speculative config.
        host_memory_bytes: that a process may still take.
        disk_free_bytes: where the results go.
        environment: variables that change what is served or seen.
    """

    executable: str
    python: str
    packages: Mapping[str, str] = field(default_factory=dict)
    torch: str | None = None
    hip: str | None = None
    cuda: str | None = None
    torch_error: str | None = None
    gpus: tuple[Gpu, ...] = ()
    driver_arches: tuple[str, ...] = ()
    kfd_is_open: bool | None = None
    nvidia_driver: bool = False
    rocm: str | None = None
    block_sizes: Mapping[str, str] = field(default_factory=dict)
    speculative_fields: tuple[str, ...] = ()
    host_memory_bytes: int | None = None
    disk_free_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, python: Path | None = None, disk: Path | None = None) -> Machine:
        """This machine, as a Python on it sees it; takes a few seconds, most of them torch's import.

        Args:
            python: that has vLLM; None is our own.
            disk: where the results will go; None is here.

        Raises:
            EngineError: that Python could not be asked.
        """
        executable = str(python or sys.executable)
        command = [executable, doctor_probe.__file__, str(disk or Path.cwd())]
        return cls.of(executable, ask(command, "what it has", "Check --vllm-python."))

    @classmethod
    def of(cls, executable: str, facts: Mapping[str, Any]) -> Machine:
        """The machine that a probe's answer describes."""
        torch = facts["torch"] or {}
        return cls(
            executable=executable,
            python=facts["python"],
            packages=facts["packages"],
            torch=torch.get("version"),
            hip=torch.get("hip"),
            cuda=torch.get("cuda"),
            torch_error=torch.get("error"),
            gpus=tuple(Gpu(**gpu) for gpu in torch.get("gpus", ())),
            driver_arches=tuple(facts["driver_arches"]),
            kfd_is_open=facts["kfd_is_open"],
            nvidia_driver=facts["nvidia_driver"],
            rocm=facts["rocm"],
            block_sizes=facts["block_sizes"],
            speculative_fields=tuple(facts["speculative_fields"]),
            host_memory_bytes=facts["host_memory_bytes"],
            disk_free_bytes=facts["disk_free_bytes"],
            environment=facts["environment"],
        )

    @property
    def arch(self) -> str | None:
        """Of the GPUs that torch sees; None without one."""
        return self.gpus[0].arch if self.gpus else None

    @property
    def vllm(self) -> tuple[int, int] | None:
        """Major and minor version of vLLM.

        >>> Machine(executable="python", python="3.12", packages={"vllm": "0.19.1rc1.dev12+gfb1ac80.rocm700"}).vllm
        (0, 19)
        """
        parts = self.packages.get("vllm", "").split(".")
        return (int(parts[0]), int(parts[1])) if len(parts) > 1 and parts[0].isdigit() and parts[1].isdigit() else None
