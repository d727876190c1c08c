from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from quark_eagle.documents.arithmetic import Fp8Arithmetic
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.verdict import Verdict
from quark_eagle.errors import QuarkEagleError, StorageError, TraceMismatchError, UsageError
from quark_eagle.parity.compare import Comparison
from quark_eagle.parity.gate import first_look, gate, not_evaluated
from quark_eagle.parity.verdict import Rules
from tests.parity.counted import many
from tests.reports import AT_PAR, report

QUICK = {"num_resamples": 499}


@pytest.fixture(scope="module")
def measured(pair: tuple[Path, Path]) -> ParityReport:
    return Comparison.open(pair[0], pair[0], pair[1], walk_only=True).run()


def decided(
    measured: ParityReport, rules: Rules, *, num_prompts: int = 64, loss: float = 0.0, noise: int = 1
) -> Verdict:
    report = measured.model_copy(update={"prompts": many(num_prompts, loss=loss, noise=noise)})
    return gate(report, rules, parity=Path("parity.json"))


def written(verdict: Verdict, directory: Path) -> Path:
    path = directory / "first.json"
    path.write_text(verdict.to_json(), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("num_prompts", "loss", "outcome", "exit_code"),
    [(64, 0.0, "pass", 0), (64, 0.2, "fail", 3), (10, 0.0, "inconclusive", 4), (0, 0.0, "unusable", 5)],
)
def test_each_outcome_has_its_own_exit_code(
    measured: ParityReport, num_prompts: int, loss: float, outcome: str, exit_code: int
) -> None:
    verdict = decided(measured, Rules(margin=0.02, **QUICK), num_prompts=num_prompts, loss=loss)
    assert (verdict.outcome, verdict.exit_code) == (outcome, exit_code)


def test_a_verdict_whose_exit_code_contradicts_it_cannot_be_read(measured: ParityReport, tmp_path: Path) -> None:
    content = json.loads(decided(measured, Rules(**QUICK), num_prompts=10).to_json())
    (tmp_path / "verdict.json").write_text(json.dumps(content | {"outcome": "pass"}))
    with pytest.raises(QuarkEagleError, match="outcome pass has exit code 0, not 4"):
        Verdict.read(tmp_path / "verdict.json")


def test_a_verdict_holds_the_rules_and_the_evidence_it_stands_on(measured: ParityReport) -> None:
    verdict = decided(measured, Rules(margin=0.02, alpha=0.01, expected_baseline=1.5, **QUICK))
    assert (verdict.margin, verdict.alpha, verdict.expected_baseline) == (0.02, 0.01, 1.5)
    assert verdict.evidence is not None
    assert verdict.evidence.splits == {"parity": 64}
    assert verdict.evidence.baseline == measured.baseline


@pytest.mark.parametrize("written", [lambda text: text, lambda text: json.dumps(json.loads(text), indent=3)])
def test_the_evidence_is_known_by_the_bytes_of_its_file_however_they_were_written(
    measured: ParityReport, tmp_path: Path, written: Callable[[str], str]
) -> None:
    path = tmp_path / "parity.json"
    path.write_text(written(measured.to_json()), encoding="utf-8")
    evidence = gate(measured, Rules(**QUICK), parity=path).evidence
    assert evidence is not None
    assert evidence.parity_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_of_other_counts_is_not_taken_for_the_evidence(measured: ParityReport, tmp_path: Path) -> None:
    path = tmp_path / "parity.json"
    path.write_text(report(AT_PAR[:3]).to_json(), encoding="utf-8")
    evidence = gate(measured, Rules(**QUICK), parity=path).evidence
    assert evidence is not None
    assert evidence.parity_sha256 == hashlib.sha256(measured.to_json().encode()).hexdigest()


def test_other_counts_are_other_evidence(measured: ParityReport) -> None:
    one, other = (decided(measured, Rules(**QUICK), num_prompts=n).evidence for n in (10, 11))
    assert one is not None
    assert other is not None
    assert one.parity_sha256 != other.parity_sha256


def test_what_could_not_be_evaluated_is_unusable_and_says_why() -> None:
    verdict = not_evaluated(TraceMismatchError("recorded with other aux layers"), Rules())
    assert (verdict.outcome, verdict.exit_code, verdict.rule) == ("unusable", 5, "not evaluated")
    assert verdict.reason == "recorded with other aux layers"
    assert verdict.difference is None


def test_a_verdict_survives_being_written_and_read(measured: ParityReport, tmp_path: Path) -> None:
    verdict = decided(measured, Rules(**QUICK))
    assert Verdict.read(written(verdict, tmp_path)) == verdict


