"""Everything that a Python has, pinned as it is: constraints with which pip adds packages and changes none.

    python tools/image_constraints.py > constraints.txt
    python -m pip install --constraint constraints.txt ...

Like `pip freeze`, but for what freeze cannot pin: a package that was installed from a file or a URL (`torch @
file:///install/torch.whl`, as images are built) or in editable mode is held by its version, for pip would look for the
file again. Run by the Python that is to stay as it is; it needs nothing but the standard library.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions

OURS = "quark-eagle"  # being installed, so not held
# A version as pip understands it (PEP 440, loosely): one that it does not would spoil the whole file.
_VERSION = re.compile(r"v?(\d+!)?\d+(\.\d+)*[-_.a-z0-9]*(\+[a-z0-9]+([-_.][a-z0-9]+)*)?", flags=re.IGNORECASE)


def canonical(name: str) -> str:
    """A distribution's name as pip compares names (PEP 503).

    >>> canonical("Torch_Vision.CPU")
    'torch-vision-cpu'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(found: Iterable[tuple[str | None, str | None]]) -> list[str]:
    """Constraints that hold every package, sorted by name.

    Args:
        found: (name, version) in the order of ``sys.path``: where a name comes twice, the first is what is imported.

    >>> pins([("torch", "2.9.0+rocm7.0"), ("AMD_AITER", "0.1.7"), ("torch", "2.8.0"), (None, "1"), ("odd", "unknown")])
    ['# odd: version unknown cannot be pinned', 'amd-aiter==0.1.7', 'torch==2.9.0+rocm7.0']
    """
    held: dict[str, str] = {}
    for name, version in found:
        if name and canonical(name) != OURS:
            held.setdefault(canonical(name), version or "unknown")
    return sorted(
        f"{name}=={version}" if _VERSION.fullmatch(version) else f"# {name}: version {version} cannot be pinned"
        for name, version in held.items()
    )


def _named(it: Distribution) -> tuple[str | None, str | None]:
    """Name and version; None where its metadata is broken."""
    metadata = it.metadata
    return (metadata["Name"], metadata["Version"]) if metadata is not None else (None, None)


if __name__ == "__main__":
    sys.stdout.write("".join(f"{line}\n" for line in pins(map(_named, distributions()))))
