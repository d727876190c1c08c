"""Answers that no server gave, and passes made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quark_eagle.documents.served import ServedArmName
from quark_eagle.parity.served.schedule import Turn
from quark_eagle.parity.served.session import PassResult
from quark_eagle.serving.client import Outcome
from quark_eagle.serving.completion import Completion, Failure, Reported
from quark_eagle.serving.metrics import Counters
from quark_eagle.serving.rounds import clipped
from quark_eagle.trace.prompts import Message, Prompt, PromptSet

K = 3


def answer(
    accepted: Sequence[int] | None, num_tokens: int = 0, tokens: Sequence[int] = (), k: int = K, attempts: int = 1
) -> Completion:
    """An answer whose rounds accepted so many tokens, by default as long as they make it."""
    length = num_tokens or len(tokens) or 1 + sum(a + 1 for a in accepted or ())
    return Completion(
        token_ids=tuple(tokens) or tuple(range(length)),
        finish_reason="length",
        seconds=0.1,
        rounds=None if accepted is None else clipped(accepted, length),
        rounds_from=None if accepted is None else "metrics",
        num_speculative_tokens=None if accepted is None else k,
        reported=None
        if accepted is None
        else Reported(accepted=tuple(accepted), drafted=(k,) * len(accepted), num_speculative_tokens=k),
        attempts=attempts,
    )


def failure(message: str = "503: busy") -> Failure:
    return Failure(kind="server", message=message, attempts=3)


def prompts(*names: str) -> PromptSet:
    ask = [Message(role="user", content="?")]
    return PromptSet(prompts=tuple(Prompt.of(ask, id=name, category="coding") for name in names), source="")


def turn(arm: ServedArmName, block: int, outcomes: Mapping[str, Outcome]) -> PassResult:
    """One pass; its counters are those of its answers."""
    lengths = [
        length
        for outcome in outcomes.values()
        if isinstance(outcome, Completion) and outcome.reported is not None
        for length in outcome.reported.accepted
    ]
    counters = Counters(
        num_drafts=len(lengths),
        num_draft_tokens=K * len(lengths),
        num_accepted_tokens=sum(lengths),
        accepted_per_position=tuple(sum(length > place for length in lengths) for place in range(K)),
    )
    return PassResult(
        turn=Turn(arm=arm, block=block),
        outcomes=outcomes,
        counters=None if arm == "none" else counters,
        seconds=1.0,
    )
