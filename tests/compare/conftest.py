"""A trace of the splits "selection" and "calibration" for the tiny draft, and a comparison of all schemes on them."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from quark_eagle.compare.run import SchemeComparison
from quark_eagle.documents.schemes import SchemesReport
from quark_eagle.trace.trace_document import TracedPromptInfo
from tests.quantize.calibration.calibration_trace import relabel, write_calibration_trace
from tests.tiny_trace import write_tiny_trace


def as_selection(info: TracedPromptInfo) -> TracedPromptInfo:
    sha256 = hashlib.sha256(b"selection " + info.id.encode()).hexdigest()
    return replace(info, split="selection", sha256=sha256)


@pytest.fixture(scope="session")
def selection_trace(tiny_draft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve prompts of the split selection. Read it, never write to it."""
    directory = tmp_path_factory.mktemp("selection") / "trace"
    return relabel(write_tiny_trace(directory, tiny_draft, num_prompts=12, num_generated=24, seed=1), as_selection)


@pytest.fixture(scope="session")
def calibration_trace(tiny_draft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four prompts of the split calibration. Read it, never write to it."""
    return write_calibration_trace(tmp_path_factory.mktemp("calibration") / "trace", tiny_draft, num_prompts=4)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the comparison of `report` left: the quantized drafts, under their names."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="session")
def report(
    real_quark: None, tiny_draft: Path, selection_trace: Path, calibration_trace: Path, kept: Path
) -> SchemesReport:
    """All three schemes, calibrated by AMD Quark."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what Quark imports
        comparison = SchemeComparison.open(tiny_draft, selection_trace, calibration_trace)
        return comparison.run(kept, keep=True, command_line=["quark-eagle", "compare-schemes"])
