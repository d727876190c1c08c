"""One run of vLLM's benchmark module, read from the file that it wrote, and refused where it cannot be what was asked.

Source: vLLM 0.32, ``benchmarks/serve.py``, `benchmark` and `main_async`. Rates and lengths are not taken over but made
again from its counts. Its acceptance counts are the server's counters around the run, read without waiting for them to
settle: the last rounds of the warm-up may be in them, and the run's own last ones not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quark_eagle.documents.throughput import Acceptance, ArmName, Latency, ThroughputRun, Workload
from quark_eagle.errors import EngineError, findings
from quark_eagle.throughput.plan import Job

MAX_FAILED = 0.01
"""Share of a run's requests that may fail: they are counted and left out; of more, the rest would be another load."""


def read_run(
    path: Path, arm: ArmName, job: Job, workload: Workload, visit: int, max_failed: float = MAX_FAILED
) -> ThroughputRun:
    """The run in a result file.

    Args:
        path: of the file.
        arm: that was served.
        job: that was asked for.
        workload: likewise.
        visit: of which server.
        max_failed: largest share of failed requests.

    Raises:
        EngineError: it is no such file, or another run's, or too many of its requests failed, or a draft proposed
            nothing, or something proposed where there is no draft.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(said, dict):
            raise TypeError("it holds no JSON object")
        run = _run(said, arm, job, workload, visit)
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise EngineError(
            f"{path}: no result of vLLM's benchmark module as 0.32 writes it ({type(error).__name__}: {error}). "
            "This vLLM may be another version. Its log lies beside the file."
        ) from error
    problems = _problems(run, said, job, workload, max_failed)
    if problems:
        advice = "The run is unusable. What the requests and the server said is in the logs beside the file."
        raise EngineError(findings(str(path), problems, advice))
    return run


def _run(said: dict[str, Any], arm: ArmName, job: Job, workload: Workload, visit: int) -> ThroughputRun:
    drafts = int(said.get("spec_decode_num_drafts", 0))
    return ThroughputRun(
        arm=arm,
        concurrency=job.concurrency,
        repeat=job.repeat,
        visit=visit,
        seed=workload.seed + job.repeat,
        duration_seconds=float(said["duration"]),
        num_requests=int(said["completed"]) + int(said["failed"]),
        num_failed=int(said["failed"]),
        num_input_tokens=int(said["total_input_tokens"]),
        num_output_tokens=int(said["total_output_tokens"]),
        ttft_ms=_latency(said, "ttft"),
        tpot_ms=_latency(said, "tpot"),
        acceptance=_acceptance(said, drafts) if drafts else None,
    )


def _latency(said: dict[str, Any], name: str) -> Latency:
    return Latency(
        mean=float(said[f"mean_{name}_ms"]), p50=float(said[f"p50_{name}_ms"]), p99=float(said[f"p99_{name}_ms"])
    )


def _acceptance(said: dict[str, Any], drafts: int) -> Acceptance:
    return Acceptance(
        num_drafts=drafts,
        num_draft_tokens=int(said["spec_decode_draft_tokens"]),
        num_accepted_tokens=int(said["spec_decode_accepted_tokens"]),
        # The module divides these counts by the drafts.
        num_accepted_tokens_per_position=[
            round(rate * drafts) for rate in said["spec_decode_per_position_acceptance_rates"]
        ],
    )


def _problems(run: ThroughputRun, said: dict[str, Any], job: Job, workload: Workload, max_failed: float) -> list[str]:
    wanted = job.concurrency * workload.prompts_per_stream
    answered = run.num_requests - run.num_failed
    problems = []
    if run.num_requests != wanted or said.get("max_concurrency") != job.concurrency:
        problems.append(
            f"{run.num_requests} requests at concurrency {said.get('max_concurrency')}, but {wanted} at "
            f"{job.concurrency} were asked for."
        )
    if run.num_failed > max_failed * run.num_requests:
        problems.append(f"{run.num_failed} of {run.num_requests} requests failed, but at most {max_failed:.1%} may.")
    if run.num_output_tokens != answered * workload.output_tokens:
        problems.append(
            f"{run.num_output_tokens} output tokens of {answered} answers, but {workload.output_tokens} of each were "
            "asked for."
        )
    if run.arm == "none" and run.acceptance is not None:
        problems.append(f"{run.acceptance.num_drafts} drafts, but the server was to serve without one.")
    if run.arm != "none" and run.acceptance is None:
        problems.append("no draft proposed anything, but the server was to speculate.")
    return problems
