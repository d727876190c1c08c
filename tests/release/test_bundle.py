"""A bundle appears whole or not at all, says what was set aside, and is the same bytes whoever makes it, whenever."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.manifest import RECORD_NAME, digest
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.release import ReleaseRecord
from quark_eagle.errors import CheckpointError, QuarkEagleError, UsageError
from quark_eagle.parity.verdict import Rules
from quark_eagle.release import bundle as making
from quark_eagle.release import contents
from quark_eagle.release.bundle import Naming, Order, Released, release
from quark_eagle.release.collecting import EPOCH, Sources
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.examining import Examination, Leave
from quark_eagle.release.rendering import render
from quark_eagle.release.signature import PrivateKey
from tests.release import keys
from tests.release.made_out import beside, write_out
from tests.reports import AT_PAR, UNCLEAR, WORSE, report, served_report

Bundle = Callable[[str], Path]
ANYWHERE = Leave(required_arch=None)


@pytest.fixture(autouse=True)
def _no_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EPOCH, raising=False)


@pytest.fixture
def out(made_bundle: Bundle, tmp_path: Path) -> Path:
    """A checkpoint that passed, its evidence beside it, and its BF16 draft in ``draft``."""
    return write_out(made_bundle("pass"), tmp_path)


def order(out: Path, leave: Leave = ANYWHERE, *, judge: bool = False, **changes: Any) -> Order:
    given: dict[str, Any] = {"source": out.with_name("draft"), "leave": leave}
    return Order(sources=Sources.of(out, judge=judge), **given | changes)


def released(out: Path, bundle: Path, leave: Leave = ANYWHERE, **changes: Any) -> Released:
    made = release(order(out, leave, **changes), bundle)
    assert isinstance(made, Released), made
    return made


def refused(out: Path, leave: Leave = ANYWHERE, **changes: Any) -> Examination:
    """Why nothing was released; that nothing was written is seen to."""
    before = sorted(out.parent.rglob("*"))
    found = release(order(out, leave, **changes), out.with_name("refused"))
    assert isinstance(found, Examination)
    assert sorted(out.parent.rglob("*")) == before
    return found


def files(bundle: Path) -> dict[str, bytes]:
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_the_same_inputs_make_the_same_bytes_in_any_place_and_at_any_time(made_bundle: Bundle, tmp_path: Path) -> None:
    key = keys.write_private(keys.new_key(), tmp_path / "key.pem")
    made = []
    for place, now in (("here", 1_600_000_000), ("elsewhere/and/deeper", 1_900_000_000)):
        (tmp_path / place).mkdir(parents=True)
        out = write_out(made_bundle("pass"), tmp_path / place)
        for path in tmp_path.rglob("*"):
            os.utime(path, (now, now))
        made.append(files(released(out, tmp_path / place / "bundle", signer=PrivateKey(path=key)).directory))
    one, other = made
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == [contents.SIGNATURE]


def test_a_bundle_is_the_checkpoint_byte_for_byte_and_what_is_rendered_from_its_evidence(
    out: Path, tmp_path: Path
) -> None:
    bundle = released(out, tmp_path / "bundle").directory
    found, taken = files(bundle), files(out)
    assert {name: found[name] for name in taken} == taken
    assert found[contents.PARITY] == beside(out, "parity.json").read_bytes()
    assert found[contents.VERDICT] == beside(out, "verdict.json").read_bytes()
    evidence = Evidence.read(bundle)
    assert {name: text.encode() for name, text in render(evidence).items()} == {
        name: found[name] for name in contents.RENDERED
    }
    made = {contents.RELEASE, contents.VERIFICATION, contents.ENVIRONMENT, contents.WEIGHTS}
    given = {contents.PARITY, contents.VERDICT}
    assert found.keys() == taken.keys() | made | given | set(contents.RENDERED) | {contents.SUMS}
    Checkpoint.open(bundle)  # an engine loads the bundle as it is


def test_hashes_of_all_files_are_in_the_list_but_its_own(out: Path, tmp_path: Path) -> None:
    made = released(out, tmp_path / "bundle")
    lines = dict(reversed(line.split("  ")) for line in (made.directory / contents.SUMS).read_text().splitlines())
    there = files(made.directory).keys() - {contents.SUMS}
    assert lines == {name: digest(made.directory / name).sha256 for name in there}
    assert {name: file.sha256 for name, file in made.files.files.items()} == lines


def test_no_path_of_the_releasers_machine_enters_what_is_written(made_bundle: Bundle, tmp_path: Path) -> None:
    place = tmp_path / "secret-place"
    place.mkdir()
    out = write_out(made_bundle("pass"), place)
    (place / "draft").rename(place / "secret-draft")
    bundle = released(out, place / "secret-bundle", source=place / "secret-draft", source_name="secret-draft").directory
    given = {*files(out), contents.PARITY, contents.VERDICT}
    for name, content in files(bundle).items():
        if name not in given:
            assert b"secret-" not in content, name
            assert b"/home/releaser" not in content, name  # of the evidence's own provenance
            assert os.uname().nodename.encode() not in content, name


def test_evidence_from_elsewhere_is_refused_and_the_sentence_says_what_overrides_it(out: Path, tmp_path: Path) -> None:
    found = refused(out, Leave())
    assert found.exit_code == 3
    (said,) = found.sentences()
    assert "had to be measured on gfx950, but the drafts were replayed on x86_64" in said
    assert "--require-arch any" in said
    made = released(out, tmp_path / "bundle")
    (override,) = made.release.overrides
    assert override.startswith("Not measured on gfx950 (MI355X): the drafts were replayed on x86_64")
    card = (made.directory / contents.CARD).read_text(encoding="utf-8")
    assert card.index("Not measured on gfx950") < card.index("# tiny-fp8")
    assert "Not measured on gfx950" in (made.directory / contents.REPORT).read_text(encoding="utf-8")


def test_evidence_of_the_arch_needs_no_leave(out: Path, tmp_path: Path) -> None:
    def on_gfx950(it: dict[str, Any]) -> None:
        it["provenance"]["arch"] = it["provenance"]["recorded_with"]["arch"] = "x86_64 AVX512, gfx950:sramecc+:xnack-"

    edit(beside(out, "parity.json"), on_gfx950)
    made = released(out, tmp_path / "bundle", Leave(), judge=True)
    assert (made.release.required_arch, made.release.overrides) == ("gfx950", [])


@pytest.mark.parametrize(("losses", "outcome", "code"), [(WORSE, "fail", 3), (UNCLEAR, "inconclusive", 4)])
def test_a_verdict_that_is_no_pass_needs_leave_and_is_told_first(
    out: Path, tmp_path: Path, losses: tuple[int, ...], outcome: str, code: int
) -> None:
    remeasure(out, losses)
    found = refused(out, judge=True)
    assert found.exit_code == code
    assert f"The verdict is no pass but {outcome}" in found.sentences()[0]
    made = released(out, tmp_path / "bundle", Leave(required_arch=None, publish_anyway=True), judge=True)
    assert made.release.overrides[0].startswith(f"Released although its verdict is {outcome}, and no pass: τ changes")
    card = (made.directory / contents.CARD).read_text(encoding="utf-8")
    assert card.index(f"its verdict is {outcome}") < card.index("# tiny-fp8")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (Rules(margin=0.6), ["Judged by a margin of 60%, wider than the usual 1%."]),
        (Rules(alpha=0.1), ["Judged with an alpha of 10%, more than the usual 5%."]),
        (Rules(margin=0.005, alpha=0.01), []),
    ],
    ids=["margin", "alpha", "stricter"],
)
def test_rules_that_are_laxer_than_usual_are_told_first(
    out: Path, tmp_path: Path, rules: Rules, said: list[str]
) -> None:
    leave = Leave(required_arch=None, publish_anyway=True)
    made = released(out, tmp_path / "bundle", leave, judge=True, rules=rules)
    assert [it for it in made.release.overrides if it.startswith("Judged")] == said
    card = (made.directory / contents.CARD).read_text(encoding="utf-8")
    page = (made.directory / contents.REPORT).read_text(encoding="utf-8")
    assert all(it in page and card.index(it.rstrip(".")) < card.index("# tiny-fp8") for it in said)


def test_what_cannot_be_judged_is_released_by_no_leave(out: Path) -> None:
    edit(beside(out, "parity.json"), dead_baseline)
    found = refused(out, Leave(required_arch=None, publish_anyway=True), judge=True)
    assert found.exit_code == 5
    assert any("unusable" in sentence for sentence in found.sentences())


def test_evidence_about_other_bytes_is_released_by_no_leave_and_all_of_it_is_said(out: Path) -> None:
    weights = out / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    edit(beside(out, "verdict.json"), lambda it: it["difference"].update(estimate=0.5))
    found = refused(out, Leave(publish_anyway=True))
    assert (found.exit_code, found.is_unbound) == (5, True)
    said = "\n".join(found.sentences())
    for part in (
        "quark_eagle.json, model.safetensors: wanted",
        "evidence/parity.json, candidate's weights: wanted",
        "evidence/verdict.json, difference.estimate: wanted",
        "had to be measured on gfx950",
    ):
        assert part in said


@pytest.mark.parametrize("version", ["0.0.9", None])
def test_a_verdict_that_is_worded_otherwise_is_to_be_judged_again(out: Path, version: str | None) -> None:
    """Whatever version it names: anybody may name one over a headline of their own."""

    def reword(verdict: dict[str, Any]) -> None:
        verdict.update(reason="τ rises by 40 %.")
        verdict["versions"].update({"quark_eagle": version} if version else {})

    edit(beside(out, "verdict.json"), reword)
    found = refused(out)
    assert (found.exit_code, found.is_unbound) == (5, False)
    assert "Judge it again with `quark-eagle gate PARITY --output" in found.sentences()[0]


def test_a_draft_that_no_engine_runs_as_it_was_meant_is_released_by_no_leave(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything fits together, and fc would be read as FP8: what parity does not know, the engine's rules do."""
    edit(out / "config.json", lambda it: it["quantization_config"].update(exclude=["lm_head"]))
    config = digest(out / "config.json")
    edit(
        out / RECORD_NAME,
        lambda it: it["output"]["config.json"].update(sha256=config.sha256, size_bytes=config.size_bytes),
    )
    edit(beside(out, "parity.json"), lambda it: it["candidate"].update(config_sha256=config.sha256))
    found = refused(out, Leave(required_arch=None, publish_anyway=True), judge=True, source=None)
    assert found.exit_code in (3, 5)
    assert any(sentence.startswith("model.fc: ") for sentence in found.sentences())


