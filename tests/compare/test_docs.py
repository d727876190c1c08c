"""docs/explanation/schemes.md says of each scheme what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quark_eagle.quantize.scheme import Scheme


@pytest.mark.parametrize("scheme", Scheme)
def test_the_page_says_who_runs_a_scheme_and_what_it_needs(repository: Path, scheme: Scheme) -> None:
    page = (repository / "docs" / "explanation" / "schemes.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| `{scheme.value}` \|(.*)\|$", page, flags=re.MULTILINE)
    assert found
    weights, activations, needs, devices = (cell.strip() for cell in found[1].split("|"))
    assert weights == ("one scale per tensor" if scheme.weight == "per_tensor" else "a scale per output channel")
    assert activations.startswith("a scale per token" if scheme.activation == "per_token" else "one static scale")
    assert needs == ("a calibration" if scheme.needs_calibration else "nothing")
    runs = [it.device for it in scheme.engines if it.engine.startswith("vLLM") and it.runs]
    assert devices.split(";")[0].split(", ") == runs
