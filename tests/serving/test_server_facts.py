"""What a server is set to, read from real lines of its log and from the words that the sources have for GPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quark_eagle.serving.log_facts import facts_in_log
from quark_eagle.serving.readiness import STAGES, stages_passed
from quark_eagle.serving.server_facts import ServerFacts

ARGUMENTS = (
    "(APIServer pid=1) INFO 11-22 08:38:47 [api_utils.py:286] non-default args: {'model': '/t', 'dtype': 'float32', "
    "'enforce_eager': True, 'speculative_config': {'method': 'eagle3', 'model': '/d', 'num_speculative_tokens': 3%s}}"
)
CONFIG = (
    "(EngineCore pid=2) INFO 11-22 08:39:12 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: "
    "model='/t', speculative_config=SpeculativeConfig(method='eagle3', model='/d', num_spec_tokens=3), tokenizer='/t', "
    "dtype=torch.float32, max_seq_len=512, load_format=auto, tensor_parallel_size=4, pipeline_parallel_size=1, "
    "quantization=None, enforce_eager=True, kv_cache_dtype=auto, device_config=cpu, seed=0, served_model_name=/t, "
    "enable_prefix_caching=False, enable_chunked_prefill=True, compilation_config={'mode': <CompilationMode.NONE: 0>, "
    "'cudagraph_mode': <CUDAGraphMode.FULL_AND_PIECEWISE: (2, 1)>, 'cudagraph_num_of_warmups': 0}"
)
TARGET = "(Worker pid=3) INFO 11-22 08:39:35 [gpu_model_runner.py:68] Starting to load model /t..."
DRAFT = "(Worker pid=3) INFO 11-22 08:39:37 [gpu_model_runner.py:5071] Loading drafter model..."
CAST = (
    "(Worker pid=3) WARNING 11-22 08:39:38 [utils.py:334] Attempted to load weight fc.weight with dtype torch.bfloat16 "
    "into parameter with dtype torch.float8_e4m3fn"
)
# platforms/rocm.py, cuda.py
ROCM = "INFO 11-22 08:39:36 [rocm.py:850] Using %s backend out of potential backends: ['ROCM_ATTN', 'TRITON_ATTN']."
PINNED = "INFO 11-22 08:39:36 [rocm.py:750] Using %s backend (selected via --attention-backend)."
CUDA = "INFO 11-22 08:39:36 [cuda.py:507] Using %s attention backend out of potential backends: ['FLASH_ATTN']."
VISION = "(Worker pid=3) INFO [rocm.py:878] Using backend AttentionBackendEnum.TORCH_SDPA for vit attention"
LOG = "\n".join([ARGUMENTS % "", CONFIG, TARGET, DRAFT])


def backends(*lines: str) -> tuple[str | None, str | None]:
    facts = facts_in_log("\n".join([CONFIG.replace("device_config=cpu", "device_config=cuda"), *lines]))
    return facts.attention_backend, facts.draft_attention_backend


def test_a_log_tells_every_setting() -> None:
    assert facts_in_log(LOG) == ServerFacts(
        vllm="0.32.0",
        draft="/d",
        num_speculative_tokens=3,
        rejection_sample_method="default",
        draft_sample_method="default",
        dtype="float32",
        kv_cache_dtype="auto",
        prefix_caching=False,
        enforce_eager=True,
        cudagraph_mode="FULL_AND_PIECEWISE",
        tensor_parallel_size=4,
        max_model_len=512,
        attention_backend="CPU_ATTN",
        draft_attention_backend="CPU_ATTN",
        casts=(),
    )


def test_a_path_with_a_quote_in_it_is_read_whole() -> None:
    """Python writes such a string in the other quotes."""
    assert facts_in_log(LOG.replace("model='/d', num", 'model="/amd\'s d", num')).draft == "/amd's d"


def test_a_log_that_tells_nothing_leaves_everything_unknown() -> None:
    assert facts_in_log("Traceback (most recent call last):") == ServerFacts()
    assert "prefix_caching" in ServerFacts().unknown


def test_without_a_draft_there_is_nothing_to_say_of_it() -> None:
    said = CONFIG.replace("SpeculativeConfig(method='eagle3', model='/d', num_spec_tokens=3)", "None")
    facts = facts_in_log("\n".join([said, TARGET]))
    assert (facts.draft, facts.num_speculative_tokens, facts.draft_attention_backend) == (None, None, None)
    assert facts.attention_backend == "CPU_ATTN"


def test_backends_before_the_draft_are_the_targets_and_after_it_the_drafts() -> None:
    worker = "(Worker pid=3) "
    assert backends(TARGET, worker + ROCM % "ROCM_AITER_MLA", DRAFT, worker + ROCM % "ROCM_ATTN") == (
        "ROCM_AITER_MLA",
        "ROCM_ATTN",
    )
    assert backends(worker + CUDA % "FLASHMLA", DRAFT, worker + PINNED % "TRITON_ATTN") == ("FLASHMLA", "TRITON_ATTN")


def test_a_message_is_printed_once_so_a_silent_draft_has_the_targets_backend() -> None:
    assert backends("(Worker pid=3) " + ROCM % "ROCM_AITER_UNIFIED_ATTN", DRAFT) == ("ROCM_AITER_UNIFIED_ATTN",) * 2


def test_lines_of_another_worker_are_left_out() -> None:
    """Its line on the target comes late, after this one's on the draft."""
    mine, late = "(Worker pid=3) ", "(Worker_TP1 pid=4) "
    target, draft = ROCM % "ROCM_AITER_MLA", PINNED % "TRITON_ATTN"
    assert backends(mine + target, DRAFT, mine + draft, late + target) == ("ROCM_AITER_MLA", "TRITON_ATTN")


