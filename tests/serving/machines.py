"""Machines that tests speak of: as a probe in the engine's Python describes them. No such GPU is needed."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from quark_eagle.serving.machine import Gpu, Machine

MI355X_BYTES = 309_220_868_096  # 288 GiB

# What vLLM's sources say of KV-cache blocks: 0.19.0, and 0.20.0 to 0.32.0.
BLOCKS_0_19 = MappingProxyType(
    {
        "ROCM_AITER_MLA": "[1]",
        "TRITON_MLA": "[MultipleOf(16)]",
        "ROCM_ATTN": "[MultipleOf(16)]",
        "ROCM_AITER_FA": "[16, 32]",
        "ROCM_AITER_UNIFIED_ATTN": "[MultipleOf(16)]",
        "TRITON_ATTN": "[MultipleOf(16)]",
    }
)
BLOCKS_SINCE_0_20 = MappingProxyType({**BLOCKS_0_19, "ROCM_AITER_MLA": "[MultipleOf(1)]"})

OWN = MappingProxyType({"quark": "0.13", "transformers": "5.16.1"})

MI355X_NODE = Machine(
    executable="/usr/bin/python3",
    python="3.12.13",
    packages={"vllm": "0.31.0+rocm723", "aiter": "0.1.21.post2", "transformers": "5.14.1", "triton": "3.6.0"},
    torch="2.11.0+gitd0c8b1f",
    hip="7.2.53211",
    gpus=tuple(Gpu(name="AMD Instinct MI355X", arch="gfx950", memory_bytes=MI355X_BYTES) for _ in range(8)),
    driver_arches=("gfx950",) * 8,
    kfd_is_open=True,
    rocm="7.2.3",
    block_sizes=BLOCKS_SINCE_0_20,
    speculative_fields=("num_speculative_tokens", "model", "method", "attention_backend", "kv_cache_dtype"),
    host_memory_bytes=2_000_000_000_000,
    disk_free_bytes=5_000_000_000_000,
)
MI300X_NODE = replace(
    MI355X_NODE,
    gpus=tuple(Gpu(name="AMD Instinct MI300X", arch="gfx942", memory_bytes=206_141_652_992) for _ in range(8)),
    driver_arches=("gfx942",) * 8,
)
H200_NODE = Machine(
    executable="/usr/bin/python3",
    python="3.12.3",
    packages={"vllm": "0.32.0", "transformers": "5.16.1"},
    torch="2.13.0+cu129",
    cuda="12.9",
    gpus=(Gpu(name="NVIDIA H200", arch="sm_90", memory_bytes=150_000_000_000),),
    nvidia_driver=True,
    host_memory_bytes=100_000_000_000,
    disk_free_bytes=60_000_000_000,
)
CPU_NODE = Machine(
    executable="/usr/bin/python3",
    python="3.11.7",
    packages={"vllm": "0.32.0"},
    torch="2.13.0+cpu",
    host_memory_bytes=24_000_000_000,
    disk_free_bytes=47_000_000_000,
)
