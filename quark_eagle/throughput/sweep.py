"""Sweep: starts each arm's server in turn, has vLLM's benchmark module ask it, and makes one report of all runs.

What the module wrote of each run stays in a directory beside the servers' logs, whatever becomes of the sweep.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean

from quark_eagle import __version__
from quark_eagle.documents.throughput import (
    ArmName,
    ThroughputArm,
    ThroughputProvenance,
    ThroughputReport,
    ThroughputRun,
    Workload,
)
from quark_eagle.errors import EngineError, StorageError
from quark_eagle.progress import SILENT, Progress
from quark_eagle.serving.causes import obituary
from quark_eagle.serving.command import ServeCommand
from quark_eagle.serving.endpoint import API_KEY_VARIABLE
from quark_eagle.serving.engine import Engine, EngineVersion
from quark_eagle.serving.process import Guarded
from quark_eagle.serving.server import VllmServer
from quark_eagle.throughput import client
from quark_eagle.throughput.plan import SweepEstimate, Visit, benchmark_flags, check, estimate, gpus_of, visits
from quark_eagle.throughput.published import published_for
from quark_eagle.throughput.result import MAX_FAILED, read_run
from quark_eagle.throughput.summary import DraftTimes, cells

RUN_SECONDS = 7200.0
_POLL_SECONDS = 0.2

Serve = Callable[[Engine, ServeCommand, Path], AbstractContextManager[VllmServer]]
"""Starts a server with its log in a file; leaving the block ends it."""
OnRun = Callable[[ThroughputRun, float], None]
"""Is told of each run that is done, and about how many seconds the rest will take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Everything that decides how a sweep goes.

    Attributes:
        engine: which vLLM.
        commands: how each arm is served, "none" first; alike in all but the draft.
        workload: what is asked.
        planned: the servers in the order in which they are started.
        logs: directory for logs and the module's results; made if it is not there.
        max_failed: share of a run's requests that may fail.
        run_seconds: longest that one run may take.
    """

    engine: Engine
    commands: Mapping[ArmName, ServeCommand]
    workload: Workload
    planned: tuple[Visit, ...]
    logs: Path
    max_failed: float = MAX_FAILED
    run_seconds: float = RUN_SECONDS

    @classmethod
    def plan(
        cls,
        engine: Engine,
        commands: Mapping[ArmName, ServeCommand],
        workload: Workload,
        logs: Path,
        *,
        passes: int = 2,
        max_failed: float = MAX_FAILED,
        run_seconds: float = RUN_SECONDS,
    ) -> Sweep:
        """A sweep that can be run; starts nothing.

        Raises:
            UsageError: the arms differ in more than the draft, acceptance is synthetic, the lengths do not fit, or
                there are more passes than repeats.
        """
        check(commands, workload)
        return cls(
            engine=engine,
            commands=commands,
            workload=workload,
            planned=tuple(visits(list(commands), workload, passes)),
            logs=logs,
            max_failed=max_failed,
            run_seconds=run_seconds,
        )

    def estimate(self) -> SweepEstimate:
        """What it will take, before anything is known of the machine."""
        return estimate(self.planned, self.workload)

    def run(
        self,
        *,
        times: DraftTimes | None = None,
        command_line: Sequence[str] = (),
        progress: Progress = SILENT,
        on_run: OnRun | None = None,
        serve: Serve = VllmServer.start,
    ) -> ThroughputReport:
        """Measure.

        Args:
            times: what is known of the drafts' step times, for predictions.
            command_line: to be recorded.
            progress: is told of each run.
            on_run: likewise, with the run itself.
            serve: starts a server; given by tests, which share one.

        Raises:
            EngineError: a server or the benchmark module failed, or a run is unusable.
            StorageError: there is no place for logs.
        """
        self._make_logs()
        began = time.monotonic()
        version = self.engine.version()
        runs: list[ThroughputRun] = []
        load_seconds: dict[ArmName, list[float]] = {name: [] for name in self.commands}
        num_runs = sum(len(visit.jobs) for visit in self.planned)
        try:
            with progress.task("benchmark", num_runs, "step") as task:
                for number, visit in enumerate(self.planned):
                    log = self.logs / f"server-{number}-{visit.arm}.log"
                    with serve(self.engine, self.commands[visit.arm], log) as server:
                        load_seconds[visit.arm].append(server.ready_seconds)
                        with closing(self._measure(server, visit, number)) as measured:
                            for run in measured:
                                runs.append(run)
                                task.advance(1)
                                if on_run is not None:
                                    on_run(run, self._seconds_left(runs, load_seconds))
        except EngineError as error:
            if not runs:
                raise
            kept = f"{len(runs)} of {num_runs} runs were measured before that; the module's own results of them are in"
            raise EngineError(f"{error}\n{kept} {self.logs}.") from error
        return self._report(runs, load_seconds, version, times, command_line, time.monotonic() - began)

    def _make_logs(self) -> None:
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.logs}: cannot be made for the logs ({error.strerror}). Name another.") from error

    def _measure(self, server: VllmServer, visit: Visit, number: int) -> Generator[ThroughputRun, None, None]:
        """The runs of one visit, each as soon as it is done."""
        prefix = f"{number}-{visit.arm}"
        results = [self.logs / f"run-{prefix}-c{job.concurrency}-r{job.repeat}.json" for job in visit.jobs]
        command = self.commands[visit.arm]
        asked = [
            benchmark_flags(command, server.url, self.workload, job, result)
            for job, result in zip(visit.jobs, results, strict=True)
        ]
        jobs = self.logs / f"jobs-{prefix}.json"
        jobs.write_text(json.dumps(asked, indent=1), encoding="utf-8")
        for result in results:
            result.unlink(missing_ok=True)  # of an earlier sweep into the same directory
        process = Guarded.start(
            [str(self.engine.python), client.__file__, str(jobs)],
            self.logs / f"benchmark-{prefix}.log",
            {**self.engine.environment, **_client_environment()},
        )
        try:
            for job, result in zip(visit.jobs, results, strict=True):
                self._await(result, process, server)
                yield read_run(result, visit.arm, job, self.workload, number, self.max_failed)
        finally:
            process.stop()

    def _await(self, result: Path, process: Guarded, server: VllmServer) -> None:
        """Until a result is there.

        Raises:
            EngineError: the server or the module ended before, or it takes too long.
        """
        deadline = time.monotonic() + self.run_seconds
        while True:
            code = process.exit_code()
            if result.is_file():
                return
            server.check_alive()
            if code is not None:
                what = f"{server.url}: vLLM's benchmark module ended with {code} before {result.name} was written"
                raise EngineError(obituary(what, process))
            if time.monotonic() > deadline:
                what = f"{server.url}: {result.name} was not there after {self.run_seconds:.0f} s"
                raise EngineError(obituary(what, process))
            time.sleep(_POLL_SECONDS)

    def _seconds_left(self, runs: Sequence[ThroughputRun], load_seconds: Mapping[ArmName, Sequence[float]]) -> float:
        """From the mean of what was done so far; warm-up is asked like the rest."""
        loads = [seconds for each in load_seconds.values() for seconds in each]
        warm_up = 1 + self.workload.warmups_per_stream / self.workload.prompts_per_stream
        runs_left = sum(len(visit.jobs) for visit in self.planned) - len(runs)
        each = fmean(run.duration_seconds for run in runs) * warm_up
        return runs_left * each + (len(self.planned) - len(loads)) * fmean(loads)

    def _report(
        self,
        runs: list[ThroughputRun],
        load_seconds: Mapping[ArmName, list[float]],
        version: EngineVersion,
        times: DraftTimes | None,
        command_line: Sequence[str],
        seconds: float,
    ) -> ThroughputReport:
        first = next(iter(self.commands.values()))
        work, num_gpus = self.workload, 0 if version.platform == "cpu" else gpus_of(first)
        k = max(command.num_speculative_tokens or 0 for command in self.commands.values())
        return ThroughputReport(
            schema_version=1,
            target=first.target,
            workload=work,
            arms=[
                ThroughputArm(
                    name=name,
                    draft=command.draft,
                    num_speculative_tokens=command.num_speculative_tokens,
                    serve_command=command.to_json(),
                    load_seconds=[round(seconds, 1) for seconds in load_seconds[name]],
                )
                for name, command in self.commands.items()
            ],
            caveat=caveat_of(version),
            cells=cells(runs, num_gpus, work.confidence, k, times),
            published=published_for(first.target, version.arch, work.input_tokens, work.output_tokens, num_gpus),
            provenance=ThroughputProvenance(
                created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                command_line=list(command_line),
                versions={"quark_eagle": __version__, "python": platform.python_version()},
                engine=asdict(version),
                num_gpus=num_gpus,
                seconds=round(seconds, 1),
                logs=str(self.logs),
            ),
            runs=runs,
        )


def caveat_of(version: EngineVersion) -> str | None:
    """Why a speed measured on this engine means nothing; None on a GPU."""
    if version.platform in ("rocm", "cuda"):
        return None
    return (
        f"Measured on a CPU ({version.arch}): it shows that the measurement works. Its speeds mean nothing for a GPU, "
        "and FP8 is slower here because a CPU emulates it."
    )


def _client_environment() -> dict[str, str]:
    """For the benchmark module: it asks the loopback interface without a proxy, and knows the server's key."""
    said = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "TOKENIZERS_PARALLELISM": "false"}
    key = os.environ.get(API_KEY_VARIABLE)
    return said | ({"OPENAI_API_KEY": key} if key else {})  # where the module looks for it
