"""What the process says to a script, and the one place where an exception becomes a sentence and a number.

A crash must never read like a verdict: 1 is left to Python's own uncaught exception (a bug) and 2 to wrong usage, so
"the answer is no" is 3 and "nothing could be decided" is 4.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from quark_eagle.cli import signals


class ExitCode(IntEnum):
    """Exit status of every command. Each member's `meaning` is the row of README's table."""

    DONE = 0
    BUG = 1
    USAGE = 2
    NO = 3
    INCONCLUSIVE = 4
    FAILED = 5
    INTERRUPTED = 130
    TERMINATED = 143

    @property
    def meaning(self) -> str:
        """One line for README and `--help`."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.DONE: "done; the gate passed (`parity` alone measures: 0 whatever it finds)",
    ExitCode.BUG: "a bug in quark-eagle: a traceback is printed",
    ExitCode.USAGE: "wrong usage: an option, a pattern, an output that exists",
    ExitCode.NO: "the answer is no: `verify` found it broken, `doctor` that it will not do here, `trace` that replay "
    "is not what was served, `export-onnx` that its files compute something else, `compare-schemes` that no scheme is "
    "usable, `release` that something speaks against it, `verify-release` that a bundle is not as it was released, or "
    "`gate` or `quantize` a loss beyond the margin",
    ExitCode.INCONCLUSIVE: "inconclusive: too little was measured to decide, and it says how many prompts would; or "
    "`verify --engine` asked a device that cannot run the scheme",
    ExitCode.FAILED: "could not be evaluated: unusable input, a dead baseline, an engine that dies, a full disk",
    ExitCode.INTERRUPTED: "interrupted (SIGINT, Ctrl-C): cleaned up",
    ExitCode.TERMINATED: "terminated (SIGTERM): cleaned up",
}


@contextmanager
def run() -> Iterator[None]:
    """The boundary around a command: a `QuarkEagleError` is told on stderr and ends the process with its own code.

    Everything that is not a `QuarkEagleError` is a bug and passes through as a traceback (exit 1). SIGINT and SIGTERM
    raise, so that `with` blocks and `finally` clauses clean up. Whatever becomes of that exception on its way (a
    library may turn it into another in the middle of an import), the exit code is the signal's.

    Raises:
        SystemExit: always, if the command did not end by itself.
    """
    from quark_eagle.errors import QuarkEagleError

    with signals.raising() as received:
        try:
            yield
        except BaseException as error:
            if received or isinstance(error, KeyboardInterrupt):
                signum = received[-1] if received else signal.SIGINT
                print("Interrupted." if signum == signal.SIGINT else "Terminated.", file=sys.stderr)
                raise SystemExit(128 + signum) from None
            if isinstance(error, QuarkEagleError):
                print(f"Error: {error}", file=sys.stderr)
                raise SystemExit(int(error.exit_code)) from None
            raise
