"""vLLM's own benchmark module, its own server, and what becomes of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quark_eagle.documents.throughput import ThroughputReport, Workload
from quark_eagle.serving.command import ServeCommand
from quark_eagle.serving.engine import Engine
from quark_eagle.serving.server import VllmServer
from quark_eagle.throughput.sweep import Sweep

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

WORKLOAD = Workload(
    input_tokens=16, output_tokens=8, concurrency=[1, 2], prompts_per_stream=3, warmups_per_stream=1, repeats=1
)


@pytest.fixture(scope="module")
def report(tiny_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> ThroughputReport:
    """Of the server that all tests share: an arm of its own would take a start of its own."""

    @contextmanager
    def serve(engine: Engine, command: ServeCommand, log: Path) -> Iterator[VllmServer]:
        yield tiny_server

    logs = tmp_path_factory.mktemp("throughput") / "logs"
    return Sweep.plan(tiny_server.engine, {"baseline": tiny_server.command}, WORKLOAD, logs, passes=1).run(serve=serve)


def test_vllms_module_measures_what_it_was_asked_for(report: ThroughputReport) -> None:
    assert [(run.concurrency, run.num_requests, run.num_output_tokens) for run in report.runs] == [
        (1, 3, 24),
        (2, 6, 48),
    ]
    assert all(run.num_input_tokens > 16 * run.num_requests for run in report.runs)  # the chat template is in them


def test_its_acceptance_is_that_of_a_draft_which_guesses_often_and_not_always(report: ThroughputReport) -> None:
    tau = [cell.mean_acceptance_length for cell in report.cells]
    assert all(length is not None and 1.0 < length < 4.0 for length in tau)
    counts = [run.acceptance for run in report.runs]
    assert all(it is not None and sum(it.num_accepted_tokens_per_position) == it.num_accepted_tokens for it in counts)


def test_its_latencies_fit_its_duration(report: ThroughputReport) -> None:
    one_at_a_time = report.runs[0]
    by_latency = 3 * (one_at_a_time.ttft_ms.mean + 7 * one_at_a_time.tpot_ms.mean) / 1000
    assert by_latency == pytest.approx(one_at_a_time.duration_seconds, rel=0.2)
