"""How often is the gate wrong, and how often does it decide? One table, under a truth that is known.

    python benchmarks/gate_simulation.py [parity.json] [--sets 10000]

Each row draws data sets of conversations whose true change is known (`simulated_walks.py` says what that means of a
ratio of sums) and decides each as the gate does (`many_intervals.py`; the first sets of every row are put through the
gate's own code too, and must have the same intervals), with 1,999 resamples where the gate takes 9,999. Where the truth
is exactly −margin, neither answer is right: passes and fails are errors, and alpha bounds each at 5 %. Where nothing is
lost, passes at the number of conversations that `plan-prompts` asks for are its power: 80 % at least.

The population is fitted to a measured report; by default to one of the demo pair's, of 64 prompts, whose moments stand
below. Served rows serve its conversations in three blocks (`simulated_serving.py`), whose passes differ by 0.3 %. Rows
without a bar are there to be known: numbers from which the gate refuses to decide, categories, a loss that is harsher
than rounding to FP8 makes, noise of single answers, which a served interval counts twice, and looking twice without
saying so. A bar is met if the share is within three standard errors of the simulation. Exits with 1 if one is missed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from many_intervals import intervals
from simulated_serving import Served, Serving, serve
from simulated_serving import conversations as served_conversations
from simulated_walks import IntArray, Population, conversations, fit, simulate

from quark_eagle.documents.parity import ParityReport
from quark_eagle.parity.paired import paired_difference
from quark_eagle.parity.power import plan
from quark_eagle.parity.verdict import MIN_CONVERSATIONS

DEMO = Population(
    # Ten categories; a quarter of the answers ends before 128 tokens. τ is 1.58.
    lengths=(127,) * 48 + (10, 21, 29, 33, 40, 46, 47, 50, 67, 77, 82, 86, 90, 93, 98, 103),
    means=(-0.244, -0.743, -0.114, -1.254, -0.702, -0.200, 0.140, -0.685, -0.513, -0.477),
    spread=0.519,
    redraw=0.0094,
    shift_spread=0.0183,
)
ALPHA, POWER = 0.05, 0.80
NUM_RESAMPLES = 1999
SEEN_TO = 3  # data sets of each row that the gate's own code judges too
Sides = npt.NDArray[np.int64]  # [sets]: 1 pass, -1 fail, 0 inconclusive


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table: a true change, and how it is looked at.

    Attributes:
        looks: at equal steps, the last at all conversations; `alpha` is of each look's tails.
        serving: None where the drafts are replayed.
        bar: the errors that are at most alpha, the power that is at least 80 %, or none.
    """

    name: str
    population: Population
    num_conversations: int
    change: float
    margin: float = 0.01
    looks: int = 1
    alpha: float = ALPHA
    bar: Literal["errors", "power"] | None = None
    serving: Serving | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Shares of the data sets, by the BCa interval alone and by the verdict, which the second interval must share."""

    sets: int
    bca: tuple[float, float]  # pass, fail
    verdict: tuple[float, float]

    def meets(self, bar: Literal["errors", "power"]) -> bool:
        """Whether it does, but for three standard errors of the simulation: the table has many rows."""
        aimed = ALPHA if bar == "errors" else POWER
        noise = 3 * (aimed * (1 - aimed) / self.sets) ** 0.5
        return max(self.verdict) <= ALPHA + noise if bar == "errors" else self.verdict[0] >= POWER - noise


def rows(population: Population) -> Iterator[Row]:
    """The table."""
    one = replace(population, means=(float(np.mean(population.means)),))
    rare = replace(population, share=0.1)
    long = replace(population, lengths=(1023,))
    lost = partial(Row, change=-0.01)
    yield lost(name="20: fewer than the gate takes", population=population, num_conversations=20)
    yield lost(name="33 of one category", population=one, num_conversations=33)
    yield lost(name="64", population=population, num_conversations=64, bar="errors")
    yield lost(name="64 of 1,024 tokens", population=long, num_conversations=64, bar="errors")
    yield lost(name="330", population=population, num_conversations=330, bar="errors")
    for name, alpha, bar in (("alpha split", ALPHA / 2, "errors"), ("alpha not split", ALPHA, None)):
        yield lost(
            name=f"64, then 128, {name}", population=population, num_conversations=128, looks=2, alpha=alpha, bar=bar
        )
    for n in (64, 330):
        yield lost(name=f"{n}, all of it lost by a tenth", population=rare, num_conversations=n)
    for aimed in (64, 330):
        deviation = population.deviation(aimed, 200_000)
        margin = plan(deviation, aimed, 0.0, margin=0.01, alpha=ALPHA).detectable_margin
        asked = plan(deviation, aimed, 0.0, margin=margin, alpha=ALPHA).num_if_unchanged
        assert asked is not None
        yield Row(
            name=f"as planned for {margin:.2%}",
            population=population,
            num_conversations=asked,
            change=0.0,
            margin=margin,
            bar="power",
        )
    yield from served_rows(population)


def served_rows(population: Population) -> Iterator[Row]:
    """The part of the table that is served."""
    passes = Serving()
    for n in (64, 200, 330):
        yield Row(
            name=f"served, {n}",
            population=population,
            num_conversations=n,
            change=-0.01,
            bar="errors",
            serving=passes,
        )
    deviation = population.deviation(200, 200_000)
    planned = partial(plan, deviation, 200, 0.0, alpha=ALPHA, noise=passes.noise)
    margin = planned(margin=0.01).detectable_margin
    asked = planned(margin=margin).num_if_unchanged
    assert asked is not None
    yield Row(
        name=f"served, as planned for {margin:.2%}",
        population=population,
        num_conversations=asked,
        change=0.0,
        margin=margin,
        bar="power",
        serving=passes,
    )
    answers = Serving(of_pass=0.0, of_answer=deviation)
    for change in (-0.01, 0.0):
        yield Row(
            name="served, noise of answers alone",
            population=population,
            num_conversations=200,
            change=change,
            serving=answers,
        )


def run(row: Row, sets: int, seed: int) -> Outcome:
    """Draw, decide, count."""
    rng = np.random.default_rng(seed)
    n = row.num_conversations
    counts, categories = simulate(row.population, row.population.shift_of(row.change, n), n, sets, rng)
    served = None if row.serving is None else serve(counts, row.serving, rng, num_first=SEEN_TO)
    counts = counts if served is None else served.counts
    bca, verdict = np.zeros(sets, np.int64), np.zeros(sets, np.int64)
    for look in range(1, row.looks + 1):
        seen = np.arange(n) % row.looks < look  # prompts are added in the same mix
        first, second = decide(row, counts[:, seen], categories[seen], served)
        bca = np.where(bca == 0, first, bca)  # looked at again only while undecided
        verdict = np.where(verdict == 0, np.where(first == second, first, 0), verdict)
    return Outcome(sets=sets, bca=shares(bca), verdict=shares(verdict))


def decide(row: Row, counts: IntArray, categories: IntArray, served: Served | None) -> tuple[Sides, Sides]:
    """On which side of the margin each data set's two intervals lie."""
    confidence = 1 - 2 * row.alpha
    strata = conversations(counts[0], categories).strata
    by_block = None if served is None else served.by_block
    both = intervals(counts, strata, confidence, NUM_RESAMPLES, by_block=by_block)
    for place in range(min(SEEN_TO, len(counts))):
        one = (
            conversations(counts[place], categories)
            if served is None
            else served_conversations(served.first[place], strata)
        )
        found = paired_difference(one, confidence, num_resamples=NUM_RESAMPLES)
        assert found is not None
        for ends, interval in zip(both, (found.interval, found.second_interval), strict=True):
            assert interval is not None
            np.testing.assert_allclose(ends[place], [interval.low, interval.high], rtol=0, atol=1e-12)
    first, second = ((ends[:, 0] > -row.margin) * 1 - (ends[:, 1] < -row.margin) for ends in both)
    return first, second


