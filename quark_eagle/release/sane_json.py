"""Whether a JSON file could have been written by a release, before anything reads it for what it says.

A bundle comes from anywhere. What Python's reader lets through (NaN, a number of 4000 digits, a name twice, half a
character, brackets inside each other until the stack ends) would otherwise surface where nobody expects it.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from quark_eagle.release.checksums import shown

DEEPEST = 64
LARGEST_BYTES = 1 << 30
_LARGEST_INTEGER = 1 << 63
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


def problem(path: Path) -> str | None:
    """What is wrong with the JSON in a file; None if nothing.

    Raises:
        OSError: it may not be read.
    """
    if (size := path.stat().st_size) > LARGEST_BYTES:
        return f"has {size} bytes, which no evidence has"
    try:
        text = path.read_bytes().decode("utf-8")
        _require_shallow(text)
        _require_sane(json.loads(text, object_pairs_hook=_each_once, parse_constant=_refuse))
    except RecursionError:
        return "is nested too deep"
    except ValueError as error:
        return f"is not JSON that a release writes ({shown(str(error)[:200])})"
    return None


def _require_shallow(text: str) -> None:
    """Raises: RecursionError on brackets so deep that a reader may not come back."""
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEEPEST:
            raise RecursionError


def _require_sane(content: Any) -> None:
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            value.encode("utf-8")  # half a surrogate pair is a ValueError
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError("a number is not finite")
        elif isinstance(value, int) and abs(value) >= _LARGEST_INTEGER:
            raise ValueError("a number has more than 63 bits")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return content


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")
