"""What a user sees of a live load; the load itself is one of the many."""

from __future__ import annotations

import json
from dataclasses import replace

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


@pytest.mark.parametrize(
    ("name", "scheme", "elsewhere"),
    [
        ("static, a scale for each weight", "fp8", "ROCm or CUDA"),
        ("static, with a scaled cache", "fp8", "ROCm or CUDA"),
        ("static, a scale for each row", "fp8_channel_static", "CUDA"),
    ],
)
def test_on_a_cpu_a_static_scheme_neither_passes_nor_fails(
    loads: dict[str, Loaded], monkeypatch: pytest.MonkeyPatch, name: str, scheme: str, elsewhere: str
) -> None:
    loaded = loads[name]
    monkeypatch.setattr("quark_eagle.deploy.live_report.live_load", lambda *args, **options: loaded.live)

    shown, document = run(loaded.directory, "--engine", "vllm"), run(loaded.directory, "--engine", "vllm", "--json")

    assert shown.exit_code == document.exit_code == 4, shown.output
    assert "INCONCLUSIVE: " in shown.stdout
    assert f"{scheme}: vLLM 0.32.0 cannot run it on CPU" in " ".join(shown.stdout.split())
    told = json.loads(document.stdout)
    assert (told["verdict"], told["num_errors"]) == ("inconclusive", 0)
    (unasked,) = told["left_open"]
    assert unasked.endswith(f"Ask on {elsewhere}.")


def test_what_is_wrong_with_a_static_draft_is_said_on_a_cpu_too(
    loads: dict[str, Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loads["static: no input scale"]
    monkeypatch.setattr("quark_eagle.deploy.live_report.live_load", lambda *args, **options: loaded.live)
    assert run(loaded.directory, "--engine", "vllm").exit_code == 3


def test_where_the_scheme_runs_nothing_is_left_open(loads: dict[str, Loaded], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same load, had it been on an MI355X."""
    loaded = loads["static, a scale for each weight"]
    assert loaded.live is not None
    live = replace(loaded.live, arch="gfx950", ready=True, failure="")
    monkeypatch.setattr("quark_eagle.deploy.live_report.live_load", lambda *args, **options: live)
    assert run(loaded.directory, "--engine", "vllm").exit_code == 0
