"""How answers and progress look: the answer on stdout, progress and notes on stderr, JSON alone where it was asked for.

rich is imported inside the functions: `--help` and `--json` never wait for it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Literal

from quark_eagle.progress import SILENT, Progress, Task, Unit

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn, TaskID
    from rich.table import Table


def out() -> Console:
    """The console of the answer, on stdout."""
    return _console(stderr=False)


def err() -> Console:
    """The console of progress, notes and warnings, on stderr."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console as RichConsole

    class Console(RichConsole):
        def on_broken_pipe(self) -> None:
            """Whoever read has gone (`| head`): rich would exit with 1, which says bug, and the answer stands."""
            _read_no_more(self.file)

    # NO_COLOR (no-color.org) asks for no colour; bold and dim go with it, so that captured text is plain text.
    color_system: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    # Not kept: sys.stdout is looked up anew, as tests and embedding programs exchange it.
    return Console(
        stderr=stderr,
        color_system=color_system,
        highlight=False,
        emoji=False,
        width=None if (sys.stderr if stderr else sys.stdout).isatty() else _piped_width(),
    )


def _read_no_more(stream: IO[str]) -> None:
    """Let the rest of a stream go nowhere, down to the flush at the end of the process."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _piped_width() -> int:
    """Columns of a table that is not printed on a terminal: COLUMNS if it is set, else wide enough for tensor names."""
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) > 0 else 160


def say(text: str = "") -> None:
    """Print a line of the answer: plain text, in which square brackets mean themselves."""
    out().print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a remark on stderr: plain text."""
    err().print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning on stderr: the user may go on, but should know."""
    err().print(f"Warning: {text}", style="yellow", markup=False, soft_wrap=True)


def emit_json(document: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, with no colour and nothing else.

    Raises:
        ValueError: the document holds NaN or an infinity, which JSON does not have.
    """
    emit(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def emit(text: str) -> None:
    """Print text on stdout as it is; a reader who has gone changes nothing of how the command ends."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _read_no_more(sys.stdout)


def table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = (), title: str | None = None
) -> Table:
    """A table without vertical lines: headers, one line per row, the columns in `right` set flush right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left")
    for column, header in enumerate(headers):
        made.add_column(header, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


def show(renderable: object) -> None:
    """Print a table or another rich object as part of the answer."""
    out().print(renderable)


def size(num_bytes: float) -> str:
    """Bytes in decimal units, three significant digits.

    >>> size(999), size(36_700_000), size(6.357e9)
    ('999 B', '36.7 MB', '6.36 GB')
    """
    value, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"


def progress(*, quiet: bool = False) -> Progress:
    """What a command hands to the library: a bar on stderr; silent if `quiet`."""
    return SILENT if quiet else Bars()


class Bars(Progress):
    """One bar per task on stderr, with bytes per second where bytes are counted.

    Where stderr is not a terminal each task leaves one line when it ends.
    """

    @contextmanager
    def task(self, description: str, total: int, unit: Unit = "B") -> Iterator[Task]:
        """See `Progress.task`."""
        from rich.progress import Progress as RichProgress

        with RichProgress(*_columns(unit), console=err()) as bars:
            yield _Bar(bars, bars.add_task(description, total=total))


class _Bar(Task):
    def __init__(self, bars: RichProgress, task_id: TaskID) -> None:
        self._bars = bars
        self._task_id = task_id

    def advance(self, n: int) -> None:
        self._bars.advance(self._task_id, n)


def _columns(unit: Unit) -> list[str | ProgressColumn]:
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TimeElapsedColumn, TransferSpeedColumn

    counted: list[str | ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()] if unit == "B" else [MofNCompleteColumn(), f"{unit}s"]
    )
    return ["{task.description}", BarColumn(bar_width=24), *counted, TimeElapsedColumn()]


def duration(seconds: float) -> str:
    """A time to wait, to be read and not measured with.

    >>> duration(0.2), duration(42.0), duration(600.0), duration(12_000.0)
    ('1 s', '42 s', '10 min', '3.3 h')
    """
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