def test_the_vision_encoders_backend_is_no_ones() -> None:
    assert backends(VISION, DRAFT) == (None, None)


def test_synthetic_acceptance_is_objected_to() -> None:
    told = ARGUMENTS % ", 'rejection_sample_method': 'synthetic', 'synthetic_acceptance_length': 2.5"
    facts = facts_in_log("\n".join([told, CONFIG]))
    assert facts.rejection_sample_method == "synthetic"
    assert ["synthetic" in objection for objection in facts.objections()] == [True]


def test_prefix_caching_is_objected_to() -> None:
    facts = facts_in_log(LOG.replace("enable_prefix_caching=False", "enable_prefix_caching=True"))
    assert ["prefix caching" in objection for objection in facts.objections()] == [True]


def test_a_cast_weight_is_objected_to_by_its_name() -> None:
    (objection,) = facts_in_log(f"{LOG}\n{CAST}").objections()
    assert "fc.weight with dtype torch.bfloat16 into parameter with dtype torch.float8_e4m3fn" in objection


@pytest.mark.parametrize(
    ("setting", "value"),
    [("dtype", "bfloat16"), ("prefix_caching", True), ("cudagraph_mode", "NONE"), ("draft_attention_backend", "X")],
)
def test_each_setting_that_two_servers_do_not_share_is_a_difference(setting: str, value: object) -> None:
    facts = facts_in_log(LOG)
    (difference,) = facts.differences(replace(facts, **{setting: value}))  # type: ignore[arg-type]
    assert difference == f"{setting}: {getattr(facts, setting)} and {value}"


def test_the_draft_may_differ_and_the_unknown_cannot_be_compared() -> None:
    facts = facts_in_log(LOG)
    assert facts.differences(replace(facts, draft="/other", casts=("cast",), dtype=None)) == ()


def test_stages_are_passed_in_their_order() -> None:
    assert [stages_passed("\n".join(STAGES[:n])) for n in range(len(STAGES) + 1)] == list(range(len(STAGES) + 1))
    assert stages_passed(LOG) == 3
