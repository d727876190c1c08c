"""`throughput.json`, schema version 1: how fast a target serves without a draft and with each of two.

Every run of vLLM's benchmark module is kept with its counts, so that the table can be made again from them; the cells
of the table are the runs of one arm at one concurrency, with intervals over repeats. Seconds, milliseconds and tokens
are what the module reported; rates are made of its counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from quark_eagle.documents.base import Count, Document, read_document

THROUGHPUT_SCHEMA_VERSION = 1

ArmName = Literal["none", "baseline", "candidate"]
"""No speculation, the BF16 draft, the FP8 draft."""

Positive = Annotated[float, Field(gt=0)]
PositiveCount = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(gt=0, lt=1)]


class Workload(Document):
    """What is asked of every arm: vLLM's random dataset, as AMD's published sweeps ask it.

    Attributes:
        input_tokens: of each prompt, before the chat template.
        output_tokens: of each answer, which no end-of-text token shortens; of one there would be no time between two.
        concurrency: requests in flight; one cell of the table each.
        prompts_per_stream: requests of a run, per request in flight.
        warmups_per_stream: requests before it that are not counted, per request in flight.
        chat_template: prompts go through the target's chat template.
        seed: of the first repeat's prompts; the next has the next. All arms get the same prompts.
        repeats: runs of each arm at each concurrency.
        confidence: of the intervals over them.
    """

    input_tokens: PositiveCount = 1024
    output_tokens: Annotated[int, Field(ge=2)] = 1024
    concurrency: Annotated[list[PositiveCount], Field(min_length=1, default_factory=lambda: [4, 8, 16, 32, 64])]
    prompts_per_stream: PositiveCount = 10
    warmups_per_stream: Count = 2
    chat_template: bool = True
    temperature: Annotated[float, Field(ge=0)] = 0.0
    seed: Count = 0
    repeats: PositiveCount = 4
    confidence: Probability = 0.9


class ThroughputArm(Document):
    """One of the servers.

    Attributes:
        draft: that proposes; null without speculation.
        serve_command: what the server was started with, as `serving` writes it.
        load_seconds: until it was ready, for each time that it was started.
    """

    name: ArmName
    draft: str | None
    num_speculative_tokens: PositiveCount | None
    serve_command: dict[str, Any]
    load_seconds: list[float]


class Latency(Document):
    """Milliseconds, over the requests of a run."""

    mean: Positive
    p50: Positive
    p99: Positive


class Acceptance(Document):
    """What a run's drafts got accepted, by the server's counters around it.

    Attributes:
        num_accepted_tokens_per_position: drafts whose first, second, … token was accepted.
    """

    num_drafts: PositiveCount
    num_draft_tokens: PositiveCount
    num_accepted_tokens: Count
    num_accepted_tokens_per_position: list[Count]

    @property
    def mean_acceptance_length(self) -> float:
        """τ."""
        return 1 + self.num_accepted_tokens / self.num_drafts


class ThroughputRun(Document):
    """One run of the benchmark module.

    Attributes:
        repeat: which, from 0: runs of the same repeat have the same prompts and are compared with each other.
        visit: of the server, from 0, in the order in which servers were started.
        duration_seconds: from the first request to the last answer, warm-up left out.
        ttft_ms: time to the first token.
        tpot_ms: time for each token after it.
        acceptance: null without speculation.
    """

    arm: ArmName
    concurrency: PositiveCount
    repeat: Count
    visit: Count
    seed: Count
    duration_seconds: Positive
    num_requests: PositiveCount
    num_failed: Count
    num_input_tokens: Count
    num_output_tokens: PositiveCount
    ttft_ms: Latency
    tpot_ms: Latency
    acceptance: Acceptance | None


class Estimate(Document):
    """A geometric mean over repeats and its t interval on the logarithms; no interval of a single repeat."""

    value: Positive
    low: Positive | None
    high: Positive | None


class LatencyEstimate(Document):
    """Milliseconds over repeats: of each run's mean, median and 99th percentile."""

    mean: Estimate
    p50: Estimate
    p99: Estimate


