from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from tests.reports import AT_PAR, UNCLEAR, report, verdict_on


@pytest.fixture
def pilot(tmp_path: Path) -> Path:
    (tmp_path / "pilot.json").write_text(report(UNCLEAR).to_json(), encoding="utf-8")
    return tmp_path / "pilot.json"


def run(*args: str | Path | float) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["plan-prompts", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_usual_margins_and_the_wanted_one_are_shown_with_what_they_need(pilot: Path) -> None:
    code, out, err = run(pilot, "--margin", 0.03)
    assert (code, err) == (0, "")
    for words in ("0.50%", "1.00%", "2.00%", "3.00% *", "coding", "math", "at least 64, and 20 of a category"):
        assert words in out


def test_the_numbers_are_those_of_the_verdict(pilot: Path) -> None:
    _, out, _ = run(pilot, "--margin", 0.01, "--json")
    plans = {plan["margin"]: plan for plan in json.loads(out)["plans"]}
    power = verdict_on(report(UNCLEAR)).power
    assert power is not None
    assert plans[0.01] == pytest.approx(power.model_dump(mode="json"))


def test_half_the_margin_needs_about_four_times_as_many(pilot: Path) -> None:
    _, out, _ = run(pilot, "--margin", 0.01, "--json")
    small, usual = (plan["num_if_unchanged"] for plan in json.loads(out)["plans"][:2])
    assert small / usual == pytest.approx(4, rel=0.03)


def test_never_fewer_are_asked_for_than_the_gate_takes(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(report(AT_PAR[:40]).to_json(), encoding="utf-8")
    _, out, _ = run(tmp_path / "p.json", "--margin", 0.2)
    (row,) = (line.split() for line in out.splitlines() if line.startswith("20.00% *"))
    assert row[2:] == ["40", "64", "64"]
    (row,) = (line.split() for line in out.splitlines() if line.startswith("coding"))
    assert row[1:] == ["20", "20", "20"]
    assert "Measured on 40 conversations, too few to show any margin" in " ".join(out.split())


def test_one_conversation_has_no_variance_to_plan_from(tmp_path: Path) -> None:
    for name, losses in (("one", (0,)), ("none", ())):
        path = tmp_path / f"{name}.json"
        path.write_text(report(losses).to_json(), encoding="utf-8")
        code, out, err = run(path)
        assert (code, out) == (5, "")
        assert f"{path}: fewer than two conversations" in err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--margin", "0"), ("--margin", "nan"), ("--alpha", "0.5"), ("--power", "1"), ("--power", "0.1")],
)
def test_a_probability_out_of_its_range_is_wrong_usage(pilot: Path, option: str, value: str) -> None:
    code, _, err = run(pilot, option, value)
    assert code == 2
    assert f"{option} {value}: " in err
