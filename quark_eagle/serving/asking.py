"""Asking a Python for facts: a script of ours run by it, whose last line of output that is JSON is the answer."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from quark_eagle.errors import EngineError

_SECONDS = 300.0  # torch's first import on a cold network disk
_LAST_LINES = 12
_SHOWN = 80  # characters of an answer that is none


def ask(command: list[str], what: str, advice: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a script answers, run in a process of its own.

    Args:
        command: interpreter, script and arguments.
        what: is asked, for an error: "for its version".
        advice: for an error.
        environment: variables over ours.

    Raises:
        EngineError: it could not be run, failed, or said nothing; with its last lines.
    """
    try:
        answered = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{command[0]}: could not be asked {what} ({error}). {advice}") from error
    lines = answered.stdout.strip().splitlines()
    if answered.returncode or not lines:
        last = "\n".join((answered.stderr or answered.stdout).strip().splitlines()[-_LAST_LINES:])
        raise EngineError(
            f"{command[0]}: asked {what}, it ended with {answered.returncode}. Its last lines:\n{last}\n{advice}"
        )
    for line in reversed(lines):  # a library may print on its way out
        with suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict):
                return answer
    raise EngineError(
        f"{command[0]}: asked {what}, it said {lines[-1][:_SHOWN]!r}, but a line of JSON was needed. Is this a Python? "
        f"{advice}"
    )
