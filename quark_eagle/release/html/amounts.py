"""How sizes are written."""

from __future__ import annotations

from quark_eagle.reporting.wording import NOTHING

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def size(num_bytes: int) -> str:
    """Bytes as people say them.

    >>> size(19_730_944), size(2_000), size(12)
    ('19.7 MB', '2.0 kB', '12 B')
    """
    for unit, name in _UNITS:
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes} B"


def change(before: int, after: int) -> str:
    """By how much a size changed; a dash where there was nothing.

    >>> change(100, 77)
    '-23.0%'
    """
    return f"{after / before - 1:+.1%}" if before else NOTHING