class Prediction(Document):
    """What τ makes of step times: tokens come ``τ / (1 + draft_round_ms / target_step_ms)`` times as fast.

    Attributes:
        speedup: of the time for each token (TPOT) over no speculation.
        target_step_ms: one verification, taken to last as long as a step without speculation: the TPOT measured so.
        draft_round_ms: all draft steps of a round.
        source: where that time is from.
    """

    speedup: Positive
    target_step_ms: Positive
    draft_round_ms: Annotated[float, Field(ge=0)]
    source: str


class Cell(Document):
    """One arm at one concurrency, over all repeats.

    Attributes:
        total_tokens_per_second_per_gpu: input and output.
        speedup: of throughput over no speculation, paired by repeat; null for that arm itself.
        over_baseline: of throughput, candidate over baseline, paired by repeat; null for the other arms.
        tpot_speedup: of the time for each token over no speculation, paired by repeat.
        predicted: for tpot_speedup; null where no draft step time is known.
    """

    arm: ArmName
    concurrency: PositiveCount
    num_repeats: PositiveCount
    num_requests: PositiveCount
    num_failed: Count
    total_tokens_per_second_per_gpu: Estimate
    output_tokens_per_second_per_gpu: Estimate
    ttft_ms: LatencyEstimate
    tpot_ms: LatencyEstimate
    speedup: Estimate | None
    over_baseline: Estimate | None
    tpot_speedup: Estimate | None
    mean_acceptance_length: Annotated[float, Field(ge=1)] | None
    num_drafts: Count | None
    num_accepted_tokens: Count | None
    predicted: Prediction | None


class PublishedCell(Document):
    """What was published for one arm at one concurrency."""

    arm: ArmName
    concurrency: PositiveCount
    tokens_per_second_per_gpu: Positive


class PublishedSweep(Document):
    """A table that somebody published, beside which ours is shown where target, lengths and GPU are the same.

    Attributes:
        gpu: it was measured on.
        arch: of that GPU.
        num_speculative_tokens: k of each arm that speculates; it may differ between them.
        remark: what its publisher, or its recipes, say against reading too much from it.
    """

    target: str
    gpu: str
    arch: str
    num_gpus: PositiveCount
    input_tokens: PositiveCount
    output_tokens: PositiveCount
    num_speculative_tokens: dict[ArmName, PositiveCount]
    num_seeds: PositiveCount
    cells: list[PublishedCell]
    source: str
    remark: str


class ThroughputProvenance(Document):
    """Where, when and with what it was measured.

    Attributes:
        engine: vLLM's version, its torch, platform, arch and device, as the engine says them.
        num_gpus: that each server used; 0 on a CPU, where "per GPU" is the whole server.
        seconds: that everything took, loads included.
        logs: directory of the servers' logs and of the module's own results.
    """

    created: str
    command_line: list[str]
    versions: dict[str, str]
    engine: dict[str, str | int | None]
    num_gpus: Count
    seconds: float
    logs: str


class ThroughputReport(Document):
    """The whole sweep.

    Attributes:
        caveat: why its speed means nothing; null on a GPU.
        cells: made of the runs.
        published: a table for the same target, lengths and GPU; null where there is none.
    """

    schema_version: Literal[1]
    target: str
    workload: Workload
    arms: Annotated[list[ThroughputArm], Field(min_length=1)]
    caveat: str | None
    cells: list[Cell]
    published: PublishedSweep | None
    provenance: ThroughputProvenance
    runs: list[ThroughputRun]

    @model_validator(mode="after")
    def _runs_are_all_there(self) -> ThroughputReport:
        wanted = {
            (arm.name, concurrency, repeat)
            for arm in self.arms
            for concurrency in self.workload.concurrency
            for repeat in range(self.workload.repeats)
        }
        found = [(run.arm, run.concurrency, run.repeat) for run in self.runs]
        if set(found) != wanted or len(found) != len(wanted):
            raise ValueError(f"{len(found)} runs, but one of each arm, concurrency and repeat was needed")
        return self

    @classmethod
    def read(cls, path: Path) -> ThroughputReport:
        """The report in a file.

        Raises:
            StorageError: the file may not be read.
            QuarkEagleError: it is no such report.
        """
        what = f"throughput.json of schema version {THROUGHPUT_SCHEMA_VERSION}"
        return read_document(cls, path, what, "quark-eagle throughput TARGET BASELINE CANDIDATE")
