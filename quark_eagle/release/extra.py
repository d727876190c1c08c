"""Extra: what a release is made and checked with, and a draft is quantized without: ``quark-eagle[release]``."""

from __future__ import annotations

from importlib.util import find_spec

from quark_eagle.errors import UsageError

PACKAGES = {"jinja2": "writes the report", "cyclonedx": "writes the bill of materials", "model_signing": "signs"}
"""By the name under which they are imported."""


def require_extra() -> None:
    """See that the optional packages are here, before anything that imports them is.

    Raises:
        UsageError: some are not.
    """
    missing = [f"{name} ({what})" for name, what in PACKAGES.items() if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)}: not installed, but a release needs all of them. Install them: "
            "pip install 'quark-eagle[release]'."
        )
