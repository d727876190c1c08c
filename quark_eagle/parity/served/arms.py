"""Arms: what each server is started with, equal in everything but the draft, and what the machine has room for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from quark_eagle.documents.served import Layout, ServedArmName
from quark_eagle.errors import UsageError
from quark_eagle.parity.served.schedule import fits_side_by_side
from quark_eagle.serving.command import ServeCommand
from quark_eagle.serving.engine import EngineVersion
from quark_eagle.trace.prompts import PromptSet

# vLLM 0.32 drafts for no request of a batch once the longest of them, drafts included, might pass max_model_len
# (v1/worker/gpu_model_runner.py, `_input_fits_in_drafter`), and a chat template adds tokens to a conversation.
ROOM = 256
CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"  # GiB; without it the CPU build takes most of the memory there is
_DEFAULT_CACHE_SPACE = "2"
_PROCESS_BYTES = 3 << 30  # an API server, an engine core and a worker, each with torch
# HIP reads both, and vLLM 0.32 refuses two that differ (platforms/rocm.py, `_sync_hip_cuda_env_vars`).
_DEVICE_VARIABLES = {
    "rocm": ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    "cuda": ("CUDA_VISIBLE_DEVICES",),
}
# Variables whose value may shape acceptance, by how they begin; never one that may hold a secret.
_RECORDED = ("VLLM_", "HIP_", "ROCM_", "ROCR_", "HSA_", "CUDA_VISIBLE", "AITER_", "NCCL_", "RCCL_", "OMP_", "TORCH")
_SECRET = ("KEY", "TOKEN", "SECRET", "PASS", "CRED", "AUTH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """The commands of all arms.

    Attributes:
        base: what is served, without a draft: flags, variables and dtype of every arm.
        drafts: directories of the BF16 and of the FP8 draft.
        num_speculative_tokens: k, the same for both.
        platform: "rocm", "cuda" or "cpu".
        candidate_only: what only the candidate's speculative config says: of its KV cache (`parity.served.fp8_cache`).
    """

    base: ServeCommand
    drafts: Mapping[ServedArmName, Path]
    num_speculative_tokens: int
    platform: str
    candidate_only: Mapping[str, str] = field(default_factory=dict)

    def command(self, arm: ServedArmName, devices: str | None = None) -> ServeCommand:
        """What an arm's server is started with.

        Args:
            arm: which.
            devices: numbers of the GPUs that it has to itself; None is all there are.

        Raises:
            UsageError: devices, on a machine without GPUs or without these.
        """
        environment = dict(self.base.environment)
        if devices is not None:
            if self.platform not in _DEVICE_VARIABLES:
                raise UsageError(f"--devices {devices}: this vLLM computes on the CPU. Leave the option out.")
            variables = _DEVICE_VARIABLES[self.platform]
            environment |= dict.fromkeys(variables, _as_the_driver_counts(devices, variables))
        if arm == "none":
            return replace(self.base, draft=None, num_speculative_tokens=None, speculative={}, environment=environment)
        own = self.candidate_only if arm == "candidate" else {}
        return replace(
            self.base,
            draft=str(self.drafts[arm]),
            num_speculative_tokens=self.num_speculative_tokens,
            speculative={**self.base.speculative, **own},
            environment=environment,
        )


def _as_the_driver_counts(devices: str, variables: Sequence[str]) -> str:
    """Numbers of devices among those that we may see, as numbers among all that there are.

    A scheduler of a shared machine has said which are ours, in the very variables that a server's share is said in.

    Raises:
        UsageError: a number past the last device that we may see.
    """
    name = next((name for name in variables if os.environ.get(name)), None)
    if name is None:
        return devices
    visible = [word.strip() for word in os.environ[name].split(",")]
    numbers = [int(word) for word in devices.split(",")]
    if max(numbers) >= len(visible):
        raise UsageError(
            f"--devices {devices}: {name}={os.environ[name]} leaves {len(visible)} devices, which count from 0. Name "
            "those, or unset the variable."
        )
    return ",".join(visible[number] for number in numbers)


def equipped(base: ServeCommand, prompts: PromptSet, max_tokens: int, version: EngineVersion) -> ServeCommand:
    """A command with what every arm needs besides: room for the longest conversation, and on a CPU a bounded cache."""
    wanted = prompts.longest + max_tokens + ROOM
    limit = context_length(Path(base.target))
    options = {"--max-model-len": wanted if limit is None else min(wanted, limit), **base.options}
    environment = dict(base.environment)
    if version.platform == "cpu" and CACHE_SPACE not in os.environ:
        environment.setdefault(CACHE_SPACE, _DEFAULT_CACHE_SPACE)
    return replace(base, options=options, environment=environment)


def context_length(target: Path) -> int | None:
    """Tokens of the longest conversation that a target takes; None if its config does not say."""
    return _in_config(target, "max_position_embeddings")


def num_hidden_layers(target: Path) -> int | None:
    """Of a target; None if its config does not say."""
    return _in_config(target, "num_hidden_layers")


def _in_config(target: Path, key: str) -> int | None:
    """A number in config.json of a target, or in the part of it that is about language."""
    try:
        config = json.loads((target / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    nested = config.get("text_config")
    value = (nested if isinstance(nested, dict) else config).get(key)
    return value if isinstance(value, int) else None


def layout_here(arms: Arms, *, one_at_a_time: bool = False) -> Layout:
    """Side by side where memory holds two servers, else one at a time. A GPU is one server's: vLLM takes nearly all."""
    if one_at_a_time or arms.platform != "cpu":
        return "one at a time"
    weights = 2 * size_of(Path(arms.base.target))  # as in the files, or widened to float32
    weights += max(size_of(draft) for draft in arms.drafts.values())
    space = arms.base.environment.get(CACHE_SPACE) or os.environ.get(CACHE_SPACE) or _DEFAULT_CACHE_SPACE
    if not space.isdecimal():  # as vLLM reads it (envs.py)
        raise UsageError(f"{CACHE_SPACE}={space}: a whole number of GiB was needed, such as {_DEFAULT_CACHE_SPACE}.")
    needed = weights + int(space) * (1 << 30) + _PROCESS_BYTES
    return "side by side" if fits_side_by_side(needed, available_bytes()) else "one at a time"


def size_of(directory: Path) -> int:
    """Bytes of the safetensors files in a directory; 0 where there is none."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Memory that a new process can have without swapping; None where the kernel does not say."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(values[0]) * 1024 if values else None


def relevant(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that may shape acceptance, without any that may be a secret.

    >>> relevant({"VLLM_ROCM_USE_AITER": "1", "VLLM_API_KEY": "x", "HOME": "/root"})
    {'VLLM_ROCM_USE_AITER': '1'}
    """
    return {
        name: value
        for name, value in sorted(environment.items())
        if name.startswith(_RECORDED) and not any(word in name for word in _SECRET)
    }
