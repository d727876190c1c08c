"""Servers that were given: one real vLLM speaks for both arms, and a proxy before it spoils one of them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.documents.parity import ParityReport
from quark_eagle.errors import CheckpointError, EngineError
from quark_eagle.parity.served.measure import ServedComparison
from quark_eagle.parity.served.report import NOT_KNOWN
from quark_eagle.parity.served.schedule import schedule
from quark_eagle.parity.served.session import Driving
from quark_eagle.parity.side import Side
from quark_eagle.parity.verdict import judge
from quark_eagle.serving.server import VllmServer
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.trace_document import Sampling
from tests.serving.proxy import Reply, proxy
from tests.tiny_target import write_prompts

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

COMPLETIONS = "/v1/completions"
WARM_UP = 2  # requests before the first pass
NUM_PROMPTS, NUM_TOKENS = 4, 8
UNTOLD = ["attention_backend", "draft_attention_backend", "casts"]


def server_info(draft: Path, **speculative: Any) -> bytes:
    """What /server_info says in development mode of a server of the tiny pair."""
    told = {
        "model_config": {"dtype": "torch.float32", "enforce_eager": True},
        "parallel_config": {"tensor_parallel_size": 1},
        "attention_config": {"backend": None},
        "compilation_config": {"cudagraph_mode": 0},
        "speculative_config": {
            "model": str(draft),
            "num_speculative_tokens": 3,
            "rejection_sample_method": "standard",
            **speculative,
        },
    }
    return json.dumps({"vllm_config": told}).encode()


@pytest.fixture(scope="module")
def comparison(
    tiny_pair: tuple[Path, Path], tiny_server: VllmServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedComparison]:
    """Of a draft and itself, on a server that tells what it speculates with."""
    file = write_prompts(tmp_path_factory.mktemp("given") / "p.jsonl", [f"ask {i}" for i in range(NUM_PROMPTS)])
    draft = Side.open(tiny_pair[1])

    def developing(reply: Reply) -> None:
        if reply.path.startswith("/server_info"):
            reply.status, reply.body = 200, server_info(tiny_pair[1])

    with proxy(tiny_server.url, developing) as telling:
        yield ServedComparison(
            baseline=draft,
            candidate=draft,
            prompts=PromptSet.load(file, "parity"),
            num_speculative_tokens=3,
            driving=Driving(sampling=Sampling(max_tokens=NUM_TOKENS), concurrency=4, request_seconds=60),
            schedule=schedule("given servers", 3, without_speculation=False),
            given={"baseline": telling.url, "candidate": telling.url},
        )


def spoilt(comparison: ServedComparison, fault: Callable[[Reply], None]) -> ParityReport:
    """The measurement with the candidate's server spoilt."""
    with proxy(comparison.given["baseline"], fault) as between:
        return replace(comparison, given={**comparison.given, "candidate": between.url}).run()


def test_what_given_servers_cannot_be_asked_is_said(comparison: ServedComparison) -> None:
    report = comparison.run()
    assert report.served is not None
    assert [arm.arm for arm in report.served.arms] == ["baseline", "candidate"]
    assert all((arm.command, arm.unknown) == (None, ["draft_sample_method", *UNTOLD]) for arm in report.served.arms)
    assert report.provenance.arch == NOT_KNOWN
    assert report.served.lossless == []
    assert any("Losslessness was not checked" in note for note in report.served.notes)
    assert all(prompt.baseline == prompt.candidate for prompt in report.prompts)


def test_a_server_without_an_account_of_its_rounds_is_read_piece_by_piece(comparison: ServedComparison) -> None:
    """As vLLM before 0.29: both roads count the same rounds."""

    def silent(reply: Reply) -> None:
        if reply.path == COMPLETIONS:
            reply.body = reply.body.replace(b'"speculative_decoding"', b'"something_else"')

    report = None
    for _ in range(5):  # a busy server merges pieces: its counters tell, and what was read of them is no report
        with suppress(EngineError):
            report = spoilt(comparison, silent)
            break
    assert report is not None
    assert report.served is not None
    assert any("pieces of streamed answers" in note for note in report.served.notes)
    assert all(prompt.baseline == prompt.candidate for prompt in report.prompts)


def test_a_request_that_fails_for_good_leaves_its_prompt_out_of_both_arms(comparison: ServedComparison) -> None:
    def refuse_one(reply: Reply) -> None:
        if reply.path == COMPLETIONS and reply.number == WARM_UP + 1:
            reply.status = 400

    report = spoilt(comparison, refuse_one)
    assert report.served is not None
    assert [(it.arm, it.block) for it in report.served.left_out] == [("candidate", 0)]
    assert report.served.left_out[0].why.startswith("refused after 1 attempts")
    assert len(report.prompts) == NUM_PROMPTS - 1
    assert sum(one.num_failed for one in report.served.passes) == 1
    assert judge(report).outcome == "unusable"


def test_a_request_that_succeeds_when_tried_again_is_counted_as_tried_again(comparison: ServedComparison) -> None:
    def busy_once(reply: Reply) -> None:
        if reply.path == COMPLETIONS and reply.number == WARM_UP + 1:
            reply.status = 503

    report = spoilt(comparison, busy_once)
    assert report.served is not None
    assert len(report.prompts) == NUM_PROMPTS
    retried = {(one.arm, one.block): one.num_retries for one in report.served.passes}
    assert retried.pop(("candidate", 0)) == 1
    assert set(retried.values()) == {0}


