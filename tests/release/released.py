"""A tiny draft, released for real: bundles to be checked, and to be tampered with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.parity.side import Side
from quark_eagle.release.bundle import Naming, Order, Released, release
from quark_eagle.release.collecting import Sources
from quark_eagle.release.contents import PARITY
from quark_eagle.release.examining import Leave
from quark_eagle.release.signature import PrivateKey
from tests.quantize.conftest import StandIn, quantize
from tests.release import keys
from tests.reports import AT_PAR, report, verdict_on
from tests.tiny import write_tiny_draft


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A draft and what was measured of it, beside each other."""

    draft: Path
    output: Path
    parity: Path
    verdict: Path


def give(directory: Path, losses: tuple[int, ...] = AT_PAR, **draft: Any) -> Given:
    """A tiny draft in BF16 and FP8, and made-up counts of the two; ``draft`` is as `tests.tiny` takes it."""
    directory.mkdir(parents=True, exist_ok=True)
    baseline = write_tiny_draft(directory / "tiny-eagle3", **draft)
    output = directory / "tiny-eagle3-fp8"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quark_eagle.quantize.stage.load_quark", lambda scheme: StandIn())
        quantize(baseline, output)
    measured = report(losses).model_copy(
        update={"baseline": Side.open(baseline).arm(), "candidate": Side.open(output).arm()}
    )
    given = Given(draft=baseline, output=output, parity=directory / "parity.json", verdict=directory / "verdict.json")
    given.parity.write_text(measured.to_json(), encoding="utf-8")
    given.verdict.write_text(verdict_on(measured, PARITY).to_json(), encoding="utf-8")
    return given


def release_tiny(given: Given, bundle: Path, signer: keys.Key | None = None, **naming: Any) -> Path:
    """Releases what was given, whatever its verdict; a signer's public key then lies beside it, as BUNDLE.pem."""
    by = None
    if signer is not None:
        keys.write_public(signer, bundle.with_name(f"{bundle.name}.pem"))
        by = PrivateKey(path=keys.write_private(signer, bundle.with_name(f"{bundle.name}.key")))
    names: Mapping[str, Any] = {"name": "tiny-eagle3-fp8", "license": "mit", "target": "tiny-target", **naming}
    made = release(
        Order(
            sources=Sources.of(given.output, parity=[given.parity], verdict=given.verdict),
            source=given.draft,
            naming=Naming(**names),
            leave=Leave(required_arch=None, publish_anyway=True),
            signer=by,
        ),
        bundle,
    )
    assert isinstance(made, Released), made
    return bundle
