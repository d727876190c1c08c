"""How counts and rates are printed."""

from __future__ import annotations


def count(number: int) -> str:
    """A count with its thousands apart.

    >>> count(61204)
    '61 204'
    """
    return f"{number:,}".replace(",", " ")


def rate(value: float | None) -> str:
    """A rate to three places; a dash where nothing was counted."""
    return "–" if value is None else f"{value:.3f}"
