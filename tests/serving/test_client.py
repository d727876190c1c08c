"""A real server, driven: what comes back is what was served, however it is read and whatever stands in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quark_eagle.errors import EngineError
from quark_eagle.serving.client import Client, Completion, CompletionRequest, Failure, Outcome
from quark_eagle.serving.metrics import Counters, reconcile
from quark_eagle.serving.server import VllmServer
from tests.serving.proxy import Fault, Reply, proxy

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

K = 3
COMPLETIONS = "/v1/completions"
# Of different lengths, and one that the server ends early on its own account.
REQUESTS = [CompletionRequest(prompt_token_ids=range(8 + i, 20 + 2 * i), max_tokens=6 + 5 * i) for i in range(6)]


def client(server: VllmServer, url: str | None = None, **changes: object) -> Client:
    settings: dict[str, object] = {"concurrency": 4, "timeout": 60.0, "num_speculative_tokens": K}
    return Client(url=url or server.url, model=server.model, **(settings | changes))  # type: ignore[arg-type]


def answers(outcomes: list[Outcome]) -> list[Completion]:
    assert all(isinstance(outcome, Completion) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Completion)]


@pytest.fixture(scope="module")
def served(tiny_server: VllmServer) -> list[Completion]:
    """The answers to REQUESTS, unspoilt."""
    return answers(client(tiny_server).complete(REQUESTS))


def test_answers_keep_the_order_of_their_requests(tiny_server: VllmServer, served: list[Completion]) -> None:
    backwards = answers(client(tiny_server).complete(REQUESTS[::-1]))
    assert [answer.token_ids for answer in backwards[::-1]] == [answer.token_ids for answer in served]
    assert [len(answer.token_ids) for answer in served] == [request.max_tokens for request in REQUESTS]


def test_every_token_is_prefills_or_a_rounds(served: list[Completion]) -> None:
    for answer in served:
        assert answer.rounds is not None
        assert answer.rounds.num_undrafted == 0
        assert len(answer.token_ids) == 1 + sum(length + 1 for length in answer.rounds.accepted)


def test_the_draft_is_sometimes_right_and_sometimes_wrong(served: list[Completion]) -> None:
    """Else no test of acceptance here could fail."""
    histogram = [sum(column) for column in zip(*(answer.acceptance_histogram or () for answer in served), strict=True)]
    assert len(histogram) == K + 1
    assert histogram[0] > 0
    assert sum(histogram[1:]) > 0


def test_streamed_rounds_that_the_counters_confirm_are_the_servers_own(
    tiny_server: VllmServer, served: list[Completion]
) -> None:
    """Two roads to one number: the server's account, and the sizes of the chunks where it gives none.

    On a busy machine vLLM merges chunks that wait. The counters show it, so the reading is repeated until they agree.
    """
    for _ in range(5):
        before = Counters.read(tiny_server.url)
        with proxy(tiny_server.url, without_account) as between:
            streamed = answers(client(tiny_server, between.url, stream=True, concurrency=1).complete(REQUESTS))
        if not reconcile(Counters.read(tiny_server.url) - before, streamed):
            break
    assert {answer.rounds_from for answer in streamed} == {"stream"}
    assert {answer.rounds_from for answer in served} == {"metrics"}
    assert [answer.token_ids for answer in streamed] == [answer.token_ids for answer in served]
    assert [answer.accepted_per_round for answer in streamed] == [answer.accepted_per_round for answer in served]


def test_the_servers_account_comes_with_a_stream_too(tiny_server: VllmServer, served: list[Completion]) -> None:
    streamed = answers(client(tiny_server, stream=True).complete(REQUESTS))
    assert [answer.reported for answer in streamed] == [answer.reported for answer in served]
    assert all(0 < (answer.ttft_seconds or 0) < answer.seconds for answer in streamed)


@pytest.mark.parametrize("stream", [False, True])
def test_the_counters_and_the_answers_tell_the_same(tiny_server: VllmServer, stream: bool) -> None:
    before = Counters.read(tiny_server.url)
    outcomes = client(tiny_server, stream=stream).complete(REQUESTS)
    counted = Counters.read(tiny_server.url) - before
    assert counted.num_drafts > 0
    assert reconcile(counted, outcomes) == ()
    assert any("num_drafts" in line for line in reconcile(counted, outcomes[1:]))


def test_likeliest_tokens_come_where_they_were_asked_for(tiny_server: VllmServer, served: list[Completion]) -> None:
    request = CompletionRequest(prompt_token_ids=REQUESTS[0].prompt_token_ids, max_tokens=6, top_logprobs=2)
    (answer,) = answers(client(tiny_server).complete([request]))
    assert served[0].top_logprobs is None
    assert answer.token_ids == served[0].token_ids
    assert answer.top_logprobs is not None
    assert answer.token_logprobs is not None
    for token, logprob, top in zip(answer.token_ids, answer.token_logprobs, answer.top_logprobs, strict=True):
        assert max(top, key=lambda each: top[each]) == token  # greedy
        assert top[token] == logprob


def test_every_outcome_is_told_as_it_comes(tiny_server: VllmServer) -> None:
    told: list[Outcome] = []
    outcomes = client(tiny_server).complete(REQUESTS, on_done=told.append)
    assert len(told) == len(outcomes)
    assert all(any(outcome is each for each in told) for outcome in outcomes)


def test_a_prompt_that_is_too_long_fails_alone(tiny_server: VllmServer, served: list[Completion]) -> None:
    too_long = CompletionRequest(prompt_token_ids=[1] * 600, max_tokens=4)
    first, failed = client(tiny_server).complete([REQUESTS[0], too_long])
    assert isinstance(first, Completion)
    assert first.token_ids == served[0].token_ids
    assert isinstance(failed, Failure)
    assert (failed.kind, failed.attempts) == ("refused", 1)
    assert "512" in failed.message


def test_another_model_than_the_one_served_is_refused(tiny_server: VllmServer) -> None:
    wrong = Client(url=tiny_server.url, model="meta-llama/Llama-3-8B")
    with pytest.raises(EngineError, match=r"serves .*target, but meta-llama/Llama-3-8B is needed"):
        wrong.complete(REQUESTS)


def without_account(reply: Reply) -> None:
    """As a server without ``--per-request-spec-decode-metrics``."""
    if reply.path == COMPLETIONS:
        reply.body = b"\n".join(_without_metrics(line) for line in reply.body.split(b"\n"))


def _without_metrics(line: bytes) -> bytes:
    if not line.startswith(b"data: {"):
        return line
    event = json.loads(line.removeprefix(b"data: "))
    event.pop("metrics", None)
    return b"data: " + json.dumps(event).encode()


def first_fails(reply: Reply) -> None:
    if reply.path == COMPLETIONS and reply.number == 1:
        reply.status, reply.body = 503, b"busy"


def first_is_cut(reply: Reply) -> None:
    if reply.path == COMPLETIONS and reply.number == 1:
        reply.cut_after = len(reply.body) // 2


def first_is_slow(reply: Reply) -> None:
    if reply.path == COMPLETIONS and reply.number == 1:
        time.sleep(4)


def garbled(reply: Reply) -> None:
    if reply.path == COMPLETIONS:
        reply.body = reply.body[: len(reply.body) // 2]


def without_ids(reply: Reply) -> None:
    if reply.path == COMPLETIONS:
        reply.body = reply.body.replace(b'"token_ids"', b'"tokens"')


def broken(reply: Reply) -> None:
    if reply.path == COMPLETIONS:
        reply.status = 500


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [first_fails, first_is_cut, first_is_slow])
def test_what_passes_is_tried_again(
    tiny_server: VllmServer, served: list[Completion], fault: Fault, stream: bool
) -> None:
    with proxy(tiny_server.url, fault) as between:
        (answer,) = answers(client(tiny_server, between.url, stream=stream, timeout=2.0).complete(REQUESTS[:1]))
    assert answer.attempts == 2
    assert answer.token_ids == served[0].token_ids


@pytest.mark.parametrize(
    ("fault", "kind", "attempts"),
    [(broken, "server", 2), (garbled, "malformed", 1), (without_ids, "malformed", 1)],
)
def test_what_stays_broken_is_a_failure_and_never_dropped(
    tiny_server: VllmServer, fault: Fault, kind: str, attempts: int
) -> None:
    with proxy(tiny_server.url, fault) as between:
        outcomes = client(tiny_server, between.url, retries=1).complete(REQUESTS[:2])
        assert between.asked[COMPLETIONS] == 2 * attempts
    assert [type(outcome) for outcome in outcomes] == [Failure, Failure]
    assert {(outcome.kind, outcome.attempts) for outcome in outcomes if isinstance(outcome, Failure)} == {
        (kind, attempts)
    }


def test_no_request_lasts_longer_than_its_time(tiny_server: VllmServer) -> None:
    def stuck(reply: Reply) -> None:
        if reply.path == COMPLETIONS:
            time.sleep(5)

    began = time.monotonic()
    with proxy(tiny_server.url, stuck) as between:
        (failed,) = client(tiny_server, between.url, timeout=0.5, retries=1).complete(REQUESTS[:1])
        assert time.monotonic() - began < 4
    assert isinstance(failed, Failure)
    assert (failed.kind, failed.attempts) == ("timeout", 2)
    assert failed.message == "no answer within 0.5 s"


@pytest.mark.parametrize(
    ("signum", "code", "said"), [(signal.SIGINT, 130, b"Interrupted."), (signal.SIGTERM, 143, b"Terminated.")]
)
def test_a_run_is_interrupted_at_once(
    tiny_server: VllmServer, repository: Path, signum: signal.Signals, code: int, said: bytes
) -> None:
    program = (
        "import sys; from quark_eagle.cli import exit_codes; from quark_eagle.serving.client import *\n"
        "requests = [CompletionRequest(prompt_token_ids=[1], max_tokens=400, ignore_eos=True)] * 200\n"
        "client = Client(url=sys.argv[1], model=sys.argv[2], concurrency=4)\n"
        "with exit_codes.run(): client.complete(requests, on_done=lambda outcome: print('done', flush=True))"
    )
    command = [sys.executable, "-c", program, tiny_server.url, tiny_server.model]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as running:
        assert running.stdout is not None
        running.stdout.readline()
        began = time.monotonic()
        running.send_signal(signum)
        stderr = running.communicate(timeout=30)[1]
        assert time.monotonic() - began < 5
    assert running.returncode == code
    assert stderr.strip() == said


def test_a_server_that_goes_away_ends_the_run_and_not_each_request(tiny_server: VllmServer) -> None:
    def gone(reply: Reply) -> None:
        if reply.path == COMPLETIONS or reply.number > 1:
            reply.cut_after = 0

    with (
        proxy(tiny_server.url, gone) as between,
        pytest.raises(EngineError, match=r"the server does not answer"),
    ):
        client(tiny_server, between.url, retries=0, concurrency=1).complete(REQUESTS)
    assert between.asked[COMPLETIONS] == 1


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (b"vllm:spec_decode_num_drafts_total{engine=", "is no Prometheus page"),
        (b"<html>welcome</html>", "is no Prometheus page"),
        (b"", r"4 problems"),
        (b"python_info 1.0\n", r"num_drafts_total is missing"),
    ],
)
def test_metrics_that_say_nothing_are_an_error(tiny_server: VllmServer, page: bytes, message: str) -> None:
    def spoilt(reply: Reply) -> None:
        reply.body = page

    with proxy(tiny_server.url, spoilt) as between, pytest.raises(EngineError, match=message):
        Counters.read(between.url)


def test_counters_that_never_rest_are_somebody_elses(tiny_server: VllmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def rising(reply: Reply) -> None:
        reply.body = reply.body.replace(b"num_drafts_total{", f'num_drafts_total{{n="{reply.number}",'.encode())
        reply.body += f'vllm:spec_decode_num_drafts_total{{engine="1"}} {reply.number}\n'.encode()

    monkeypatch.setattr("quark_eagle.serving.metrics._SETTLE_SECONDS", 0.01)
    with proxy(tiny_server.url, rising) as between, pytest.raises(EngineError, match=r"go on rising"):
        Counters.read(between.url)