def shares(sides: Sides) -> tuple[float, float]:
    return float((sides == 1).mean()), float((sides == -1).mean())


def line(row: Row, found: Outcome) -> str:
    verdict = f"{found.verdict[0]:7.2%} {found.verdict[1]:7.2%} {1 - sum(found.verdict):7.2%}"
    if row.num_conversations < MIN_CONVERSATIONS:
        verdict = f"{'takes no part':>23}"
    bars = {"errors": f"both ≤ {ALPHA:.0%}", "power": f"pass ≥ {POWER:.0%}"}
    bar = f"{bars[row.bar]}: {'holds' if found.meets(row.bar) else 'MISSED'}" if row.bar else "–"
    return (
        f"{row.name:32} {row.num_conversations:4} {row.change:+7.2%} {row.margin:7.2%}  {found.bca[0]:7.2%} "
        f"{found.bca[1]:7.2%}   {verdict}   {bar}"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?", help="parity.json that the population is fitted to")
    parser.add_argument("--sets", type=int, default=10000, help="data sets of each row (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    population = fit(ParityReport.read(arguments.report).prompts) if arguments.report else DEMO
    started = time.perf_counter()
    print(f"{arguments.sets} data sets a row, {NUM_RESAMPLES} resamples, seed {arguments.seed}, {population}\n")
    print("                                         true             BCa alone             the verdict")
    print("conversations                       n  change  margin     pass    fail      pass    fail  incon.    bar")
    holds = True
    for row in rows(population):
        found = run(row, arguments.sets, arguments.seed)
        holds = holds and (row.bar is None or found.meets(row.bar))
        print(line(row, found), flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s")
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
