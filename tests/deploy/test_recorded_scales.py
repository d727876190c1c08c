"""The scales in a draft and those in its record are one set of numbers, and a damaged record never hides that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.manifest import RECORD_NAME
from quark_eagle.deploy.verify import VerifyReport, verify
from tests.deploy.test_static_scales import static_draft

LAYER = "layers.0"
FOUND = 0.0123


def told(report: VerifyReport) -> str:
    return "\n".join(f"{finding.subject}: {finding.message}" for finding in report.errors)


def recorded(checkpoint: Path) -> dict[str, Any]:
    """A record of exactly what the draft holds, read off the file by names that are spelled out here."""
    from safetensors.torch import load_file

    scales: dict[str, dict[str, float]] = {"inputs": {}, "keys": {}, "values": {}}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        module, _, last = name.rpartition(".")
        if last == "input_scale":
            scales["inputs"][module.replace("midlayer", LAYER)] = float(tensor)
        elif last in ("k_scale", "v_scale"):
            scales["keys" if last == "k_scale" else "values"]["0"] = float(tensor)
    assert all(scales.values())
    return scales


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    return static_draft().write(tmp_path)


def write_record(draft: Path, scales: object) -> None:
    (draft / RECORD_NAME).write_text(json.dumps({"activation_scales": scales}))


def test_a_draft_that_holds_what_its_record_says_passes(draft: Path) -> None:
    write_record(draft, recorded(draft))
    assert told(verify(draft)) == ""


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff",
        b"[]",
        b'{"activation_scales": [1]}',
        b'{"activation_scales": {"inputs": [1]}}',
        b'{"activation_scales": {"keys": [0.1]}}',
        b'{"activation_scales": {"values": {"0": "0.1"}}}',
        b'{"activation_scales": {"values": {"0": 1e300}}}',
        b'{"activation_scales": {"values": {"0": NaN}}}',
    ],
)
def test_a_damaged_record_is_an_error_and_no_traceback(draft: Path, content: bytes) -> None:
    (draft / RECORD_NAME).write_bytes(content)
    (finding,) = verify(draft).errors
    assert finding.subject == RECORD_NAME
    assert "Restore it, or quantize again." in finding.message


def test_a_record_that_cannot_be_read_is_an_error_and_no_traceback(draft: Path) -> None:
    (draft / RECORD_NAME).mkdir()
    assert f"{RECORD_NAME}: cannot be read" in told(verify(draft))


@pytest.mark.parametrize("part", ["inputs", "keys", "values"])
def test_a_scale_of_another_size_than_was_found_is_an_error(draft: Path, part: str) -> None:
    scales = recorded(draft)
    where = next(iter(scales[part]))
    scales[part][where] *= 10
    write_record(draft, scales)
    assert "says that a calibration found" in told(verify(draft))


@pytest.mark.parametrize("part", ["inputs", "keys", "values"])
def test_a_scale_that_the_record_does_not_know_is_an_error(draft: Path, part: str) -> None:
    scales = recorded(draft)
    num_injected = len(scales[part])
    scales[part] = {}
    write_record(draft, scales)
    errors = verify(draft).errors
    assert len([it for it in errors if "knows of no scale for it" in it.message]) == num_injected == len(errors)


def test_scales_beside_a_record_of_none_are_errors(draft: Path) -> None:
    write_record(draft, None)
    num_scales = sum(map(len, recorded(draft).values()))
    assert len(verify(draft).errors) == num_scales


@pytest.mark.parametrize(("part", "where"), [("inputs", "fc"), ("keys", "1"), ("values", "1")])
def test_a_recorded_scale_that_is_gone_is_an_error(draft: Path, part: str, where: str) -> None:
    scales = recorded(draft)
    scales[part][where] = FOUND
    write_record(draft, scales)
    assert told(verify(draft)) == (
        f"{RECORD_NAME}: says that a calibration found {FOUND:g} for {part}.{where}, but the draft loads no such one. "
        "Quantize again."
    )


def test_the_whole_cache_cannot_lose_its_scales_unseen(tmp_path: Path) -> None:
    """Undeclared and gone, the rules alone take the draft for one that never had any."""
    whole = static_draft()
    scales = recorded(whole.write(tmp_path / "whole"))
    for name in ("self_attn.k_scale", "self_attn.v_scale"):
        whole.drop(name)
    whole.quant["layer_quant_config"] = {}
    whole.quant["export"]["kv_cache_group"] = []
    stripped = whole.write(tmp_path / "stripped")
    assert told(verify(stripped)) == ""
    write_record(stripped, scales)
    gone = told(verify(stripped)).splitlines()
    assert ["keys.0" in gone[0], "values.0" in gone[1], len(gone)] == [True, True, 2]
