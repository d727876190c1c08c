"""A verdict is what its counts give: worked out again it is the same, and a number that was changed is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.documents.verdict import STATED, Bias
from quark_eagle.release import contents
from quark_eagle.release.binding import Mismatch
from quark_eagle.release.evidence import Given
from quark_eagle.release.rejudging import contradicted, misjudged, rejudged
from tests.release.made_out import measured_again, rewrite
from tests.reports import AT_PAR, UNCLEAR, WORSE, report, served_report, verdict_on

Bundle = Callable[[str], Path]
SHORT = AT_PAR[:80]


@pytest.fixture
def given(made_bundle: Bundle, tmp_path: Path) -> Given:
    """Evidence to change."""
    return Given.read(shutil.copytree(made_bundle("pass"), tmp_path / "bundle"))


def about(found: list[Mismatch]) -> set[str]:
    return {it.what for it in found}


def edited(given: Given, name: str, change: Callable[[dict[str, Any]], Any]) -> Given:
    path = given.directory / name
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return Given.read(given.directory)


RULES: dict[str, dict[str, Any]] = {
    "as usual": {},
    "a wider margin": {"margin": 0.02, "alpha": 0.1},
    "categories gate": {"category_margin": 0.03},
    "an expected baseline": {"expected_baseline": 2.0},
    "a stated bias": {"bias": Bias(bound=0.001, anchored=True, source=STATED)},
    "two looks": {"looks": 2},
    "another seed": {"seed": 7},
    "an arch": {"require_arch": "x86_64"},
}


def reword(content: dict[str, Any]) -> None:
    content["reason"] = "Said in another way."
    content["worth"]["sentence"] = "Worth something."
    content["causes"].append("The moon.")


def test_sentences_are_compared_where_this_version_worded_them(given: Given) -> None:
    assert about(misjudged(edited(given, contents.VERDICT, reword))) == {"reason", "worth.sentence", "causes.0"}


def test_another_versions_sentences_are_told_apart_and_never_passed_over(given: Given) -> None:
    def by_another(content: dict[str, Any]) -> None:
        reword(content)
        content["versions"]["quark_eagle"] = "0.0.1"
        content["difference"]["estimate"] += 0.001

    found = rejudged(edited(given, contents.VERDICT, by_another))
    assert about(found.mismatches) == {"difference.estimate"}
    assert about(found.reworded) == {"reason", "worth.sentence", "causes.0"}


@pytest.mark.parametrize("name", RULES)
def test_whatever_the_rules_the_verdict_names_them_all(given: Given, name: str) -> None:
    again = measured_again(given, report(SHORT), **RULES[name])
    assert misjudged(again) == []


@pytest.mark.parametrize("losses", [WORSE[:80], UNCLEAR, SHORT[:12]], ids=["fail", "inconclusive", "too few"])
def test_a_verdict_that_is_no_pass_is_worked_out_as_well(given: Given, losses: tuple[int, ...]) -> None:
    assert misjudged(measured_again(given, report(losses))) == []


def test_a_misread_draft_fails_again_if_verify_says_so_again(given: Given) -> None:
    failed = rewrite(given, verdict=verdict_on(given.parity, contents.PARITY, misread=["model.fc"]))
    assert misjudged(failed, ["model.fc"]) == []
    assert {"outcome", "exit_code", "rule", "reason"} <= about(misjudged(failed))


def test_what_an_engine_misreads_makes_no_number_of_a_passing_verdict_wrong(given: Given) -> None:
    """It is an objection of its own."""
    assert misjudged(given, ["model.fc"]) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("difference", "interval", "low"), -0.0001),
        (("difference", "second_interval", "high"), 0.5),
        (("difference", "estimate"), 0.02),
        (("difference", "candidate_num_accepted_tokens"), 1_000_000),
        (("power", "num_if_unchanged"), 1),
        (("bias", "bound"), 0.5),
    ],
)
def test_a_number_that_the_counts_do_not_give_is_named(given: Given, place: tuple[str, ...], value: float) -> None:
    def change(content: dict[str, Any]) -> None:
        for key in place[:-1]:
            content = content[key]
        assert content[place[-1]] != value
        content[place[-1]] = value

    assert ".".join(place) in about(misjudged(edited(given, contents.VERDICT, change)))


def test_a_failed_verdict_that_calls_itself_a_pass_is_found(given: Given) -> None:
    failed = measured_again(given, report(WORSE[:80]))
    passed = edited(failed, contents.VERDICT, lambda it: it.update(outcome="pass", exit_code=0))
    assert about(misjudged(passed)) == {"outcome", "exit_code"}


def test_sentences_are_part_of_a_verdict(given: Given) -> None:
    changed = edited(given, contents.VERDICT, lambda it: it.update(reason="τ is better in every way."))
    assert about(misjudged(changed)) == {"reason"}


def test_a_count_that_was_changed_changes_the_verdict_and_the_summary(given: Given) -> None:
    prompt = given.parity.prompts[0]
    walk = prompt.candidate.walk
    better = [walk[0] - 2, walk[1] + 1, *walk[2:]]  # as many tokens, one round fewer
    acceptance = prompt.candidate.model_copy(update={"walk": better})
    prompts = [prompt.model_copy(update={"candidate": acceptance}), *given.parity.prompts[1:]]
    changed = rewrite(given, parity=given.parity.model_copy(update={"prompts": prompts}))
    found = about(misjudged(changed))
    assert {"summary.overall.walk.candidate.num_drafts", "difference.candidate_num_drafts", "reason"} <= found


def test_a_summary_is_derived_from_the_prompts_and_from_nothing_else(given: Given) -> None:
    changed = edited(given, contents.PARITY, lambda it: it["summary"]["overall"].update(num_prompts=7))
    assert about(misjudged(changed)) == {"summary.overall.num_prompts"}


def test_what_fp8_is_worth_follows_from_the_bytes_of_a_step(given: Given) -> None:
    changed = edited(given, contents.VERDICT, lambda it: it["worth"].update(candidate_step_bytes=1, sentence="Much."))
    assert about(misjudged(changed)) == {"worth.candidate_step_bytes", "worth.sentence"}


def test_a_last_digit_may_be_rounded_otherwise_elsewhere(given: Given) -> None:
    def nudge(it: dict[str, Any]) -> None:
        it["difference"]["interval"]["low"] *= 1 + 1e-12

    assert misjudged(edited(given, contents.VERDICT, nudge)) == []


def test_verdicts_of_earlier_releases_are_worked_out_without_what_they_did_not_name(given: Given) -> None:
    def forget(it: dict[str, Any]) -> None:
        for difference in (it["difference"], *(category["difference"] for category in it["categories"])):
            del difference["degrees_of_freedom"]

    assert misjudged(edited(given, contents.VERDICT, forget)) == []


def test_rules_that_no_verdict_is_reached_by_are_a_finding_and_no_crash(given: Given) -> None:
    def spoil(it: dict[str, Any]) -> None:
        it["difference"]["num_resamples"] = 3

    found = misjudged(edited(given, contents.VERDICT, spoil))
    assert about(found) == {"its rules"}
    assert "3 resamples" in found[0].found


def test_a_second_measurement_bears_out_or_speaks_against(given: Given) -> None:
    def beside(losses: Sequence[int]) -> str | None:
        (given.directory / contents.SERVED).write_text(served_report(losses).to_json(), encoding="utf-8")
        return contradicted(Given.read(given.directory))

    assert contradicted(given) is None
    assert beside(SHORT) is None
    against = beside(WORSE[:80])
    assert against is not None
    assert against.startswith(f"{contents.SERVED}: fail: ")