def test_counters_that_disagree_with_the_answers_are_an_error_with_both_numbers(comparison: ServedComparison) -> None:
    name, asked = b"vllm:spec_decode_num_accepted_tokens_total{", threading.Event()

    def more(reply: Reply) -> None:
        if reply.path == COMPLETIONS and reply.number > WARM_UP:
            asked.set()
        if reply.path == "/metrics":
            count = 1000 if asked.is_set() else 0
            reply.body = reply.body.replace(name, b"vllm:other_total{") + name + b'engine="0"} %d\n' % count

    with pytest.raises(EngineError, match="num_accepted_tokens: /metrics counts 1000, the answers"):
        spoilt(comparison, more)


def test_another_chat_template_is_refused(comparison: ServedComparison) -> None:
    def otherwise(reply: Reply) -> None:
        if reply.path == "/tokenize":
            reply.body = reply.body.replace(b'"tokens":[', b'"tokens":[7,')

    with pytest.raises(EngineError, match=r"renders 4 of 4 prompts as other tokens than baseline's server"):
        spoilt(comparison, otherwise)


def test_prompts_that_a_server_cannot_render_are_told(comparison: ServedComparison) -> None:
    def refuse(reply: Reply) -> None:
        if reply.path == "/tokenize" and reply.number <= 2:
            reply.status, reply.body = 400, b'{"error": "no such role"}'

    with pytest.raises(
        EngineError, match=r"(?s)does not render every prompt: 2 problems.*p0: answered 400.*no such role"
    ):
        spoilt(comparison, refuse)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (b'enable_prefix_caching="False"', b'enable_prefix_caching="True"', "prefix caching is on"),
        (b'cache_dtype="auto"', b'cache_dtype="fp8"', "kv_cache_dtype: fp8 and auto"),
        (b'"num_speculative_tokens": 3', b'"num_speculative_tokens": 2', "k: wanted 3, found 2"),
    ],
)
def test_servers_that_are_not_set_alike_are_refused(
    comparison: ServedComparison, before: bytes, after: bytes, says: str
) -> None:
    def set_otherwise(reply: Reply) -> None:
        if reply.path.startswith(("/metrics", "/server_info")):
            reply.body = reply.body.replace(before, after)

    with pytest.raises(EngineError, match=says):
        spoilt(comparison, set_otherwise)


def test_a_server_that_does_not_tell_what_it_speculates_with_is_refused(
    comparison: ServedComparison, tiny_server: VllmServer
) -> None:
    with pytest.raises(
        EngineError, match=r"does not tell its draft, rejection_sample_method\. Start it with VLLM_SERVER"
    ):
        replace(comparison, given={"baseline": tiny_server.url, "candidate": tiny_server.url}).run()


def test_a_server_of_another_draft_than_the_named_one_is_refused(
    comparison: ServedComparison, tiny_draft: Path
) -> None:
    def tells(reply: Reply) -> None:
        if reply.path.startswith("/server_info"):
            reply.body = server_info(tiny_draft)

    with pytest.raises(EngineError, match=r"its draft is .*, whose weights or config are not those of"):
        spoilt(comparison, tells)


def test_acceptance_that_is_made_up_is_refused(comparison: ServedComparison, tiny_pair: tuple[Path, Path]) -> None:
    def tells(reply: Reply) -> None:
        if reply.path.startswith("/server_info"):
            reply.body = server_info(tiny_pair[1], rejection_sample_method="synthetic")

    with pytest.raises(EngineError, match="acceptance is synthetic"):
        spoilt(comparison, tells)


def test_an_interrupt_ends_at_once_although_the_servers_go_on(comparison: ServedComparison) -> None:
    """Ctrl-C while an answer is awaited: nobody waits for it, and no thread is left."""
    threads, asked = threading.active_count(), threading.Event()

    def interrupt(reply: Reply) -> None:
        if reply.path == COMPLETIONS and reply.number > WARM_UP:
            if not asked.is_set():
                asked.set()
                os.kill(os.getpid(), signal.SIGINT)
            reply.status = 503  # and is tried again, with pauses

    with pytest.raises(KeyboardInterrupt):
        spoilt(comparison, interrupt)
    assert asked.is_set()
    deadline = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.05)  # the proxy's own threads see that nobody listens any more
    assert threading.active_count() <= threads


def test_a_given_server_that_dies_ends_the_measurement_with_its_address(comparison: ServedComparison) -> None:
    """In the middle of its second pass it answers nobody any more."""
    gone = threading.Event()

    def die(reply: Reply) -> None:
        if gone.is_set() or (reply.path == COMPLETIONS and reply.number > WARM_UP + NUM_PROMPTS + 1):
            gone.set()
            raise ConnectionAbortedError

    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:\d+/health: the server does not answer") as caught:
        spoilt(comparison, die)
    assert comparison.given["baseline"] not in str(caught.value)


def test_a_quantized_baseline_is_refused_before_anything_is_asked(
    comparison: ServedComparison, tmp_path: Path, tiny_pair: tuple[Path, Path]
) -> None:
    config = json.loads((tiny_pair[1] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "quark"}}))
    (tmp_path / "model.safetensors").symlink_to(tiny_pair[1] / "model.safetensors")
    with pytest.raises(CheckpointError, match="the baseline is the BF16 draft"):
        replace(comparison, baseline=Side.open(tmp_path))
