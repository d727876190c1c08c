"""A result of vLLM's module is read as it was measured, and refused where it cannot be the run that was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quark_eagle.documents.throughput import ArmName, ThroughputRun
from quark_eagle.errors import EngineError
from quark_eagle.throughput.plan import Job
from quark_eagle.throughput.result import read_run
from tests.throughput.asked import RECORDED, RECORDED_WORKLOAD


def read(path: Path, arm: ArmName = "baseline") -> ThroughputRun:
    return read_run(path, arm, Job(concurrency=2, repeat=0), RECORDED_WORKLOAD, visit=0)


def test_a_recorded_result_is_read_as_vllm_printed_it() -> None:
    run, said = read(RECORDED), json.loads(RECORDED.read_text())
    assert run.num_output_tokens / run.duration_seconds == pytest.approx(said["output_throughput"])
    assert (run.num_requests, run.num_failed, run.seed) == (20, 0, 1)
    assert (run.tpot_ms.mean, run.ttft_ms.p99) == (said["mean_tpot_ms"], said["p99_ttft_ms"])
    assert run.acceptance is not None
    assert run.acceptance.mean_acceptance_length == pytest.approx(said["spec_decode_acceptance_length"])
    assert sum(run.acceptance.num_accepted_tokens_per_position) == run.acceptance.num_accepted_tokens


def changed(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(json.loads(RECORDED.read_text()) | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"completed": 19, "failed": 1, "total_output_tokens": 19 * 24}, "1 of 20 requests failed, but at most 1.0%"),
        ({"completed": 20, "failed": 20}, "40 requests at concurrency 2, but 20 at 2 were asked for"),
        ({"max_concurrency": 4}, "at concurrency 4"),
        ({"total_output_tokens": 470}, "470 output tokens of 20 answers, but 24 of each"),
        ({"spec_decode_num_drafts": 0}, "no draft proposed anything"),
        ({"duration": 0.0}, "no result of vLLM's benchmark module"),
        ({"mean_tpot_ms": None}, "no result of vLLM's benchmark module"),
    ],
)
def test_a_result_that_is_not_the_run_asked_for_is_refused(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=said):
        read(changed(tmp_path, **changes))


def test_drafts_on_a_server_without_one_are_refused() -> None:
    with pytest.raises(EngineError, match="458 drafts, but the server was to serve without one"):
        read(RECORDED, arm="none")


def test_a_failure_within_the_bound_is_counted(tmp_path: Path) -> None:
    path = changed(tmp_path, completed=19, failed=1, total_output_tokens=19 * 24)
    run = read_run(path, "baseline", Job(concurrency=2, repeat=0), RECORDED_WORKLOAD, visit=0, max_failed=0.05)
    assert (run.num_requests, run.num_failed) == (20, 1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"duration": 1}'])
def test_something_else_than_a_result_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(EngineError, match=r"as 0\.32 writes it"):
        read(path)
