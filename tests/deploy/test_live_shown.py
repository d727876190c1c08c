"""What a user sees of a live load; the load itself is one of the many."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from quark_eagle.cli.app import app
from tests.deploy.many_loads import Loaded

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def test_the_engines_parameters_are_shown_with_what_is_wrong(
    loads: dict[str, Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loads["servable draft as Quark exports it"]
    monkeypatch.setattr("quark_eagle.deploy.live_report.live_load", lambda *args, **options: loaded.live)

    shown, document = run(loaded.directory, "--engine", "vllm"), run(loaded.directory, "--engine", "vllm", "--json")

    assert shown.exit_code == document.exit_code == 3
    assert "ERROR fc.weight: is BF16, and model.fc.weight is F8_E4M3: vLLM casts it silently." in shown.stdout
    assert "BROKEN: 3 errors. Do not serve it with vLLM 0.32.0." in shown.stdout
    live = json.loads(document.stdout)["live"]
    fc = next(each for each in live["parameters"] if each["name"] == "model.fc.weight_scale")
    assert fc["unwritten"] == [[0, 64]]


def test_a_good_draft_in_the_engine_names_the_next_command(
    loads: dict[str, Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loads["servable MLA draft"]
    monkeypatch.setattr("quark_eagle.deploy.live_report.live_load", lambda *args, **options: loaded.live)

    result = run(loaded.directory, "--engine", "vllm")

    assert result.exit_code == 0, result.output
    assert "OK: 21 parameters in vLLM 0.32.0 hold what the file holds." in result.stdout
    assert "shared with the target" in result.stdout
    assert f"quark-eagle verify {loaded.directory} --source DRAFT" in result.stdout
