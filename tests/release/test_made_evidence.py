"""The made-up bundles are what they pretend to be, or the tests that read them would prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quark_eagle.release.binding import checkpoint_files, unbound
from tests.release.made_evidence import VARIANTS, evidence_of, write_bundle

Bundle = Callable[[str], Path]


@pytest.mark.parametrize("variant", VARIANTS)
def test_evidence_is_bound_to_the_draft_that_lies_beside_it(made_bundle: Bundle, variant: str) -> None:
    bundle = made_bundle(variant)
    assert unbound(evidence_of(bundle), checkpoint_files(bundle)) == []


@pytest.mark.parametrize(("variant", "outcome"), [("override", "fail"), ("pass", "pass"), ("served", "pass")])
def test_the_verdict_is_that_of_the_counts(made_bundle: Bundle, variant: str, outcome: str) -> None:
    assert evidence_of(made_bundle(variant)).verdict.outcome == outcome


def test_a_bundle_is_the_same_bytes_whenever_it_is_made(made_bundle: Bundle, tmp_path: Path) -> None:
    again, first = write_bundle(tmp_path / "tiny-eagle3-fp8", "static"), made_bundle("static")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [path for path in files if (first / path).read_bytes() != (again / path).read_bytes()] == []
