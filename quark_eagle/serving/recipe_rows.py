"""What to start vLLM with, as data: a row for every flag and variable, with its reason, its source, and when it holds.

The rows for Kimi-K2.5 and MiniMax-M2.5 are AMD's own for MI355X, from the scripts that the published throughput was
measured with. Where those differ between the BF16 and the FP8 draft of one target, there is one row for both: a
comparison must not differ in anything but the draft.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from quark_eagle.serving.command import Option
from quark_eagle.serving.recipe_model import Family

Kind = Literal["variable", "flag", "speculative", "setting"]
"""A variable of the environment, a flag, a field of ``--speculative-config``, or what `ServeCommand` writes itself."""

Platform = Literal["rocm", "cuda", "cpu"]

KIMI_FP8 = "https://github.com/SemiAnalysisAI/InferenceX/pull/1515: kimik2.5_fp4_mi355x_eagle3_fp8.sh"
KIMI_BF16 = "https://github.com/SemiAnalysisAI/InferenceX/pull/1116"
MINIMAX = "https://github.com/SemiAnalysisAI/InferenceX/pull/1234"
AMD_BLOG = "https://rocm.blogs.amd.com/artificial-intelligence/eagle3-speculative-decoding/README.html"
DRAFT_TRAP = "https://github.com/vllm-project/vllm/pull/47854, https://github.com/vllm-project/vllm/issues/53323"
OUR_OWN = "quark-eagle: what a comparison needs"

SERVED_WITH = (0, 31)
"""vLLM that recipes are for if nothing else is said: that of the container file in examples/rocm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that vLLM is started with, and when.

    Attributes:
        value: text in which ``{tp}`` and ``{max_model_len}`` stand for the job's own; other values are as they are.
        families: of targets that it is for; empty for all.
        platforms: that it is for; empty for all.
        arches: of GPUs that it is for; empty for all.
        since: the first vLLM that has it.
        absent: versions after that which do not have it.
        tp_below: holds below this many GPUs.
        isl_from: holds from this many prompt tokens on.
        with_draft: holds only where something speculates.
        remote_code: holds only where the target's own Python may run.
        mla_draft: False: holds unless the draft's attention is latent.
    """

    kind: Kind
    name: str
    value: Option
    reason: str
    source: str
    families: tuple[Family, ...] = ()
    platforms: tuple[Platform, ...] = ()
    arches: tuple[str, ...] = ()
    since: tuple[int, int] = (0, 0)
    absent: tuple[tuple[int, int], ...] = ()
    tp_below: int | None = None
    isl_from: int = 0
    with_draft: bool = False
    remote_code: bool = False
    mla_draft: bool | None = None


PUBLISHED_K: Mapping[tuple[Family, bool], tuple[int, str]] = {
    ("kimi-k2", True): (6, KIMI_FP8),
    ("kimi-k2", False): (4, KIMI_BF16),
    ("minimax-m2", False): (3, MINIMAX),
    ("minimax-m2", True): (3, f"{MINIMAX} (published for the BF16 draft)"),
    ("generic", False): (3, "vLLM's acceptance tests, tests/v1/spec_decode/test_acceptance_length.py"),
    ("generic", True): (3, "vLLM's acceptance tests, tests/v1/spec_decode/test_acceptance_length.py"),
}
"""k by family and whether the draft is quantized, with its source."""

PUBLISHED_TP: Mapping[Family, int] = {"kimi-k2": 4, "minimax-m2": 4, "generic": 1}
"""GPUs that a target is split over, as in AMD's table of throughput; one for the others."""

