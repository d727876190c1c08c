"""A tiny draft and a trace of the calibration split, and a run over them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.quantize.calibration.run import CalibrationOptions, CalibrationRun
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.scheme import Scheme
from quark_eagle.trace.target_trace import TargetTrace
from tests.quantize.calibration.calibration_trace import write_calibration_trace

OpenRun = Callable[..., CalibrationRun]


@pytest.fixture(autouse=True)
def _quarks_own_warnings() -> Iterator[None]:
    """Of what Quark imports; the project's own stay errors elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.fixture(scope="session")
def calibration_trace(tiny_draft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve prompts of the calibration split. Read it, never write to it."""
    return write_calibration_trace(
        tmp_path_factory.mktemp("calibration") / "trace", tiny_draft, num_prompts=12, num_generated=12
    )


@pytest.fixture
def open_run(tiny_draft: Path, calibration_trace: Path, tmp_path: Path) -> OpenRun:
    """Opens a calibration of the tiny draft; the state lies in the test's own directory."""

    def opened(
        options: CalibrationOptions | None = None,
        *,
        trace: Path | None = None,
        scheme: Scheme = Scheme.FP8,
        quantize_fc: bool = True,
    ) -> CalibrationRun:
        checkpoint = Checkpoint.open(tiny_draft)
        layout = Eagle3Layout.of(checkpoint)
        plan = QuantPlan.of(layout, scheme, quantize_fc=quantize_fc)
        opened_trace = TargetTrace.open(trace or calibration_trace)
        return CalibrationRun.open(checkpoint, layout, plan, opened_trace, tmp_path / ".state", options)

    return opened
