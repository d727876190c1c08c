"""Which prompts of a trace are calibrated on, in which order: none that a verdict or a choice will be made on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from quark_eagle.errors import TraceError, UsageError, findings
from quark_eagle.quantize.calibration.other_splits import of_other_splits
from quark_eagle.trace.target_trace import TargetTrace
from quark_eagle.trace.trace_document import TracedPromptInfo

SPLIT = "calibration"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenPrompts:
    """The prompts of a calibration in the order in which they are seen.

    Attributes:
        places: of the prompts in their trace.
        infos: who they are.
    """

    places: tuple[int, ...]
    infos: tuple[TracedPromptInfo, ...]

    @classmethod
    def of(cls, trace: TargetTrace, max_tokens: int | None, judged_on: Iterable[TargetTrace] = ()) -> ChosenPrompts:
        """Categories in turn, so that the scales of few prompts stand for all kinds.

        Args:
            trace: recorded of the split "calibration".
            max_tokens: whole prompts as long as they have no more tokens together; None takes all.
            judged_on: traces of the same command, whose prompts must not be among these.

        Raises:
            TraceError: a prompt is reserved for judging or choosing; all are listed.
            UsageError: the limit is below the first prompt's length.
        """
        require_disjoint(trace, judged_on)
        infos = trace.prompts
        seen: Counter[str] = Counter()
        turns = []
        for place, info in enumerate(infos):
            turns.append((seen[info.category], place))
            seen[info.category] += 1
        order = [place for _, place in sorted(turns)]
        if max_tokens is not None:
            order = _within(order, infos, max_tokens)
        return cls(places=tuple(order), infos=tuple(infos[place] for place in order))

    @property
    def num_tokens(self) -> int:
        """Rows of step 1: tokens whose state the trace holds."""
        return sum(rows_of(info) for info in self.infos)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Numbers of prompts after which scales are noted: at about each eighth of the tokens, and at the end."""
        total, done, noted = self.num_tokens, 0, []
        for number, info in enumerate(self.infos, 1):
            before = done * NUM_POINTS // total
            done += rows_of(info)
            if done * NUM_POINTS // total > before:
                noted.append(number)
        return tuple(noted)


NUM_POINTS = 8


def rows_of(info: TracedPromptInfo) -> int:
    """Rows of a prompt's states: its last token was never consumed."""
    return info.num_tokens - 1


def require_disjoint(trace: TargetTrace, judged_on: Iterable[TargetTrace] = ()) -> None:
    """See that no prompt of a calibration is one that a verdict or a choice is made on.

    Raises:
        TraceError: some are; all are listed, with what they are.
    """
    problems = of_other_splits(trace, SPLIT, [(it, "which the draft is judged on") for it in judged_on])
    if problems:
        advice = (
            "A draft that has seen the prompts it is judged on looks better than it is. Record a trace with "
            f"`quark-eagle trace TARGET --draft DRAFT --split {SPLIT}`, of prompts that serve nothing else."
        )
        raise TraceError(findings(f"{trace.directory}: cannot be calibrated on", problems, advice))


def _within(order: list[int], infos: tuple[TracedPromptInfo, ...], max_tokens: int) -> list[int]:
    total, kept = 0, []
    for place in order:
        total += rows_of(infos[place])
        if total > max_tokens:
            break
        kept.append(place)
    if not kept:
        needed = rows_of(infos[order[0]])
        raise UsageError(
            f"--calib-tokens {max_tokens}: the first prompt alone has {needed}, and prompts are taken whole. "
            f"Give {needed} or more, or leave it out to take all."
        )
    return kept