def test_a_served_run_beside_the_replay_must_bear_it_out(out: Path, tmp_path: Path) -> None:
    serve(out, WORSE)
    found = refused(out)
    assert found.exit_code == 3
    assert (
        "A second measurement does not bear the verdict out. evidence/served.parity.json: fail" in found.sentences()[0]
    )
    made = released(out, tmp_path / "anyway", Leave(required_arch=None, publish_anyway=True))
    assert "does not bear its verdict out" in made.release.overrides[0]
    serve(out, AT_PAR)
    made = released(out, tmp_path / "bundle")
    evidence = Evidence.read(made.directory)
    assert evidence.served is not None
    assert evidence.environment.served is not None
    assert evidence.parity.served is None  # the verdict beside OUT is on the replay


def test_without_a_verdict_what_an_engine_counted_is_judged_and_the_replay_beside_it(out: Path, tmp_path: Path) -> None:
    serve(out, AT_PAR)
    evidence = Evidence.read(released(out, tmp_path / "bundle", judge=True).directory)
    assert evidence.parity.served is not None
    assert evidence.replayed is not None
    assert evidence.verdict.outcome == "pass"
    assert evidence.verdict.created == evidence.parity.provenance.created  # no time of its own


def test_static_scales_come_with_their_calibration(made_bundle: Bundle, tmp_path: Path) -> None:
    out = write_out(made_bundle("static"), tmp_path)
    bundle = released(out, tmp_path / "bundle").directory
    assert (bundle / contents.CALIBRATION).read_bytes() == beside(out, "calibration.json").read_bytes()
    beside(out, "calibration.json").unlink()
    assert refused(out).exit_code == 5


