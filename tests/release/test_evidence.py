"""Evidence is read from the bundle alone, all of it or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quark_eagle.checkpoint.manifest import RECORD_NAME
from quark_eagle.errors import QuarkEagleError
from quark_eagle.release import contents
from quark_eagle.release.evidence import Evidence, Given

Bundle = Callable[[str], Path]


def test_measurements_are_known_by_their_files_the_judged_one_first(made_bundle: Bundle) -> None:
    assert list(Evidence.read(made_bundle("pass")).reports) == [contents.PARITY]
    served = Evidence.read(made_bundle("served"))
    assert list(served.reports) == [contents.PARITY, contents.REPLAYED]
    assert served.parity.served is not None
    assert Evidence.read(made_bundle("static")).calibration is not None


def test_everything_that_is_missing_or_damaged_is_said_at_once(made_bundle: Bundle, tmp_path: Path) -> None:
    bundle = shutil.copytree(made_bundle("pass"), tmp_path / "bundle")
    (bundle / contents.RELEASE).unlink()
    (bundle / contents.VERIFICATION).write_text("[]")
    (bundle / contents.PARITY).write_text("{}")
    (bundle / RECORD_NAME).write_text(json.dumps({"plan": {}, "input": {}}))
    with pytest.raises(QuarkEagleError) as error:
        Evidence.read(bundle)
    for part in (
        f"{contents.RELEASE} is missing.",
        f"{contents.VERIFICATION}: holds no JSON object.",
        f"{contents.PARITY}: ",
        f"{RECORD_NAME}: ",
        "output is missing, or no dict.",
    ):
        assert part in str(error.value)
    with pytest.raises(QuarkEagleError) as error:
        Given.read(bundle)
    assert contents.RELEASE not in str(error.value)  # not given, but made


@pytest.mark.parametrize(
    "plan", [{}, {"decisions": {}}, {"decisions": [{"tensor": "fc.weight", "action": None, "reason": ""}]}]
)
def test_a_plan_decides_about_each_tensor(made_bundle: Bundle, tmp_path: Path, plan: dict[str, object]) -> None:
    bundle = shutil.copytree(made_bundle("pass"), tmp_path / "bundle")
    record = json.loads((bundle / RECORD_NAME).read_text(encoding="utf-8"))
    (bundle / RECORD_NAME).write_text(json.dumps(record | {"plan": plan}))
    with pytest.raises(QuarkEagleError, match="its plan has no decision for each tensor"):
        Evidence.read(bundle)


def test_whoever_checks_a_bundle_reads_its_evidence_without_torch() -> None:
    asked = "import sys, quark_eagle.release.evidence, quark_eagle.release.binding; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout == "False\n"
