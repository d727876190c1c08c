"""Evidence from one arch decides nothing for another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quark_eagle.documents.parity import ParityReport, StoredBaseline
from quark_eagle.model.fp8_product import gpu_arch
from quark_eagle.parity.arch import is_arch, measured_on
from quark_eagle.parity.gate import gate
from quark_eagle.parity.verdict import Rules, judge
from quark_eagle.trace.device import arch_of
from tests.reports import AT_PAR, report

MI355X = "x86_64 AVX512, gfx950"
CPU = "x86_64 AVX2"
NEEDED = Rules(require_arch="gfx950")


def measured(replayed: str, recorded: str | None, stored: str | None = None) -> ParityReport:
    """A report at par whose parts were measured on these machines."""
    found = report(AT_PAR)
    changes: dict[str, Any] = {
        "arch": replayed,
        "recorded_with": {} if recorded is None else {"arch": recorded},
    }
    if stored is not None:
        changes["stored_baseline"] = StoredBaseline(
            file="baseline.json", sha256="0" * 64, created="2026-01-02", engine="tests", arch=stored, noted=[]
        )
    return found.model_copy(update={"provenance": found.provenance.model_copy(update=changes)})


def served(arch: str) -> ParityReport:
    """A report whose drafts an engine served: there is no trace."""
    found = measured(arch, None)
    changes = {"trace": None, "trace_sha256": None}
    return found.model_copy(update={"provenance": found.provenance.model_copy(update=changes)})


@pytest.mark.parametrize("found", [measured(MI355X, MI355X), measured(MI355X, MI355X, MI355X), served("gfx950")])
def test_evidence_from_the_required_arch_is_judged(found: ParityReport) -> None:
    assert judge(found, NEEDED).outcome == "pass"


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (measured(CPU, MI355X), f"the drafts were replayed on {CPU}"),
        (measured(MI355X, CPU), f"the trace was recorded on {CPU}"),
        (measured(MI355X, None), "the trace was recorded on unknown"),
        (measured(MI355X, MI355X, CPU), f"the baseline's counts were measured on {CPU}"),
        (served("gfx942"), "the drafts were served on gfx942"),
        (served("x86_64 AVX512"), "the drafts were served on x86_64 AVX512"),
    ],
)
def test_a_part_from_elsewhere_makes_it_unusable_and_is_named(found: ParityReport, told: str) -> None:
    judged = judge(found, NEEDED)
    assert (judged.outcome, judged.rule) == ("unusable", "evidence")
    assert judged.reason.startswith(f"All of the evidence was wanted from gfx950, but {told}. ")
    assert judge(found, Rules()).outcome == "pass"


def test_all_parts_from_elsewhere_are_named_at_once() -> None:
    reason = judge(measured(CPU, CPU, CPU), NEEDED).reason
    assert reason.count(CPU) == len(measured_on(measured(CPU, CPU, CPU))) == 3


def test_an_arch_is_a_whole_word() -> None:
    assert is_arch("GFX950", MI355X)
    assert not is_arch("gfx95", MI355X)
    assert not is_arch("", CPU)


def test_the_verdict_records_what_was_required() -> None:
    verdict = gate(measured(CPU, CPU), NEEDED, parity=Path("parity.json"))
    assert (verdict.required_arch, verdict.outcome, verdict.exit_code) == ("gfx950", "unusable", 5)


def test_arch_of_a_gpu_names_it_beside_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's builds for ROCm and for CUDA describe a device; recorded."""
    import torch

    class Mi355x:
        gcnArchName = "gfx950:sramecc+:xnack-"
        major, minor = 9, 5

    class H200:
        major, minor = 9, 0

    for properties, name in ((Mi355x, "gfx950"), (H200, "sm_90")):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, it=properties: it())
        gpu_arch.cache_clear()
        assert arch_of("cuda:0") == f"{arch_of('cpu')}, {name}"
        assert is_arch(name, arch_of("cuda:0"))
    gpu_arch.cache_clear()
