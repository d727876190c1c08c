"""A sweep's report holds every run, nothing is left running, and what was measured is kept when the rest fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.documents.throughput import ThroughputReport, Workload
from quark_eagle.errors import EngineError, QuarkEagleError
from quark_eagle.serving.command import ServeCommand
from quark_eagle.serving.engine import Engine, EngineVersion
from quark_eagle.throughput.sweep import Sweep, caveat_of
from tests.throughput.asked import RECORDED, NoServer, command, write_stand_in

WORKLOAD = Workload(input_tokens=8, output_tokens=4, concurrency=[1, 2], prompts_per_stream=2, repeats=2)
CPU = EngineVersion(
    vllm="0.32.0", torch="2.13.0", python="3.11", platform="cpu", arch="x86_64 AVX2", device="", num_devices=0
)
NO_SPECULATION = {
    name: value for name, value in json.loads(RECORDED.read_text()).items() if not name.startswith("spec_decode_")
}


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "version", lambda self: CPU)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("stand-in"))


def planned(stand_in: Path, logs: Path, fault: str = "", result: dict[str, Any] | None = None, **rest: Any) -> Sweep:
    """Of the target alone, at two cells with two repeats, vLLM's module being the stand-in."""
    said = {name: value for name, value in (result or NO_SPECULATION).items() if name != "completed"}
    del said["total_output_tokens"]
    environment = {"PYTHONPATH": str(stand_in), "FAKE_RESULT": json.dumps(said), "FAKE_FAULT": fault}
    engine = Engine(python=Path(sys.executable), environment=environment)
    return Sweep.plan(engine, {"none": command(None)}, WORKLOAD, logs, **rest)


@contextmanager
def serve(engine: Engine, command: ServeCommand, log: Path) -> Iterator[Any]:
    yield NoServer(command=command)


def test_every_run_is_in_the_report_and_the_report_reads_back(stand_in: Path, tmp_path: Path) -> None:
    report = planned(stand_in, tmp_path / "logs").run(serve=serve, command_line=["x"])
    assert [(run.concurrency, run.repeat) for run in report.runs] == [(1, 0), (2, 0), (2, 1), (1, 1)]
    assert [cell.num_repeats for cell in report.cells] == [2, 2]
    (tmp_path / "throughput.json").write_text(report.to_json())
    assert ThroughputReport.read(tmp_path / "throughput.json") == report


def test_a_report_that_lacks_a_run_is_refused(stand_in: Path, tmp_path: Path) -> None:
    content = json.loads(planned(stand_in, tmp_path / "logs").run(serve=serve).to_json())
    del content["runs"][0]
    (tmp_path / "throughput.json").write_text(json.dumps(content))
    with pytest.raises(QuarkEagleError, match="3 runs, but one of each arm, concurrency and repeat"):
        ThroughputReport.read(tmp_path / "throughput.json")


def test_a_speed_measured_on_a_cpu_says_that_it_means_nothing(stand_in: Path, tmp_path: Path) -> None:
    report = planned(stand_in, tmp_path / "logs").run(serve=serve)
    assert report.caveat is not None
    assert "mean nothing" in report.caveat
    assert (report.provenance.num_gpus, report.published) == (0, None)
    assert caveat_of(replace(CPU, platform="rocm", arch="gfx950")) is None


def test_each_run_is_told_with_less_and_less_time_left(stand_in: Path, tmp_path: Path) -> None:
    left: list[float] = []
    planned(stand_in, tmp_path / "logs").run(serve=serve, on_run=lambda run, seconds: left.append(seconds))
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0


@pytest.mark.parametrize(
    ("fault", "run_seconds", "said"),
    [
        ("dies", 120, "ended with 1 before run-0-none-c1-r0.json was written(.|\n)*the stand-in gives up"),
        ("hangs", 1, r"run-0-none-c1-r0.json was not there after 1 s"),
    ],
)
def test_a_module_that_fails_is_told_with_its_log_and_ended(
    fault: str, run_seconds: float, said: str, stand_in: Path, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    with pytest.raises(EngineError, match=said) as found:
        planned(stand_in, logs, fault, run_seconds=run_seconds).run(serve=serve)
    assert f"Log: {logs / 'benchmark-0-none.log'}" in str(found.value)
    assert not running(logs)


def running(logs: Path) -> list[str]:
    """Command lines of living processes that name a file there."""
    lines = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                lines.append((process / "cmdline").read_text())
            except OSError:
                continue
    return [line for line in lines if str(logs) in line]


def test_a_server_that_dies_ends_the_sweep_though_the_module_would_wait(stand_in: Path, tmp_path: Path) -> None:
    @contextmanager
    def dead(engine: Engine, command: ServeCommand, log: Path) -> Iterator[Any]:
        yield NoServer(command=command, is_dead=True)

    with pytest.raises(EngineError, match="the server ended with 137"):
        planned(stand_in, tmp_path / "logs", "hangs", run_seconds=120).run(serve=dead)
    assert not running(tmp_path / "logs")


def test_runs_that_were_measured_are_kept_when_a_later_one_is_unusable(stand_in: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    unusable = NO_SPECULATION | {"failed": 1}  # of 3 requests at concurrency 1, where 2 were asked for
    with pytest.raises(EngineError, match=r"run-0-none-c1-r0\.json"):
        planned(stand_in, logs, result=unusable).run(serve=serve)
    assert json.loads((logs / "run-0-none-c1-r0.json").read_text())["failed"] == 1


def test_a_result_of_an_earlier_sweep_is_not_taken_for_this_ones(stand_in: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    planned(stand_in, logs).run(serve=serve)
    with pytest.raises(EngineError, match="the stand-in gives up"):
        planned(stand_in, logs, "dies").run(serve=serve)


def test_the_module_asks_the_loopback_interface_without_a_proxy_and_with_the_servers_key(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quark_eagle.throughput import sweep

    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert sweep._client_environment()["NO_PROXY"] == "127.0.0.1"
    assert sweep._client_environment()["OPENAI_API_KEY"] == "secret"
    report = planned(stand_in, tmp_path / "logs").run(serve=serve)
    assert "secret" not in report.to_json() + "".join(path.read_text() for path in (tmp_path / "logs").iterdir())


def test_the_arms_of_a_report_say_how_they_were_served(stand_in: Path, tmp_path: Path) -> None:
    one = planned(stand_in, tmp_path / "logs").run(serve=serve)
    assert [arm.serve_command["target"] for arm in one.arms] == ["targets/tiny"]
    assert one.arms[0].load_seconds == [1.5]  # of one visit: its second follows the first, and shares the load
