"""Where the target runs, and in which arithmetic.

bfloat16 where the device multiplies it fast, else float32: a CPU without BF16 matrix instructions is seven times faster
in float32 (measured, 2 cores with AVX2).
"""

from __future__ import annotations

import platform
import re

import torch

from quark_eagle.errors import UsageError
from quark_eagle.model.fp8_product import gpu_arch
from quark_eagle.model.linear import cpu_multiplies_bf16


def resolve_dtype(dtype: str, device: str) -> str:
    """For "auto", the dtype that this device multiplies fast."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.startswith("cuda") or cpu_multiplies_bf16() else "float32"


def resolve_device(device: str) -> str:
    """For "auto", the GPU if there is one (ROCm's are called cuda too).

    Raises:
        UsageError: no such device is here.
    """
    has_gpu = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_gpu else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device {device}: must be auto, cpu, cuda or cuda:N.")
    if device != "cpu" and not has_gpu:
        raise UsageError(
            f"--device {device}: torch {torch.__version__} sees no GPU here. Leave --device out, or say cpu."
        )
    return device


def arch_of(device: str) -> str:
    """What multiplies there, as evidence tells it: the processor's instruction set and, on a GPU, the GPU's own name.

    ``x86_64 AVX2``; ``x86_64 AVX512, gfx950`` on an MI355X; ``…, sm_90``.
    """
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    gpu = gpu_arch(torch.device(device))
    return processor if gpu is None else f"{processor}, {gpu}"
