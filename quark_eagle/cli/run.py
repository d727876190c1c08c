"""`quark-eagle run`: the whole job as one file; what is done already is not done again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quark_eagle.cli.options import JsonFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quark_eagle.job.books import Books
    from quark_eagle.job.run import Done
    from quark_eagle.job.step import Step


def run(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="The job, in TOML; examples/job.toml says all.", show_default=False)
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every step's command and whether it would be skipped, and stop.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that no step of this job is known to have written.")
    ] = False,
    json_: JsonFlag = False,
) -> None:
    """Run a whole job: record, quantize, verify, measure, decide and release, as RECIPE says.

    Everything is checked before the first step. Each step is a command that is printed as it runs. It is skipped if
    neither its options nor the content of what it reads or wrote has changed, and taken up again if it was ended on its
    way. The first step whose exit code is not 0 ends the job with it: 3 (no), 4 (inconclusive), 5 (could not be done).

    Example: quark-eagle run job.toml
    """
    from quark_eagle import __version__
    from quark_eagle.cli import render
    from quark_eagle.cli.run_output import announce, show_dry_run
    from quark_eagle.job.books import open_books
    from quark_eagle.job.places import Places, unpinned
    from quark_eagle.job.preflight import preflight
    from quark_eagle.job.reading import read_recipe
    from quark_eagle.job.run import foretold, refuse_unknown
    from quark_eagle.job.run import run as run_steps
    from quark_eagle.job.steps import steps

    job = read_recipe(recipe)
    base = recipe.absolute().parent
    preflight(job, base)
    for name in unpinned(job, base):
        render.note(f"{name}: counts by its name, whatever its branch holds. Pin a revision: {name}@REVISION.")
    table = steps(job)
    ledger = Places.of(job).ledger(recipe)
    progress = render.progress(quiet=json_)
    with open_books(ledger, base, __version__, recipe=recipe, write=not dry_run, progress=progress) as books:
        if not overwrite:
            refuse_unknown(table, books)
        if dry_run:
            show_dry_run(list(foretold(table, books)), base, json_=json_)
            return
        try:
            done = run_steps(table, books, on_decision=announce(table, base), quiet=json_)
        except (KeyboardInterrupt, SystemExit):
            render.note(f"What is done is kept. Continue with: quark-eagle run {recipe}")
            raise
    _deliver(done, table, recipe, books, json_=json_)


def _deliver(done: Sequence[Done], table: Sequence[Step], recipe: Path, books: Books, *, json_: bool) -> None:
    """Say what became of every step, and end with the exit code of the last one that was reached.

    Raises:
        typer.Exit: always.
    """
    from quark_eagle.cli import render
    from quark_eagle.cli.run_output import advise, show_done

    last = [it for it in done if it.exit_code is not None][-1]
    exit_code = next((it.exit_code for it in done if it.exit_code), 0)  # a no stays a no, also if it was published
    if json_:
        content = {
            "schema_version": 1,
            "recipe": str(recipe),
            "ledger": str(books.path),
            "steps": [it.to_json() for it in done],
            "exit_code": exit_code,
        }
        render.emit_json(content)
    else:
        show_done(done)
    advise(last, recipe)
    raise typer.Exit(exit_code)
