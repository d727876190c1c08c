"""The table of a sweep: means over repeats with intervals, speed-ups paired by repeat, and what τ predicts.

A speed-up is a ratio, so its logarithm is what is averaged: over the repeats, each of which asked every arm the same
prompts, with a t interval. The repeat is what varies, and requests within one are not independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from quark_eagle.documents.throughput import (
    ArmName,
    Cell,
    Estimate,
    Latency,
    LatencyEstimate,
    Prediction,
    ThroughputRun,
)

Measure = Callable[[ThroughputRun], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftTimes:
    """What is known beforehand of the time that the drafts take; nothing, if all is None.

    Attributes:
        step_ms: of one draft step of each arm, as ``benchmarks/draft_step.py`` times it.
        candidate_share: bytes that a round of the candidate's draft steps reads, over those of the baseline's. At
            small batches a step takes as long as its weights take to arrive, so this is taken for the ratio of times.
    """

    step_ms: Mapping[ArmName, float] | None = None
    candidate_share: float | None = None


def geometric_mean(values: Sequence[float], confidence: float) -> Estimate:
    """The geometric mean of positive values and its two-sided t interval; none of a single value.

    >>> made = geometric_mean([1.0, 2.0, 4.0], 0.9)
    >>> round(made.value, 6), round(made.low, 3), round(made.high, 3)
    (2.0, 0.622, 6.435)
    """
    logs = [math.log(value) for value in values]
    middle = fmean(logs)
    if len(logs) < 2:
        return Estimate(value=math.exp(middle), low=None, high=None)
    from scipy.special import stdtrit  # a tenth of the second that scipy.stats takes to import

    half = float(stdtrit(len(logs) - 1, (1 + confidence) / 2)) * stdev(logs) / math.sqrt(len(logs))
    return Estimate(value=math.exp(middle), low=math.exp(middle - half), high=math.exp(middle + half))


def predicted_speedup(tau: float, draft_round_ms: float, target_step_ms: float) -> float:
    """How much faster tokens come with speculation than without: ``τ / (1 + draft_round_ms / target_step_ms)``.

    A round drafts and then verifies, and emits τ tokens; without speculation a step emits one. Taken for granted:
    verifying k + 1 tokens of each request lasts as long as computing one (true while weights, not arithmetic, take the
    time: small batches), and nothing else is paid for a round.

    >>> predicted_speedup(2.5, draft_round_ms=5.0, target_step_ms=20.0)
    2.0
    """
    return tau / (1 + draft_round_ms / target_step_ms)


def implied_draft_round_ms(tau: float, tpot_ms: float, target_step_ms: float) -> float:
    """What a round's draft steps must have taken, for tokens to come every ``tpot_ms``: the rest of the round.

    It is everything that speculation costs, sampling and a dearer verification too; negative if the round was shorter
    than a step without speculation.

    >>> implied_draft_round_ms(2.5, 10.0, 20.0)
    5.0
    """
    return tau * tpot_ms - target_step_ms


def cells(
    runs: Sequence[ThroughputRun], num_gpus: int, confidence: float, k: int, times: DraftTimes | None = None
) -> list[Cell]:
    """The runs' cells, by concurrency and within it in the order of the arms' first runs.

    Args:
        runs: of every arm, at every concurrency, the same repeats.
        num_gpus: of a server; 0 counts as 1.
        confidence: of the intervals.
        k: number of speculative tokens.
        times: of draft steps.
    """
    made: list[Cell] = []
    for concurrency in sorted({run.concurrency for run in runs}):
        here: dict[ArmName, list[ThroughputRun]] = {}
        for run in sorted(runs, key=lambda run: run.repeat):
            if run.concurrency == concurrency:
                here.setdefault(run.arm, []).append(run)
        made += [_cell(arm, here, max(1, num_gpus), confidence, k, times or DraftTimes()) for arm in _in_order(here)]
    return made


def _in_order(arms: Mapping[ArmName, object]) -> list[ArmName]:
    order: tuple[ArmName, ...] = ("none", "baseline", "candidate")
    return [arm for arm in order if arm in arms]


def _cell(
    arm: ArmName,
    here: Mapping[ArmName, Sequence[ThroughputRun]],
    num_gpus: int,
    confidence: float,
    k: int,
    times: DraftTimes,
) -> Cell:
    runs = here[arm]
    drafts = sum(run.acceptance.num_drafts for run in runs if run.acceptance)
    accepted = sum(run.acceptance.num_accepted_tokens for run in runs if run.acceptance)

    def against(other: ArmName, measure: Measure) -> Estimate | None:
        """The ratio of this arm's runs to another's of the same repeats."""
        if arm == other or other not in here:
            return None
        return geometric_mean([measure(a) / measure(b) for a, b in zip(runs, here[other], strict=True)], confidence)

    return Cell(
        arm=arm,
        concurrency=runs[0].concurrency,
        num_repeats=len(runs),
        num_requests=sum(run.num_requests for run in runs),
        num_failed=sum(run.num_failed for run in runs),
        total_tokens_per_second_per_gpu=geometric_mean(
            [(run.num_input_tokens + run.num_output_tokens) / run.duration_seconds / num_gpus for run in runs],
            confidence,
        ),
        output_tokens_per_second_per_gpu=geometric_mean([output_rate(run) / num_gpus for run in runs], confidence),
        ttft_ms=_latency([run.ttft_ms for run in runs], confidence),
        tpot_ms=_latency([run.tpot_ms for run in runs], confidence),
        speedup=against("none", output_rate),
        over_baseline=against("baseline", output_rate) if arm == "candidate" else None,
        tpot_speedup=against("none", lambda run: 1 / run.tpot_ms.mean),
        mean_acceptance_length=1 + accepted / drafts if drafts else None,
        num_drafts=drafts or None,
        num_accepted_tokens=accepted if drafts else None,
        predicted=_prediction(arm, here, k, times),
    )


def output_rate(run: ThroughputRun) -> float:
    """Output tokens per second of a server."""
    return run.num_output_tokens / run.duration_seconds


def _latency(latencies: Sequence[Latency], confidence: float) -> LatencyEstimate:
    """Each figure over repeats."""
    return LatencyEstimate(
        mean=geometric_mean([it.mean for it in latencies], confidence),
        p50=geometric_mean([it.p50 for it in latencies], confidence),
        p99=geometric_mean([it.p99 for it in latencies], confidence),
    )


def _prediction(
    arm: ArmName, here: Mapping[ArmName, Sequence[ThroughputRun]], k: int, times: DraftTimes
) -> Prediction | None:
    """From a stated step time or, for the candidate, from what the baseline's speed implies and the bytes of both."""
    tau = _tau(here[arm])
    if tau is None or "none" not in here:
        return None
    target_step = _tpot(here["none"])
    if times.step_ms is not None and arm in times.step_ms:
        draft_round, source = k * times.step_ms[arm], f"a stated draft step of {times.step_ms[arm]:g} ms, k = {k}"
    elif arm == "candidate" and times.candidate_share is not None and "baseline" in here:
        before = implied_draft_round_ms(_tau(here["baseline"]) or 1.0, _tpot(here["baseline"]), target_step)
        draft_round = max(0.0, before) * times.candidate_share
        source = f"what the baseline's speed leaves for drafting, times {times.candidate_share:.3f} by bytes"
    else:
        return None
    return Prediction(
        speedup=predicted_speedup(tau, draft_round, target_step),
        target_step_ms=target_step,
        draft_round_ms=draft_round,
        source=source,
    )


def _tau(runs: Sequence[ThroughputRun]) -> float | None:
    counts = [run.acceptance for run in runs if run.acceptance]
    drafts = sum(count.num_drafts for count in counts)
    return 1 + sum(count.num_accepted_tokens for count in counts) / drafts if drafts else None


def _tpot(runs: Sequence[ThroughputRun]) -> float:
    return fmean(run.tpot_ms.mean for run in runs)
