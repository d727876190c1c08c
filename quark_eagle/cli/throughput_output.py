"""How a sweep is printed: what it will take, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quark_eagle.documents.throughput import (
        Cell,
        Estimate,
        LatencyEstimate,
        PublishedSweep,
        ThroughputReport,
        ThroughputRun,
    )
    from quark_eagle.throughput.plan import SweepEstimate

_NOTHING = "-"


def announce(estimate: SweepEstimate, assumed_tpot_ms: float) -> None:
    """Say on stderr what a sweep will take, before anything is started."""
    from quark_eagle.cli import render

    render.note(
        f"{estimate.num_runs} runs, {estimate.num_requests:,} requests, {estimate.num_output_tokens:,} output tokens, "
        f"{estimate.num_loads} loads of the target. At {assumed_tpot_ms:g} ms for each token of a stream that is about "
        f"{render.duration(estimate.seconds)} and the loads; the first run will tell better."
    )


def announce_run(run: ThroughputRun, seconds_left: float) -> None:
    """Say on stderr what one run gave, and how long the rest will take."""
    from quark_eagle.cli import render

    tau = "" if run.acceptance is None else f", τ {run.acceptance.mean_acceptance_length:.3f}"
    render.note(
        f"{run.arm}, concurrency {run.concurrency}, repeat {run.repeat}: "
        f"{run.num_output_tokens / run.duration_seconds:,.1f} output tokens/s{tau}; "
        f"about {render.duration(seconds_left)} left"
    )


def show_report(report: ThroughputReport) -> None:
    """Print the tables."""
    from quark_eagle.cli import render

    k = max(arm.num_speculative_tokens or 0 for arm in report.arms)
    drafts = "; ".join(f"{arm.name} {arm.draft}" for arm in report.arms if arm.draft is not None)
    provenance, work = report.provenance, report.workload
    where = f"{f'{provenance.num_gpus} GPU(s)' if provenance.num_gpus else 'no GPU'} ({provenance.engine['arch']})"
    render.say(
        f"Throughput of {report.target}, {work.input_tokens}/{work.output_tokens} tokens, k = {k}, "
        f"{where}, {work.repeats} repeats\n{drafts}\n"
    )
    render.show(_speeds(report))
    render.say()
    render.show(_latencies(report.cells))
    render.say(f"\n{_legend(report)}")
    render.say(_published_note(report.published))
    if report.caveat is not None:
        render.say(f"{report.caveat}")


def _speeds(report: ThroughputReport) -> object:
    from quark_eagle.cli import render

    headers = [
        "conc.",
        "draft",
        "tok/s/GPU",
        "output",
        "over none",
        "over baseline",
        "TPOT",
        "predicted",
        "τ",
    ]
    rows = [
        [
            cell.concurrency,
            cell.arm,
            interval(cell.total_tokens_per_second_per_gpu, 1),
            f"{cell.output_tokens_per_second_per_gpu.value:,.1f}",
            interval(cell.speedup),
            interval(cell.over_baseline),
            interval(cell.tpot_speedup),
            _NOTHING if cell.predicted is None else f"{cell.predicted.speedup:.3f}",
            _NOTHING if cell.mean_acceptance_length is None else f"{cell.mean_acceptance_length:.3f}",
        ]
        for cell in report.cells
    ]
    if report.published is not None:
        headers.append(f"published, {report.published.gpu}")
        for cell, row in zip(report.cells, rows, strict=True):
            row.append(_published(report.published, cell))
    return render.table(headers, rows, right=(0, 2, 3, 4, 5, 6, 7, 8, 9))


def _latencies(cells: Sequence[Cell]) -> object:
    from quark_eagle.cli import render

    def figures(latency: LatencyEstimate) -> list[str]:
        return [interval(latency.mean, 1), f"{latency.p50.value:,.1f}", f"{latency.p99.value:,.1f}"]

    rows = [
        [cell.concurrency, cell.arm, *figures(cell.tpot_ms), *figures(cell.ttft_ms), cell.num_requests, cell.num_failed]
        for cell in cells
    ]
    headers = ["conc.", "draft", "TPOT ms, mean", "p50", "p99", "TTFT ms, mean", "p50", "p99", "requests", "failed"]
    return render.table(headers, rows, right=(0, *range(2, 10)))


def interval(estimate: Estimate | None, digits: int = 3) -> str:
    """An estimate and its interval.

    >>> from quark_eagle.documents.throughput import Estimate
    >>> interval(Estimate(value=1.9, low=1.85, high=1.951)), interval(Estimate(value=12.25, low=None, high=None), 1)
    ('1.900 [1.850, 1.951]', '12.2')
    """
    if estimate is None:
        return _NOTHING
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:,.{digits}f}"
    return f"{estimate.value:,.{digits}f} [{estimate.low:,.{digits}f}, {estimate.high:,.{digits}f}]"


def _published(table: PublishedSweep, cell: Cell) -> str:
    """What was published for a cell, and its speed-up over no speculation."""
    by_cell = {(it.arm, it.concurrency): it.tokens_per_second_per_gpu for it in table.cells}
    value = by_cell.get((cell.arm, cell.concurrency))
    if value is None:
        return _NOTHING
    return f"{value:,.1f} ({value / by_cell['none', cell.concurrency]:.2f}x)"


def _published_note(table: PublishedSweep | None) -> str:
    """Where published figures are from or, where there are none to compare with, for what there are."""
    if table is not None:
        return f"Published: {table.source}. {table.remark}"
    from quark_eagle.throughput.published import PUBLISHED

    known = "; ".join(
        f"{it.target}, {it.num_gpus} {it.gpu}, {it.input_tokens}/{it.output_tokens} tokens" for it in PUBLISHED
    )
    return f"AMD published figures for others ({known}), with which these cannot be compared."


def _legend(report: ThroughputReport) -> str:
    work = report.workload
    intervals = (
        f"Over repeats: geometric means, {work.confidence:.0%} t intervals; ratios are paired by repeat (same prompts)."
        if work.repeats > 1
        else "One repeat: no intervals."
    )
    sources = {cell.predicted.source for cell in report.cells if cell.predicted is not None}
    predicted = (
        "Predicted for TPOT: τ / (1 + drafting / target step), the target's step being the TPOT without speculation; "
        f"drafting from {' or '.join(sorted(sources))}."
        if sources
        else "No prediction without a draft's step time (--draft-step-ms)."
    )
    counted = 'tok/s/GPU counts input and output; "TPOT" is how many times shorter it is than without a draft.'
    return f"{counted} {intervals}\n{predicted}"
