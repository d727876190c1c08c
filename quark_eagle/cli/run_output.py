"""What `run` prints: each step's command before it runs, and what became of all."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quark_eagle.cli import render

if TYPE_CHECKING:
    from quark_eagle.job.run import Decision, Done
    from quark_eagle.job.step import Step


def announce(steps: Sequence[Step], base: Path) -> Callable[[Decision], None]:
    """Tells each step on stderr before it is run or skipped."""
    numbers = {step.name: number for number, step in enumerate(steps, start=1)}
    if base != Path.cwd():
        render.note(f"$ cd {shlex.quote(str(base))}")

    def tell(decision: Decision) -> None:
        step = decision.step
        render.err().print(f"\n{numbers[step.name]}. {step.heading}", style="bold", markup=False)
        if decision.action == "skip":
            render.note(f"{step.name}: skipped, {decision.why}.")
        else:
            render.note(f"{step.name}: {decision.why}.\n$ {step.command}")

    return tell


def show_dry_run(decisions: Sequence[Decision], base: Path, *, json_: bool) -> None:
    """Every command, and whether it would be run."""
    if json_:
        steps = [
            {
                "name": it.step.name,
                "command": ["quark-eagle", *it.step.arguments],
                "status": {"skip": "skipped", "run": "run"}[it.action],
                "why": it.why,
            }
            for it in decisions
        ]
        render.emit_json({"schema_version": 1, "directory": str(base), "steps": steps})
        return
    render.say(f"cd {shlex.quote(str(base))}")
    for it in decisions:
        render.say(f"\n# {it.step.name}: {it.action}, {it.why}.\n{it.step.command}")


def show_done(done: Sequence[Done]) -> None:
    """The last table."""
    rows = [
        [
            it.step.name,
            it.status,
            it.why,
            f"{it.seconds:.1f}" if it.status == "run" else "",
            "" if it.exit_code is None else it.exit_code,
        ]
        for it in done
    ]
    render.say()
    render.show(render.table(["step", "", "because", "seconds", "exit code"], rows, right=(3, 4)))


def advise(last: Done, recipe: Path) -> None:
    """What to do where the job has ended before its time."""
    if not last.ends_the_job:
        return
    advice = last.step.advice(last.exit_code or 0)
    render.note(
        f"The job ends at {last.step.name}, exit code {last.exit_code}.{' ' if advice else ''}{advice}\n"
        f"Continue with: quark-eagle run {shlex.quote(str(recipe))}"
    )
