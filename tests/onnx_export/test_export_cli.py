"""`quark-eagle export-onnx`: what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from quark_eagle.onnx_export import operators
from tests.onnx_export.quantized import write_fp8_draft
from tests.tiny import write_tiny_draft
from tests.tiny_trace import write_tiny_trace


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(FP8 draft, trace)."""
    directory = tmp_path_factory.mktemp("cli")
    bf16 = write_tiny_draft(directory / "bf16")
    trace = write_tiny_trace(directory / "trace", bf16, num_prompts=2, num_generated=12)
    return write_fp8_draft(bf16, directory / "fp8"), trace


def test_it_says_that_the_draft_is_equal(pair: tuple[Path, Path], tmp_path: Path) -> None:
    draft, trace = pair
    done = CliRunner().invoke(app, ["export-onnx", str(draft), "-o", str(tmp_path / "onnx"), "--check", str(trace)])
    assert done.exit_code == 0, done.output
    assert "EQUAL: 60 of 60 proposals" in done.stdout
    assert "past_key_values.0.key" in done.stdout
    assert (tmp_path / "onnx" / "step.onnx").is_file()


def test_json_is_one_object(pair: tuple[Path, Path], tmp_path: Path) -> None:
    draft, trace = pair
    arguments = ["export-onnx", str(draft), "-o", str(tmp_path / "onnx"), "--check", str(trace), "--json"]
    done = CliRunner().invoke(app, arguments)
    found = json.loads(done.stdout)
    assert found["is_published"] is True
    assert found["agreement"]["num_equal"] == found["agreement"]["num_proposals"] == 60
    assert [graph["file"] for graph in found["graphs"]] == ["combine.onnx", "step.onnx"]


def test_a_difference_ends_with_3_and_nothing_is_written(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "SMALLEST_ACTIVATION_SCALE", 1.0)  # coarser than any activation here
    draft, trace = pair
    done = CliRunner().invoke(app, ["export-onnx", str(draft), "-o", str(tmp_path / "onnx"), "--check", str(trace)])
    assert done.exit_code == 3
    assert "DIFFERENT" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_the_remedy(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quark_eagle.cli.export_onnx.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["export-onnx", str(pair[0]), "-o", str(tmp_path / "onnx")])
    assert done.exit_code == 2
    assert "pip install 'quark-eagle[onnx]'" in done.stderr
