"""Options of `trace --engine vllm`: read as vLLM names them, and refused where they would make another trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quark_eagle.errors import UsageError
from quark_eagle.trace.record_options import RecordOptions
from quark_eagle.trace.vllm_options import VllmOptions, parse_options

OPTIONS = RecordOptions(vllm=VllmOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (VllmOptions(options={"enforce_eager": False}), "--vllm-option enforce_eager: cannot be set, for states"),
        (VllmOptions(options={"pipeline_parallel_size": 2}), "one rank has to see all layers"),
        (VllmOptions(tensor_parallel_size=0), "--tensor-parallel-size 0: must be 1 or more"),
        (
            VllmOptions(serves_draft=False, options={"speculative_config": {}}),
            "--no-anchor and --vllm-option speculative-config",
        ),
    ],
)
def test_options_that_would_make_another_trace_are_refused(options: VllmOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RecordOptions(vllm=options).check()


def test_a_device_is_not_vllms_to_choose() -> None:
    with pytest.raises(UsageError, match="--device cuda:1: vLLM runs on what it was built for"):
        replace(OPTIONS, device="cuda:1").check()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--max-num-seqs=16"], {"max_num_seqs": 16}),
        (["attention-backend=ROCM_AITER_MLA"], {"attention_backend": "ROCM_AITER_MLA"}),
        (["enable-expert-parallel"], {"enable_expert_parallel": True}),
        (['limit-mm-per-prompt={"image": 0}'], {"limit_mm_per_prompt": {"image": 0}}),
        (["async-scheduling=false"], {"async_scheduling": False}),
        (["--no-async-scheduling"], {"async_scheduling": False}),
    ],
)
def test_flags_are_read_as_vllm_names_them(given: list[str], wanted: dict[str, Any]) -> None:
    assert parse_options(given) == wanted


def test_what_is_no_flag_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--vllm-option =4: must be NAME=VALUE"):
        parse_options(["=4"])


@pytest.mark.parametrize("given", ["speculative-config=eagle", "speculative-config=[1]", "speculative-config"])
def test_further_settings_of_the_draft_are_an_object(given: str) -> None:
    options = RecordOptions(vllm=VllmOptions(options=parse_options([given])))
    with pytest.raises(UsageError, match="--vllm-option speculative-config: must be a JSON object"):
        options.check()


@pytest.mark.parametrize("given", ["hf-token=hunter2", "--hf_token=hunter2", "hf_tok=hunter2", "x.api-key=hunter2"])
def test_no_secret_is_given_as_an_option_or_shown(given: str) -> None:
    """What is given is recorded in the trace."""
    with pytest.raises(UsageError, match=r"may hold a secret.*HF_TOKEN") as refused:
        parse_options([given])
    assert "hunter2" not in str(refused.value)
