"""environment.json: with what a draft was quantized, recorded, measured, judged and released. No host and no path."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from quark_eagle import __version__
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.release import Environment, MeasuredWith, RecordedWith
from quark_eagle.release.evidence import Given

_MAKES_THE_BUNDLE = ("numpy", "scipy", "safetensors", "torch", "huggingface-hub", "cyclonedx-python-lib", "jinja2")


def environment(given: Given, released: Mapping[str, str]) -> Environment:
    """What the evidence says of where it came from.

    Args:
        given: the evidence.
        released: versions of what makes the bundle.
    """
    return Environment(
        schema_version=1,
        quantized=_versions(given.record.get("versions")),
        recorded=_recorded(given),
        measured=_measured(given.parity),
        replayed=None if given.replayed is None else _measured(given.replayed),
        served=None if given.served is None else _measured(given.served),
        judged=given.verdict.versions,
        released=dict(released),
    )


def released_with() -> dict[str, str]:
    """Versions of what makes a bundle here."""
    found = {"quark_eagle": __version__, "python": platform.python_version()}
    for name in _MAKES_THE_BUNDLE:
        found[name] = metadata.version(name)
    return found


def _measured(report: ParityReport) -> MeasuredWith:
    provenance = report.provenance
    return MeasuredWith(
        measured_by=provenance.measured_by,
        arch=provenance.arch,
        engine=provenance.engine,
        dtype=provenance.dtype,
        versions=provenance.versions,
    )


def _recorded(given: Given) -> RecordedWith | None:
    """Of the trace that was replayed; None where all counts were served."""
    replayed = next((it for it in given.reports.values() if it.provenance.trace_sha256 is not None), None)
    if replayed is None:
        return None
    target, recorded = replayed.provenance.target, replayed.provenance.recorded_with
    arch = recorded.get("arch")
    return RecordedWith(
        arch=None if arch is None else str(arch),
        engine=str(target.get("engine", "unknown")),
        device=str(target.get("device", "unknown")),
        dtype=str(target.get("dtype", "unknown")),
        versions=_versions(recorded.get("versions")),
    )


def _versions(found: Any) -> dict[str, str]:
    return {str(name): str(version) for name, version in found.items()} if isinstance(found, Mapping) else {}
