"""On what the evidence was measured, and whether that is where a verdict is asked for.

FP8 is not one arithmetic: gfx950 (MI355X) multiplies e4m3fn as it is stored, gfx942 (MI300X) converts it to e4m3fnuz at
load, and a CPU computes with widened values. A verdict for one of them takes nothing that another computed.
"""

from __future__ import annotations

import re

from quark_eagle.documents.parity import ParityReport

UNKNOWN = "unknown"


def measured_on(report: ParityReport) -> dict[str, str]:
    """Every part of the evidence that a machine computed, and the arch of that machine.

    A trace that was recorded before traces said their arch is `UNKNOWN`.
    """
    provenance = report.provenance
    computed = "served" if provenance.trace is None else "replayed"
    parts = {f"the drafts were {computed}": provenance.arch}
    if provenance.trace is not None:
        parts["the trace was recorded"] = str(provenance.recorded_with.get("arch", UNKNOWN))
    if provenance.stored_baseline is not None:
        parts["the baseline's counts were measured"] = provenance.stored_baseline.arch
    return parts


def is_arch(wanted: str, found: str) -> bool:
    """Whether a machine's arch, as evidence tells it, names the wanted one.

    >>> is_arch("gfx950", "x86_64 AVX512, gfx950:sramecc+:xnack-"), is_arch("gfx950", "x86_64 AVX2")
    (True, False)
    >>> is_arch("gfx94", "gfx942")
    False
    """
    return wanted.lower() in re.split(r"[\s,:;]+", found.lower())


def measured_elsewhere(report: ParityReport, wanted: str) -> list[str]:
    """What of the evidence another arch than the wanted one computed, in words; empty if nothing."""
    return [f"{part} on {found}" for part, found in measured_on(report).items() if not is_arch(wanted, found)]