@pytest.mark.parametrize("seconds", ["1700000000", None, "yesterday"])
def test_dates_are_of_the_epoch_or_of_the_verdict(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str | None
) -> None:
    if seconds is not None:
        monkeypatch.setenv(EPOCH, seconds)
    if seconds == "yesterday":
        with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH=yesterday: is no number of seconds"):
            release(order(out), tmp_path / "bundle")
        return
    assert released(out, tmp_path / "bundle").release.released == ("2023-11-14" if seconds else "2026-01-02")


def test_other_inputs_than_the_evidence_is_about_are_named(out: Path, tmp_path: Path) -> None:
    edit(out.with_name("draft") / "config.json", lambda it: it.update(rope_theta=1.0))
    (tmp_path / "trace").mkdir()
    (tmp_path / "trace" / "trace.json").write_text("{}")
    found = refused(out, trace=tmp_path / "trace")
    said = "\n".join(found.sentences())
    assert found.exit_code == 5
    assert f"{out.with_name('draft')}, config.json: wanted" in said
    assert f"{tmp_path / 'trace'}, trace of {contents.PARITY}: wanted" in said


def test_nothing_is_left_of_a_bundle_that_could_not_be_finished(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys.write_private(keys.new_key(), tmp_path / "key.pem")
    before = sorted(tmp_path.rglob("*"))

    def fails(*args: object, **options: object) -> None:
        raise QuarkEagleError("Sigstore did not sign.")

    monkeypatch.setattr(making, "sign", fails)
    signer = PrivateKey(path=key)
    with pytest.raises(QuarkEagleError, match="did not sign"):
        release(order(out, signer=signer), tmp_path / "deep" / "bundle")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bundle_that_is_there_survives_all_but_a_whole_new_one(out: Path, tmp_path: Path) -> None:
    bundle = released(out, tmp_path / "bundle").directory
    before = files(bundle)
    with pytest.raises(UsageError, match="exists, and nothing existing is touched"):
        release(order(out), bundle)
    assert isinstance(release(order(out, Leave()), bundle, overwrite=True), Examination)
    assert files(bundle) == before
    made = release(order(out, naming=Naming(name="another")), bundle, overwrite=True)
    assert isinstance(made, Released)
    assert ReleaseRecord.read(bundle / contents.RELEASE).name == "another"


@pytest.mark.parametrize("what", ["draft", "key.pem"])
def test_what_is_read_is_not_overwritten(out: Path, tmp_path: Path, what: str) -> None:
    bundle = out.with_name("draft") if what == "draft" else tmp_path / "keys"
    if what == "key.pem":
        bundle.mkdir()
        (bundle / "config.json").write_text("{}")
    key = keys.write_private(keys.new_key(), bundle / "key.pem") if what == "key.pem" else None
    signer = None if key is None else PrivateKey(path=key)
    before = files(bundle)
    with pytest.raises(UsageError, match="which is read here"):
        release(order(out, signer=signer), bundle, overwrite=True)
    assert files(bundle) == before


@pytest.mark.parametrize("what", ["parity", "verdict", "calibration", "certificate", "chain"])
def test_no_evidence_and_no_certificate_is_overwritten(out: Path, tmp_path: Path, what: str) -> None:
    """An older bundle holds a measurement that is released again: it must not go with the bundle."""
    place = tmp_path / "older"
    place.mkdir()
    (place / "config.json").write_text("{}")
    wanted = order(out)
    path = place / "it.json"
    path.write_bytes(beside(out, "parity.json").read_bytes())
    if what in ("certificate", "chain"):
        key = keys.new_key()
        mine = keys.write_certificate(keys.certificate("me", key), tmp_path / "me.pem")
        held = keys.write_certificate(keys.certificate("me", key), path)
        signer = PrivateKey(
            path=keys.write_private(key, tmp_path / "key.pem"),
            certificate=held if what == "certificate" else mine,
            chain=(held if what == "chain" else mine,),
        )
        wanted = replace(wanted, signer=signer)
    else:
        given: dict[str, Any] = {what: (path,) if what == "parity" else path}
        wanted = replace(wanted, sources=replace(wanted.sources, **given))
    before = files(place)
    with pytest.raises(UsageError, match="which is read here"):
        release(wanted, place, overwrite=True)
    assert files(place) == before


def test_a_key_that_cannot_sign_is_told_before_the_work(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys.new_key()
    path = keys.write_private(key, tmp_path / "key.pem", "s3cret")
    of_another = keys.write_certificate(keys.certificate("other", keys.new_key()), tmp_path / "other.pem")
    monkeypatch.setattr(making, "collect", lambda *_: pytest.fail("the work was begun"))
    for signer, said in (
        (PrivateKey(path=tmp_path / "draft" / "config.json"), "is no private key in PEM"),
        (PrivateKey(path=path, password=lambda: "wrong"), "the password is wrong"),
        (PrivateKey(path=path, password=lambda: "s3cret", certificate=of_another, chain=(of_another,)), "other.pem"),
    ):
        with pytest.raises(UsageError, match=said):
            release(order(out, signer=signer), tmp_path / "bundle")


def test_a_checkpoint_that_is_written_to_meanwhile_is_not_released(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writes_first(*args: Any) -> None:
        (out / "config.json").write_text((out / "config.json").read_text() + "\n")
        copy(*args)

    copy = making._copy
    monkeypatch.setattr(making, "_copy", writes_first)
    with pytest.raises(CheckpointError, match=r"config\.json changed while it was released"):
        release(order(out), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", [contents.CARD, contents.SUMS, f"{contents.EVIDENCE}/notes.json"])
def test_names_of_a_release_are_not_taken_from_the_checkpoint(out: Path, name: str) -> None:
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(UsageError, match=f"{name} is the name of a file that a release writes itself"):
        release(order(out), out.with_name("bundle"))


def remeasure(out: Path, losses: tuple[int, ...]) -> None:
    """Other counts of the same drafts, and no verdict on them."""
    path = beside(out, "parity.json")
    before = ParityReport.read(path)
    arms = {"baseline": before.baseline, "candidate": before.candidate}
    path.write_text(report(losses).model_copy(update=arms).to_json(), encoding="utf-8")


def serve(out: Path, losses: tuple[int, ...]) -> None:
    """The same drafts served."""
    before = ParityReport.read(beside(out, "parity.json"))
    arms = {"baseline": before.baseline, "candidate": before.candidate}
    text = served_report(losses).model_copy(update=arms).to_json()
    beside(out, "served.parity.json").write_text(text, encoding="utf-8")


def dead_baseline(content: dict[str, Any]) -> None:
    """Nothing that the BF16 draft proposed was accepted."""
    for prompt in content["prompts"]:
        for arm in ("baseline", "candidate"):
            prompt[arm]["walk"] = [100, 0, 0, 0]
