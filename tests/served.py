"""How the tests serve the tiny pair: every setting that makes a real vLLM start fast on a small machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from quark_eagle.serving.command import ServeCommand

# Generous: a machine that is busy with other tests takes three times as long as an idle one.
READY_SECONDS = 300.0
# The engine without a worker process of its own: a third fewer imports. vLLM's CPU platform allows it only when told
# that engines run in process, which a server of 0.32 ignores otherwise (platforms/cpu.py, v1/engine/core_client.py).
FAST = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
ENVIRONMENT = FAST | {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
}
OPTIONS = {
    "--distributed-executor-backend": "uni",
    "--enforce-eager": True,
    "--max-model-len": 512,
    "--max-num-seqs": 8,
}


def tiny_command(
    target: Path, draft: Path | None, *, k: int = 3, dtype: str = "float32", **changes: Any
) -> ServeCommand:
    """A server of the tiny pair; ``changes`` are fields of ServeCommand, its options and environment are added to."""
    return ServeCommand(
        target=str(target),
        draft=None if draft is None else str(draft),
        num_speculative_tokens=None if draft is None else k,
        dtype=dtype,
        options=OPTIONS | changes.pop("options", {}),
        environment=ENVIRONMENT | changes.pop("environment", {}),
        **changes,
    )
