"""ConfigKeys: sizes read from a config, everything that is wrong with it noted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ConfigKeys:
    """Reads sizes from a config, and notes each one that is missing or senseless instead of stopping.

    Conflicts between two sizes are noted apart: where one of them is missing, they mean nothing.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.problems: list[str] = []
        self.conflicts: list[str] = []

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer; 1 stands in for one that is wrong, so that reading can go on."""
        found = self.config.get(key)
        if found is None and default is not None:
            return default
        if found is None:
            self.problems.append(f"{key} is missing, and a size is never guessed.")
        elif isinstance(found, bool) or not isinstance(found, int) or found < 1:
            self.problems.append(f"{key} is {found!r}, but a positive integer was needed.")
        else:
            return found
        return 1

    def positive_number(self, key: str) -> float:
        """A number above 0; 1 stands in for one that is wrong."""
        found = self.config.get(key)
        if found is None:
            self.problems.append(f"{key} is missing, and the norms depend on it.")
        elif isinstance(found, bool) or not isinstance(found, int | float) or not found > 0:
            self.problems.append(f"{key} is {found!r}, but a positive number was needed.")
        else:
            return float(found)
        return 1.0
