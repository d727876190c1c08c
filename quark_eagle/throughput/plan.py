"""What a sweep will do before it does it: which servers in which order, what each is asked, and how long that takes.

One server at a time has the GPUs: a target of half a terabyte fits them once. So the arms are visited in turn, forwards
and then backwards: none, baseline, candidate, candidate, baseline, none. Every arm then stands on average at the same
place, and whatever drifts steadily over the hours (clocks, temperature, neighbours) cancels; two visits of the same arm
that follow one another share a load.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quark_eagle.documents.throughput import ArmName, Workload
from quark_eagle.errors import UsageError, findings
from quark_eagle.serving.command import ServeCommand

# What stands in a request beside input and output: the chat template, and the drafts of the last round.
ROOM = 64
# AMD's table for Kimi-K2.5 (`published`) comes to 13 … 60 ms for each token of a stream; the first run tells better.
ASSUMED_TPOT_MS = 30.0
_DRAFTED: tuple[ArmName, ...] = ("baseline", "candidate")
_CHAT, _PLAIN = ("openai-chat", "/v1/chat/completions"), ("vllm", "/v1/completions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of the benchmark module."""

    concurrency: int
    repeat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One start of an arm's server, and what is measured before it is stopped."""

    arm: ArmName
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepEstimate:
    """What a sweep will take.

    Attributes:
        num_requests: warm-up included.
        num_output_tokens: warm-up included.
        seconds: of measuring, loads left out, at `ASSUMED_TPOT_MS` for each token of a stream.
    """

    num_loads: int
    num_runs: int
    num_requests: int
    num_output_tokens: int
    seconds: float


def arms_of(drafted: Sequence[ServeCommand]) -> dict[ArmName, ServeCommand]:
    """The arms for one or two drafts, baseline first, and before them the same target without a draft."""
    plain = replace(drafted[0], draft=None, num_speculative_tokens=None, speculative={})
    return {"none": plain, **dict(zip(_DRAFTED, drafted, strict=False))}


def visits(arms: Sequence[ArmName], workload: Workload, passes: int) -> list[Visit]:
    """The servers in the order in which they are started.

    Args:
        arms: to compare.
        workload: whose repeats are dealt out over the passes.
        passes: through the arms, forwards and backwards in turn; an even number balances their places.

    Raises:
        UsageError: a pass without a repeat.

    >>> planned = visits(["none", "baseline"], Workload(repeats=2, concurrency=[4]), passes=2)
    >>> [(visit.arm, [job.repeat for job in visit.jobs]) for visit in planned]
    [('none', [0]), ('baseline', [0, 1]), ('none', [1])]
    """
    if not 1 <= passes <= workload.repeats:
        raise UsageError(
            f"--passes {passes}: each pass through the servers measures at least one repeat, and there are "
            f"{workload.repeats}. Give 1 to {workload.repeats}, or more --repeats."
        )
    planned: list[Visit] = []
    for number in range(passes):
        for arm in arms if number % 2 == 0 else reversed(arms):
            jobs = _jobs(workload, range(number, workload.repeats, passes))
            if planned and planned[-1].arm == arm:
                planned[-1] = Visit(arm=arm, jobs=planned[-1].jobs + jobs)
            else:
                planned.append(Visit(arm=arm, jobs=jobs))
    return planned


def _jobs(workload: Workload, repeats: range) -> tuple[Job, ...]:
    """Each repeat at every concurrency; upwards, every other repeat downwards, in all arms alike."""
    ordered = sorted(workload.concurrency)
    return tuple(
        Job(concurrency=concurrency, repeat=repeat)
        for repeat in repeats
        for concurrency in (ordered if repeat % 2 == 0 else reversed(ordered))
    )


def estimate(planned: Sequence[Visit], workload: Workload, tpot_ms: float = ASSUMED_TPOT_MS) -> SweepEstimate:
    """What these visits will take.

    A run asks ``prompts_per_stream`` requests of each stream one after another, whatever the concurrency, and as many
    more as warm it up; each lasts ``output_tokens`` times the time for a token.
    """
    per_stream = workload.prompts_per_stream + workload.warmups_per_stream
    num_requests = sum(job.concurrency * per_stream for visit in planned for job in visit.jobs)
    num_runs = sum(len(visit.jobs) for visit in planned)
    return SweepEstimate(
        num_loads=len(planned),
        num_runs=num_runs,
        num_requests=num_requests,
        num_output_tokens=num_requests * workload.output_tokens,
        seconds=num_runs * per_stream * workload.output_tokens * tpot_ms / 1000,
    )


