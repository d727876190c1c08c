"""What another Python's vLLM says of itself and of its machine, as one line of JSON: run by `engine.Engine.version`.

A script of the Python that has vLLM, which need not be ours: it imports nothing of quark_eagle.
"""

from __future__ import annotations

import json
import platform
import sys
from typing import Any


def _probe() -> dict[str, Any]:
    import torch
    import vllm
    from vllm.platforms import current_platform

    found: dict[str, Any] = {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": str(current_platform.device_type),
        "hip": torch.version.hip,
        "cuda": torch.version.cuda,
    }
    if current_platform.is_cpu() or not torch.cuda.is_available():
        capability = torch.backends.cpu.get_cpu_capability()
        return found | {"arch": f"{platform.machine()} {capability}", "device": platform.processor(), "num_devices": 0}
    first = torch.cuda.get_device_properties(0)
    return found | {
        "platform": "rocm" if torch.version.hip else "cuda",  # torch and vLLM call both of them "cuda"
        "arch": _gpu_arch(first),
        "device": first.name,
        "num_devices": torch.cuda.device_count(),
    }


def _gpu_arch(properties: Any) -> str:
    """``gfx950`` (ROCm says ``gfx950:sramecc+:xnack-``), ``sm_90``."""
    gcn = getattr(properties, "gcnArchName", "")
    return gcn.split(":")[0] if gcn else f"sm_{properties.major}{properties.minor}"


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules must not be taken for top-level ones
    print(json.dumps(_probe()))