ROWS: tuple[Row, ...] = (
    Row(
        kind="variable",
        name="VLLM_ROCM_USE_AITER",
        value="1",
        reason="AMD's own kernels (attention, MoE, GEMM); AMD's images leave it off",
        source=f"{KIMI_FP8}; https://github.com/vllm-project/vllm/issues/56945",
        platforms=("rocm",),
    ),
    Row(
        kind="variable",
        name="VLLM_ROCM_USE_AITER_FP4_ASM_GEMM",
        value="1",
        reason="the MXFP4 target's GEMM in assembly; published with the FP8 draft only, so both arms get it here",
        source=KIMI_FP8,
        families=("kimi-k2",),
        arches=("gfx950",),
        absent=((0, 29), (0, 30)),  # vllm/envs.py has it up to 0.28 and again from 0.31
    ),
    Row(
        kind="variable",
        name="VLLM_ROCM_QUICK_REDUCE_QUANTIZATION",
        value="INT4",
        reason="all-reduce between the GPUs in INT4; it changes the target's numbers, in all arms alike",
        source=KIMI_FP8,
        families=("kimi-k2",),
        platforms=("rocm",),
    ),
    Row(
        kind="variable",
        name="VLLM_ROCM_USE_AITER_RMSNORM",
        value="0",
        reason="below 8 GPUs AITER's RMSNorm has accuracy issues, as AMD's script says",
        source=KIMI_FP8,
        families=("kimi-k2",),
        platforms=("rocm",),
        tp_below=8,
    ),
    Row(
        kind="flag",
        name="--tensor-parallel-size",
        value="{tp}",
        reason="GPUs that the target is split over; AMD's table is of 4",
        source=AMD_BLOG,
    ),
    Row(
        kind="flag",
        name="--enable-expert-parallel",
        value=True,
        reason="experts are spread over the GPUs, as in AMD's table",
        source=AMD_BLOG,
        families=("minimax-m2",),
    ),
    Row(
        kind="flag",
        name="--gpu-memory-utilization",
        value=0.9,
        reason="as published; the rest is for the draft's own buffers and graphs",
        source=KIMI_FP8,
        families=("kimi-k2",),
        platforms=("rocm", "cuda"),
    ),
    Row(
        kind="flag",
        name="--gpu-memory-utilization",
        value=0.9,
        reason="stated, for vLLM's default has changed: 0.90 in 0.19, 0.92 in 0.31",
        source="vllm/config/cache.py",
        families=("generic",),
        platforms=("rocm", "cuda"),
    ),
    Row(
        kind="flag",
        name="--gpu-memory-utilization",
        value=0.95,
        reason="as published",
        source=MINIMAX,
        families=("minimax-m2",),
        platforms=("rocm", "cuda"),
    ),
    Row(
        kind="flag",
        name="--max-model-len",
        value="{max_model_len}",
        reason="prompt and answer and 256 to spare; AMD's BF16 run had 2248 and its FP8 run 2304, here all have one",
        source=AMD_BLOG,
    ),
    Row(
        kind="flag",
        name="--long-prefill-token-threshold",
        value=8192,
        reason="long prompts are read in pieces",
        source=KIMI_FP8,
        families=("kimi-k2",),
        isl_from=8192,
    ),
    Row(
        kind="flag",
        name="--max-num-batched-tokens",
        value=16384,
        reason="tokens of one step when prompts are long",
        source=KIMI_FP8,
        families=("kimi-k2",),
        isl_from=8192,
    ),
    Row(
        kind="flag",
        name="--mm-encoder-tp-mode",
        value="data",
        reason="the vision tower is copied and not split",
        source=KIMI_FP8,
        families=("kimi-k2",),
    ),
    Row(
        kind="flag",
        name="--kv-cache-dtype",
        value="fp8",
        reason="as published; the draft's cache inherits it, so its scales matter as well",
        source=MINIMAX,
        families=("minimax-m2",),
        platforms=("rocm",),
    ),
    Row(
        kind="flag",
        name="--block-size",
        value=32,
        reason="ROCM_AITER_FA takes blocks of 16 or 32",
        source=f"{MINIMAX}; vllm/v1/attention/backends/rocm_aiter_fa.py",
        families=("minimax-m2",),
        platforms=("rocm",),
    ),
    Row(
        kind="flag",
        name="--attention-backend",
        value="ROCM_AITER_FA",
        reason="the target's attention, as published; vLLM would choose ROCM_ATTN first",
        source=f"{MINIMAX}; vllm/platforms/rocm.py: _get_backend_priorities",
        families=("minimax-m2",),
        platforms=("rocm",),
    ),
    Row(
        kind="flag",
        name="--reasoning-parser",
        value="minimax_m2",
        reason="as published; it changes how an answer is told, not what is generated",
        source=MINIMAX,
        families=("minimax-m2",),
    ),
    Row(
        kind="speculative",
        name="draft_tensor_parallel_size",
        value=1,
        reason="as published",
        source=f"{KIMI_FP8}; {MINIMAX}",
        families=("kimi-k2", "minimax-m2"),
        with_draft=True,
    ),
    Row(
        kind="speculative",
        name="attention_backend",
        value="TRITON_ATTN",
        reason="the draft would get ROCM_ATTN, with which acceptance can collapse; or take ROCM_AITER_UNIFIED_ATTN",
        source=f"{DRAFT_TRAP}; https://github.com/vllm-project/recipes/pull/740",
        platforms=("rocm",),
        since=(0, 21),  # vllm/config/speculative.py
        with_draft=True,
        mla_draft=False,
    ),
    Row(
        kind="setting",
        name="prefix_caching",
        value=False,
        reason="an answer must not depend on what was asked before: what one arm has cached the other has not",
        source=f"{KIMI_FP8}; {OUR_OWN}",
    ),
    Row(
        kind="setting",
        name="per_request_metrics",
        value=True,
        reason="every answer tells how many tokens each of its rounds accepted, so that arms are compared by prompt",
        source="vllm/config/observability.py, since 0.29",
        since=(0, 29),
        with_draft=True,
    ),
    Row(
        kind="setting",
        name="trust_remote_code",
        value=True,
        reason="the target's tokenizer and processor are Python of its own, which vLLM runs",
        source=KIMI_FP8,
        families=("kimi-k2",),
        remote_code=True,
    ),
)
"""In the order in which they are written."""