def benchmark_flags(command: ServeCommand, url: str, workload: Workload, job: Job, result: Path) -> list[str]:
    """What vLLM's benchmark module is told for one run.

    Source: vLLM 0.32, ``benchmarks/serve.py`` (`add_cli_args`) and ``benchmarks/datasets/datasets.py``. The random
    dataset makes it ignore end-of-text tokens, so that every answer has its full length. Without a temperature the
    server's default would hold, which a target's generation config may set.
    """
    backend, endpoint = _CHAT if workload.chat_template else _PLAIN
    told = {
        "--backend": backend,
        "--endpoint": endpoint,
        "--base-url": url,
        "--model": command.model,
        "--tokenizer": command.target,
        "--dataset-name": "random",
        "--random-input-len": workload.input_tokens,
        "--random-output-len": workload.output_tokens,
        "--random-range-ratio": 0,
        "--num-prompts": workload.prompts_per_stream * job.concurrency,
        "--num-warmups": workload.warmups_per_stream * job.concurrency,
        "--max-concurrency": job.concurrency,
        "--seed": workload.seed + job.repeat,
        "--temperature": workload.temperature,
        "--percentile-metrics": "ttft,tpot",
        "--metric-percentiles": "50,99",
        "--result-dir": result.parent,
        "--result-filename": result.name,
    }
    flags = [word for flag, value in told.items() for word in (flag, str(value))]
    return [*flags, "--save-result", "--disable-tqdm", *(["--trust-remote-code"] if command.trust_remote_code else [])]


def gpus_of(command: ServeCommand) -> int:
    """GPUs that a server takes: the product of its parallel sizes.

    >>> gpus_of(ServeCommand(target="T", options={"--tensor-parallel-size": 4, "--enable-expert-parallel": True}))
    4
    """
    kinds = ("tensor", "pipeline", "data")
    return math.prod(int(str(command.options.get(f"--{kind}-parallel-size", 1))) for kind in kinds)


def check(commands: Mapping[ArmName, ServeCommand], workload: Workload) -> None:
    """See that the arms differ in nothing but the draft, and that what is measured is real.

    Raises:
        UsageError: they do, or acceptance is made up, or answers come from a cache or do not fit; all of it is named.
    """
    problems: list[str] = []
    for name, command in commands.items():
        problems += [f"{name}: {problem}" for problem in _arm_problems(name, command, workload)]
    drafted = {name: command for name, command in commands.items() if command.draft is not None}
    for settings, group in ((_shared, commands), (_drafting, drafted)):
        names = list(group)
        problems += [
            f"{name}: {what} is not that of {names[0]}."
            for name in names[1:]
            for what, value in settings(group[name]).items()
            if value != settings(group[names[0]])[what]
        ]
    if problems:
        raise UsageError(findings("the servers of a sweep", problems, "Nothing could be concluded from their speeds."))


def _arm_problems(name: ArmName, command: ServeCommand, workload: Workload) -> list[str]:
    problems = []
    if (command.draft is None) != (name == "none"):
        problems.append("is served with a draft." if name == "none" else "is served without a draft.")
    method = command.speculative.get("rejection_sample_method")
    if method == "synthetic" or any(key.startswith("synthetic_") for key in command.speculative):
        problems.append("its acceptance is synthetic, so that its speed would be made up.")
    if command.prefix_caching:
        problems.append("its prefix cache is on, and would answer a repeat's warm-up prompts.")
    room = command.options.get("--max-model-len")
    needed = workload.input_tokens + workload.output_tokens + ROOM
    if isinstance(room, int) and room < needed:
        problems.append(f"--max-model-len {room} is below {needed}: input, output and {ROOM} for the chat template.")
    return problems


def _shared(command: ServeCommand) -> dict[str, object]:
    """What all arms have in common."""
    return {
        "the target": command.target,
        "the dtype": command.dtype,
        "the model's name": command.model,
        "the options": dict(command.options),
        "the environment": dict(command.environment),
    }


def _drafting(command: ServeCommand) -> dict[str, object]:
    """What the arms that speculate have in common."""
    return {
        "the method": command.method,
        "the number of speculative tokens": command.num_speculative_tokens,
        "the speculative config": dict(command.speculative),
    }
