"""run(): a job's steps in order: each is skipped, taken up or run, and noted when it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from quark_eagle.documents.anchor import ANCHOR_NAME
from quark_eagle.errors import EngineError, UsageError, findings
from quark_eagle.job.books import Books
from quark_eagle.job.child import run_child
from quark_eagle.job.digests import ABSENT, TRACE_NAME
from quark_eagle.job.step import Step

Action = Literal["skip", "run"]


class Start(Protocol):
    """Runs a command of this tool to its end: `run_child`."""

    def __call__(self, arguments: Sequence[str], directory: Path, *, lock: int, quiet: bool) -> int:
        """Its exit code; negative if a signal killed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is done about a step.

    Attributes:
        step: it.
        action: skip it, or run it.
        why: in a few words.
        key: of it as it stands.
        inputs: digests of what it reads.
        takes_up: whether it was begun in this very form and has not ended.
    """

    step: Step
    action: Action
    why: str
    key: str
    inputs: dict[str, str]
    takes_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of a step.

    Attributes:
        step: it.
        status: "skipped", "run", or "not reached".
        why: in a few words.
        seconds: that it took; of a skipped one, when it ran.
        exit_code: None if it was not reached.
    """

    step: Step
    status: Literal["skipped", "run", "not reached"]
    why: str
    seconds: float
    exit_code: int | None

    @property
    def ends_the_job(self) -> bool:
        """Whether no later step is reached."""
        return self.exit_code is None or self.exit_code not in self.step.goes_on_after

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "name": self.step.name,
            "command": ["quark-eagle", *self.step.arguments],
            "status": self.status,
            "why": self.why,
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
        }


def decide(step: Step, books: Books) -> Decision:
    """Whether a step has to be run, and why."""
    key, inputs = books.key(step)
    record = books.steps.get(step.name)
    if record is None:
        return Decision(step=step, action="run", why="it was not run yet", key=key, inputs=inputs)
    same = record.key == key
    if not record.ended:
        why = "it was begun and has not ended" if same else "it was begun in another form"
        return Decision(step=step, action="run", why=why, key=key, inputs=inputs, takes_up=same)
    if not same:
        changed = [name for name, found in inputs.items() if record.inputs.get(name) != found]
        why = f"{' and '.join(changed)} changed" if changed else "its options changed"
        return Decision(step=step, action="run", why=why, key=key, inputs=inputs)
    for name in step.writes:
        found = books.digests.of(name)
        if found != record.outputs.get(name):
            why = f"{name} {'is gone' if found == ABSENT else 'was changed since, and is written anew'}"
            return Decision(step=step, action="run", why=why, key=key, inputs=inputs)
    return Decision(step=step, action="skip", why="nothing changed", key=key, inputs=inputs)


def foretold(steps: Sequence[Step], books: Books) -> Iterator[Decision]:
    """What a run would do now, as far as can be said: a step is run if one is that writes what it reads."""
    rewritten: dict[str, str] = {}
    for step in steps:
        decision = decide(step, books)
        upstream = next((rewritten[name] for name in step.reads if name in rewritten), None)
        if decision.action == "skip" and upstream is not None:
            why = f"{upstream} is run, unless it writes the same again"
            decision = Decision(step=step, action="run", why=why, key=decision.key, inputs=decision.inputs)
        if decision.action == "run":
            rewritten |= dict.fromkeys(step.writes, step.name)
        yield decision


def refuse_unknown(steps: Sequence[Step], books: Books) -> None:
    """See that nothing would be replaced that no step of this job wrote.

    Raises:
        UsageError: something would; all of it.
    """
    known = {name for record in books.steps.values() for name in record.outputs}
    problems = [
        f"{books.digests.base / name}: exists, and no step of this job wrote it."
        for step in steps
        for name in step.writes
        if name not in known and (books.digests.base / name).exists()
    ]
    if problems:
        advice = "Nothing was run. Remove them, name other places in [outputs], or pass --overwrite to replace them."
        raise UsageError(findings("outputs", problems, advice))


def run(
    steps: Sequence[Step],
    books: Books,
    *,
    on_decision: Callable[[Decision], None] = lambda decision: None,
    quiet: bool = False,
    start: Start = run_child,
) -> list[Done]:
    """Run the steps that have to be; the first whose exit code is not 0 ends the job.

    Args:
        steps: of the job, in order.
        books: locked.
        on_decision: told of each step before it is run or skipped.
        quiet: what the steps print goes to stderr.
        start: what runs a command.

    Returns:
        What became of each.

    Raises:
        EngineError: a step was killed.
        QuarkEagleError: a file could not be read, or the ledger not be written.
    """
    done: list[Done] = []
    for step in steps:
        if done and done[-1].ends_the_job:
            done.append(Done(step=step, status="not reached", why="", seconds=0.0, exit_code=None))
            continue
        decision = decide(step, books)
        on_decision(decision)
        if decision.action == "skip":
            record = books.steps[step.name]
            done.append(
                Done(
                    step=step,
                    status="skipped",
                    why=decision.why,
                    seconds=record.seconds,
                    exit_code=record.exit_code,
                )
            )
        else:
            done.append(_run(decision, books, quiet, start))
    books.write()  # hashes that were made for steps that were skipped
    return done


def _run(decision: Decision, books: Books, quiet: bool, start: Start) -> Done:
    step = decision.step
    arguments = [*step.arguments, *(["--overwrite"] if _replaces(decision, books.digests.base) else [])]
    books.begun(step, decision.key, decision.inputs)
    started = time.monotonic()
    exit_code = start(arguments, books.digests.base, lock=books.lock, quiet=quiet)
    seconds = time.monotonic() - started
    if exit_code < 0:
        raise EngineError(
            f"{step.name}: was killed by signal {-exit_code}{' (out of memory?)' if exit_code == -9 else ''}. "
            "What is done is kept. Run the same recipe again: it takes this step up."
        )
    missing = [name for name in step.writes if not (books.digests.base / name).exists()]
    assert exit_code != 0 or not missing, f"{step.name} ended well, but {missing} is not there"
    if exit_code in step.goes_on_after and not missing:
        books.ended(step, exit_code, seconds)
    elif exit_code in step.goes_on_after:  # what was wanted in spite of its verdict could not be had
        step = replace(step, goes_on_after=())
    return Done(step=step, status="run", why=decision.why, seconds=seconds, exit_code=exit_code)


def _replaces(decision: Decision, base: Path) -> bool:
    """Whether a command has to be told that its outputs may be replaced.

    A recording that was ended on its way is continued, so nothing is said of it; and so is one that lacks its anchor
    alone, which is begun anew if it is told to overwrite.
    """
    step = decision.step
    if step.resumes:
        directory = base / step.writes[0]
        finished = (directory / TRACE_NAME).exists()
        if decision.takes_up and "vllm" in step.arguments:
            return finished and ((directory / ANCHOR_NAME).exists() or "--no-anchor" in step.arguments)
        return finished or (directory.exists() and not decision.takes_up)
    return any((base / name).exists() for name in step.writes)