def test_a_planned_second_look_follows_an_inconclusive_first(measured: ParityReport, tmp_path: Path) -> None:
    rules = Rules(margin=0.005, looks=2, **QUICK)
    first = decided(measured, rules, noise=6)
    assert (first.outcome, first.looks.look) == ("inconclusive", 1)
    second = first_look(written(first, tmp_path), Rules(margin=0.005, **QUICK))
    assert (second.look.look, second.look.planned) == (2, 2)
    assert second.look.alpha_of_this_look == pytest.approx(0.025)
    assert second.look.first_look_sha256 is not None


def test_a_second_look_that_was_not_planned_is_refused(measured: ParityReport, tmp_path: Path) -> None:
    first = decided(measured, Rules(margin=0.005, **QUICK), noise=6)
    with pytest.raises(UsageError, match="it planned one look"):
        first_look(written(first, tmp_path), Rules(margin=0.005))


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_a_first_look_that_decided_is_the_last(measured: ParityReport, tmp_path: Path, loss: float) -> None:
    first = decided(measured, Rules(margin=0.05, looks=2, **QUICK), loss=loss)
    with pytest.raises(UsageError, match=rf"it decided: {first.outcome}\. Looking again"):
        first_look(written(first, tmp_path), Rules(margin=0.05))


def test_there_is_no_third_look(measured: ParityReport, tmp_path: Path) -> None:
    rules = Rules(margin=0.005, looks=2, first_look_sha256="0" * 64, **QUICK)
    with pytest.raises(UsageError, match="it was the second look already"):
        first_look(written(decided(measured, rules, noise=6), tmp_path), Rules(margin=0.005))


def test_a_second_look_by_other_rules_is_refused_with_all_of_them(measured: ParityReport, tmp_path: Path) -> None:
    first = decided(measured, Rules(margin=0.005, looks=2, **QUICK), noise=6)
    with pytest.raises(UsageError, match=r"(?s)margin was 0\.005, but 0\.02 .*alpha was 0\.05, but 0\.1 "):
        first_look(written(first, tmp_path), Rules(margin=0.02, alpha=0.1))


def test_a_second_look_at_the_same_evidence_is_refused(measured: ParityReport, tmp_path: Path) -> None:
    first = decided(measured, Rules(margin=0.005, looks=2, **QUICK), noise=6)
    second = first_look(written(first, tmp_path), Rules(margin=0.005, **QUICK))
    with pytest.raises(UsageError, match=r"prompts: wanted more than 64, found 64\."):
        decided(measured, second, noise=6)


def test_a_second_look_at_another_draft_is_refused(measured: ParityReport, tmp_path: Path) -> None:
    """The best of several candidates, each looked at once more, is not two looks."""
    first = decided(measured, Rules(margin=0.005, looks=2, **QUICK), noise=6)
    second = first_look(written(first, tmp_path), Rules(margin=0.005, **QUICK))
    other = measured.model_copy(
        update={"candidate": measured.candidate.model_copy(update={"weights_sha256": "0" * 64})}
    )
    with pytest.raises(UsageError, match="candidate weights: wanted"):
        decided(other, second, noise=6)


@pytest.mark.parametrize(
    ("field", "other"),
    [("kv_cache_dtype", "fp8"), ("products", "device"), ("activation_scales", "static"), ("kv_cache_scales", "1.0")],
)
def test_a_second_look_at_another_arithmetic_is_refused(
    measured: ParityReport, tmp_path: Path, field: str, other: str
) -> None:
    """A cache in FP8 is another draft to the engine, though its files are the same."""

    def computed(**changed: str) -> ParityReport:
        known = {"products": "emulated", "activation_scales": "per token", "kv_cache_dtype": "auto"}
        fp8 = Fp8Arithmetic.model_validate({**known, "kv_cache_scales": None, **changed})
        provenance = measured.provenance.model_copy(update={"candidate_fp8": fp8})
        return measured.model_copy(update={"provenance": provenance})

    first = decided(computed(), Rules(margin=0.005, looks=2, **QUICK), noise=6)
    second = first_look(written(first, tmp_path), Rules(margin=0.005, **QUICK))
    with pytest.raises(UsageError, match=f"candidate's {field}: wanted .*, found {other}"):
        decided(computed(**{field: other}), second, noise=6)


def test_what_is_no_verdict_is_no_first_look(tmp_path: Path) -> None:
    (tmp_path / "first.json").write_text("{}")
    with pytest.raises(QuarkEagleError, match="is not a verdict of schema version 1"):
        first_look(tmp_path / "first.json", Rules())
    with pytest.raises(StorageError, match="could not be read"):
        first_look(tmp_path / "absent.json", Rules())
