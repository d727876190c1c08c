"""A real server's settings, by its log and by what it answers: two roads that may not contradict each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quark_eagle.errors import EngineError
from quark_eagle.serving.http_facts import facts_over_http
from quark_eagle.serving.server import VllmServer
from tests.serving.proxy import Reply, proxy

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

K = 3
# Of a server of vLLM 0.32 in development mode, cut to what is read.
INFO = {
    "vllm_config": {
        "model_config": {"dtype": "torch.bfloat16", "enforce_eager": False},
        "parallel_config": {"tensor_parallel_size": 8},
        "attention_config": {"backend": "ROCM_AITER_MLA"},
        "compilation_config": {"cudagraph_mode": [2, 1]},
        "speculative_config": {
            "model": "/d",
            "num_speculative_tokens": 6,
            "rejection_sample_method": "synthetic",
            "draft_sample_method": "greedy",
            "attention_backend": "TRITON_ATTN",
        },
    }
}


def test_the_log_tells_what_the_server_is_set_to(tiny_server: VllmServer, tiny_pair: tuple[Path, Path]) -> None:
    facts = tiny_server.facts()
    assert facts.draft == str(tiny_pair[1])
    assert facts.vllm == tiny_server.version.vllm
    assert (facts.dtype, facts.num_speculative_tokens, facts.max_model_len) == ("float32", K, 512)
    assert (facts.prefix_caching, facts.enforce_eager, facts.cudagraph_mode) == (False, True, "NONE")
    assert (facts.attention_backend, facts.draft_attention_backend) == ("CPU_ATTN", "CPU_ATTN")
    assert (facts.unknown, facts.objections()) == ((), ())


def test_what_it_answers_is_what_its_log_tells_and_less(tiny_server: VllmServer) -> None:
    asked = facts_over_http(tiny_server.url)
    assert asked.differences(tiny_server.facts()) == ()
    known = ("vllm", "num_speculative_tokens", "kv_cache_dtype", "prefix_caching", "max_model_len")
    assert [name for name in known if name in asked.unknown] == []
    assert set(asked.unknown) >= {"rejection_sample_method", "attention_backend", "draft_attention_backend", "casts"}


def test_in_development_mode_it_tells_the_rest(tiny_server: VllmServer) -> None:
    def developing(reply: Reply) -> None:
        if reply.path.startswith("/server_info"):
            reply.status, reply.body = 200, json.dumps(INFO).encode()

    with proxy(tiny_server.url, developing) as between:
        told = facts_over_http(between.url)
    assert told.unknown == ("casts",)
    assert told == replace(
        facts_over_http(tiny_server.url),
        draft="/d",
        num_speculative_tokens=6,
        rejection_sample_method="synthetic",
        draft_sample_method="greedy",
        dtype="bfloat16",
        enforce_eager=False,
        cudagraph_mode="FULL_AND_PIECEWISE",
        tensor_parallel_size=8,
        attention_backend="ROCM_AITER_MLA",
        draft_attention_backend="TRITON_ATTN",
    )
    assert len(told.objections()) == 1


def test_a_server_that_is_not_vllm_is_an_error(tiny_server: VllmServer) -> None:
    def other(reply: Reply) -> None:
        reply.body = b"<html>welcome</html>"

    with proxy(tiny_server.url, other) as between, pytest.raises(EngineError, match="welcome"):
        facts_over_http(between.url)
