"""What the GPU and vLLM's attention do to FP8 drafts: facts about versions and arches, as lines of a diagnosis.

Read in the sources of vLLM 0.19 to 0.32. What can be read in the installed vLLM itself is taken from there
(`Machine.block_sizes`, `Machine.speculative_fields`); the versions here only say where a remedy is to be had.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from quark_eagle.serving.doctor_line import Line, error, ok, warning
from quark_eagle.serving.machine import Machine
from quark_eagle.serving.recipes import Job

AITER_MLA_WITH_EAGLE3 = (
    "0.20.0"  # vllm/v1/attention/backends/mla/rocm_aiter_mla.py: [1] in 0.19.0, [MultipleOf(1)] since
)
DRAFT_BACKEND_FIELD = "0.21.0"  # vllm/config/speculative.py: attention_backend
PINNED_DRAFT_BACKEND = "TRITON_ATTN"
_LARGEST_BLOCK = 1024


def fp8_line(arch: str) -> Line:
    """Which FP8 a GPU multiplies.

    Source: vLLM's platforms/rocm.py (``supports_fp8``: gfx94, gfx95, gfx12; ``is_fp8_fnuz``: gfx94) and, on CUDA, the
    least capability 89 of its Quark FP8 schemes.
    """
    if arch.startswith("gfx95"):
        return ok("FP8", f"{arch} multiplies e4m3fn as it is stored: what MI355X serves is what is measured")
    if arch.startswith("gfx94"):
        return warning(
            "FP8",
            f"{arch} has e4m3fnuz: vLLM converts weights and scales at load",
            "Measure here what is served here; it is no evidence for MI355X (gate --require-arch gfx950).",
        )
    if arch.startswith("gfx12"):
        return warning("FP8", f"{arch} has FP8, but is no MI355X", "It is no evidence for MI355X.")
    capability = re.fullmatch(r"sm_(\d+)", arch)
    if capability and int(capability[1]) >= 89:
        return ok("FP8", f"{arch} multiplies e4m3fn as it is stored")
    return error(
        "FP8",
        f"{arch} has no FP8 arithmetic that vLLM uses",
        "Serve the BF16 draft there, or use MI300X, MI355X, or an NVIDIA GPU from sm_89 on.",
    )


def attention_lines(machine: Machine, job: Job) -> Iterator[Line]:
    """Whether target and draft attention can share KV-cache blocks, and whether the draft gets one that works."""
    if machine.hip is None or not machine.block_sizes:
        return
    draft_is_mla = job.draft is not None and bool(job.draft.is_mla)
    draft = "ROCM_AITER_MLA" if draft_is_mla else PINNED_DRAFT_BACKEND
    target = _target_backend(machine, job)
    yield _block_line(machine, target, draft)
    if job.draft is not None and not draft_is_mla:
        yield _draft_attention_line(machine)


def share_a_block(first: str, second: str) -> int | None:
    """The smallest KV-cache block that two backends both run, from what their sources say; None if there is none.

    As vLLM's `select_common_block_size` (v1/worker/utils.py): a number is that size alone, MultipleOf(n) any multiple.

    >>> share_a_block("[MultipleOf(1)]", "[MultipleOf(16)]"), share_a_block("[1]", "[MultipleOf(16)]")
    (16, None)
    """
    return next((size for size in range(1, _LARGEST_BLOCK + 1) if _runs(first, size) and _runs(second, size)), None)


def _runs(said: str, size: int) -> bool:
    multiples = re.findall(r"MultipleOf\((\d+)\)", said)
    alone = re.findall(r"\d+", re.sub(r"MultipleOf\(\d+\)", "", said))
    return str(size) in alone or any(size % int(step) == 0 for step in multiples)


def _target_backend(machine: Machine, job: Job) -> str:
    """What vLLM takes for the target with the recipe's settings (0.32, platforms/rocm.py: _get_backend_priorities)."""
    if job.target.is_mla or job.target.family == "kimi-k2":
        return "ROCM_AITER_MLA" if "aiter" in machine.packages else "TRITON_MLA"
    return "ROCM_AITER_FA" if job.target.family == "minimax-m2" else "ROCM_ATTN"


def _block_line(machine: Machine, target: str, draft: str) -> Line:
    vllm = f"vLLM {machine.packages.get('vllm')}"
    first, second = machine.block_sizes.get(target), machine.block_sizes.get(draft)
    if first is None or second is None:
        missing = target if first is None else draft
        return warning("attention blocks", f"{vllm} has no {missing} that could be read", "See what its log chooses.")
    size = share_a_block(first, second)
    both = f"{target} runs blocks of {first}, the draft's {draft} of {second}"
    if size is not None:
        return ok("attention blocks", f"{both}: both run {size}")
    return error(
        "attention blocks",
        f"{vllm}: {both}, and there is none in common, so it will not start with an Eagle3 draft",
        f"Take vLLM {AITER_MLA_WITH_EAGLE3} or later (solved in https://github.com/vllm-project/vllm/pull/39616), or "
        "serve with VLLM_ROCM_USE_AITER_MLA=0, which is slower.",
    )


def _draft_attention_line(machine: Machine) -> Line:
    if "attention_backend" in machine.speculative_fields:
        return ok(
            "draft attention",
            f"can be pinned, and recipes pin {PINNED_DRAFT_BACKEND}: left alone it would be ROCM_ATTN, with which "
            "acceptance can collapse (vLLM #47854)",
        )
    return warning(
        "draft attention",
        f"vLLM {machine.packages.get('vllm')} cannot pin it, and its own choice is ROCM_ATTN, with which acceptance "
        "can collapse (vLLM #47854)",
        f"Take vLLM {DRAFT_BACKEND_FIELD} or later; else a low τ may be the attention's and not the draft's.",
    )
