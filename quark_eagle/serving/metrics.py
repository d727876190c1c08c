"""What a server counted in all: vLLM's Prometheus counters of speculation, and whether they agree with its answers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quark_eagle.errors import EngineError, findings
from quark_eagle.serving.completion import Completion, Failure
from quark_eagle.serving.endpoint import ask

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

# v1/spec_decode/metrics.py of vLLM 0.32; one sample for each engine (data parallel rank).
DRAFTS = "vllm:spec_decode_num_drafts_total"
DRAFT_TOKENS = "vllm:spec_decode_num_draft_tokens_total"
ACCEPTED_TOKENS = "vllm:spec_decode_num_accepted_tokens_total"
ACCEPTED_PER_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
_NEEDED = (DRAFTS, DRAFT_TOKENS, ACCEPTED_TOKENS, ACCEPTED_PER_POSITION)
_SETTLE_SECONDS = 0.2
_SETTLE_TRIES = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Since the server's start, or between two readings (``after - before``).

    Attributes:
        num_drafts: rounds in which a draft was verified.
        num_draft_tokens: proposed.
        num_accepted_tokens: accepted, past the answers' ends too.
        accepted_per_position: rounds in which position i was accepted; k entries.
    """

    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int
    accepted_per_position: tuple[int, ...]

    @classmethod
    def read(cls, url: str) -> Counters:
        """What ``/metrics`` says, summed over engines, once two readings in a row agree.

        The counters of a request follow its answer after a moment.

        Raises:
            EngineError: no answer, or one without these counters, or they do not come to rest: somebody else asks too.
        """
        last = parse(ask(url, "/metrics").text, url)
        for _ in range(_SETTLE_TRIES):
            time.sleep(_SETTLE_SECONDS)
            now = parse(ask(url, "/metrics").text, url)
            if now == last:
                return now
            last = now
        raise EngineError(
            f"{url}/metrics: the counters go on rising, but nothing was asked. Somebody else uses this server, so what "
            "it counts cannot be told apart. Use a server of its own."
        )

    def __sub__(self, before: Counters) -> Counters:
        """What was counted since.

        Raises:
            EngineError: of another number of positions: it is another server by now.
        """
        now, then = (len(it.accepted_per_position) for it in (self, before))
        if now != then:
            raise EngineError(
                f"/metrics: counted {then} draft positions before the requests and {now} after them. Another server "
                "answers at this address by now. Measure again, on one that stays."
            )
        return Counters(
            num_drafts=self.num_drafts - before.num_drafts,
            num_draft_tokens=self.num_draft_tokens - before.num_draft_tokens,
            num_accepted_tokens=self.num_accepted_tokens - before.num_accepted_tokens,
            accepted_per_position=tuple(
                now - then for now, then in zip(self.accepted_per_position, before.accepted_per_position, strict=True)
            ),
        )


def parse(text: str, where: str) -> Counters:
    """The counters in a page of Prometheus text.

    Args:
        text: the page.
        where: whose, for error messages.

    Raises:
        EngineError: it is no such page, or the counters of speculation are not in it.
    """
    found = samples(text, where)
    totals = {name: [sample for sample in found if sample.name == name] for name in _NEEDED}
    problems = [f"{name} is missing" for name, told in totals.items() if not told]
    problems += [
        f"{sample.name} is {sample.value}, which is no count"
        for told in totals.values()
        for sample in told
        if not (sample.value >= 0 and sample.value == sample.value // 1)  # NaN is neither
    ]
    positions = {sample.labels.get("position", "") for sample in totals[ACCEPTED_PER_POSITION]}
    if not all(position.isdigit() for position in positions):
        problems.append(f"{ACCEPTED_PER_POSITION} has a sample without its position")
    if problems:
        advice = "Either this is not vLLM, or it serves without a draft, or with --disable-log-stats."
        raise EngineError(findings(f"{where}/metrics", [f"{problem}." for problem in problems], advice))
    return Counters(
        num_drafts=_sum(totals[DRAFTS]),
        num_draft_tokens=_sum(totals[DRAFT_TOKENS]),
        num_accepted_tokens=_sum(totals[ACCEPTED_TOKENS]),
        accepted_per_position=tuple(
            _sum(sample for sample in totals[ACCEPTED_PER_POSITION] if sample.labels["position"] == position)
            for position in sorted(positions, key=int)
        ),
    )


def samples(text: str, where: str) -> list[Sample]:
    """Every sample of a page of Prometheus text.

    Raises:
        EngineError: it is no such page.
    """
    from prometheus_client.parser import text_string_to_metric_families

    try:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except ValueError as error:
        raise EngineError(
            f"{where}/metrics: is no Prometheus page ({error}), but vLLM's counters are needed."
        ) from error


def _sum(told: Iterable[Sample]) -> int:
    return int(sum(sample.value for sample in told))


def reconcile(counted: Counters, outcomes: Sequence[Completion | Failure]) -> tuple[str, ...]:
    """Where a server's counters and its answers differ; empty where both tell the same.

    Exact where every answer came at the first attempt. What failed or was tried again was counted without an answer, so
    the counters may then be larger.

    Args:
        counted: between just before the first request and just after the last.
        outcomes: of all requests in between.
    """
    answers = [outcome for outcome in outcomes if isinstance(outcome, Completion)]
    exact = _at_the_first_attempt(outcomes)
    return tuple(
        f"{name}: /metrics counts {total}, the answers {summed}"
        for name, total, summed in _pairs(counted, answers)
        if (total != summed if exact else total < summed)
    )


def vouched_for(outcomes: Sequence[Completion | Failure]) -> list[Completion | Failure]:
    """The outcomes of a pass, without rounds that nothing vouches for.

    Rounds that were told from the pieces of a stream are too few where two pieces came as one. An exact comparison with
    the counters sees that, but where a request was tried again there is none.
    """
    if _at_the_first_attempt(outcomes):
        return list(outcomes)
    return [
        replace(outcome, rounds=None, rounds_from=None, num_speculative_tokens=None)
        if isinstance(outcome, Completion) and outcome.rounds_from == "stream"
        else outcome
        for outcome in outcomes
    ]


def _at_the_first_attempt(outcomes: Sequence[Completion | Failure]) -> bool:
    return all(isinstance(outcome, Completion) and outcome.attempts == 1 for outcome in outcomes)


def _pairs(counted: Counters, answers: Sequence[Completion]) -> list[tuple[str, int, int]]:
    reported = [answer.reported for answer in answers if answer.reported is not None]
    if len(reported) < len(answers):  # rounds as streamed: only their number is comparable, the last may be cut short
        told = [answer.accepted_per_round or () for answer in answers]
        return [("num_drafts", counted.num_drafts, sum(map(len, told)))]
    accepted = [length for report in reported for length in report.accepted]
    pairs = [
        ("num_drafts", counted.num_drafts, len(accepted)),
        ("num_draft_tokens", counted.num_draft_tokens, sum(sum(report.drafted) for report in reported)),
        ("num_accepted_tokens", counted.num_accepted_tokens, sum(accepted)),
    ]
    for position, total in enumerate(counted.accepted_per_position):
        pairs.append((f"accepted at position {position}", total, sum(length > position for length in accepted)))
    return pairs
