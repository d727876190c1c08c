"""verify-release's checks: each says what held, what did not, or that it was not made and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from quark_eagle import __version__
from quark_eagle.documents.release_check import Check, ReleaseCheck, outcome_of
from quark_eagle.documents.schema import schema_text
from quark_eagle.errors import CheckpointError, QuarkEagleError, TraceError, UsageError
from quark_eagle.release import checksums, contents, sane_json
from quark_eagle.release.checking import CHECKS, Asked
from quark_eagle.release.signature import PrivateKey, sign
from quark_eagle.release.signature_check import PublicKey
from quark_eagle.release.verify_release import verify_release
from tests.release import keys
from tests.release.released import Given, give, release_tiny


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return give(tmp_path_factory.mktemp("given"), (0, 1) * 20)


@pytest.fixture(scope="module")
def released(given: Given) -> Path:
    return release_tiny(given, given.output.parent / "released", keys.new_key())


@pytest.fixture
def bundle(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "bundle"))


def of(made: ReleaseCheck, name: str) -> Check:
    return next(check for check in made.checks if check.name == name)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=1, ensure_ascii=False) + "\n")


def test_every_check_of_a_good_release_holds(released: Path, given: Given) -> None:
    key = PublicKey(path=released.with_name("released.pem"))
    made = verify_release(released, Asked(trusted=key, source=given.draft))

    assert (made.outcome, made.exit_code) == ("as released", 0)
    assert (made.release, made.made_by, made.checked_by) == ("tiny-eagle3-fp8", __version__, __version__)
    assert [check.name for check in made.checks] == [name for name in CHECKS if name not in ("trace", "arch")]
    assert {check.status for check in made.checks} == {"ok"}
    assert ["no pass" in made.overrides[0], "gfx950" in made.overrides[1]] == [True, True]


def test_a_signature_that_nobody_asked_about_is_said_to_be_unchecked(released: Path, bundle: Path) -> None:
    there = of(verify_release(released), "signature")
    (bundle / contents.SIGNATURE).unlink()
    gone = of(verify_release(bundle), "signature")

    assert there.status == gone.status == "not checked"
    assert there.says == "It has a signature, but no option says whose it should be (--public-key)."
    assert gone.says == "It has no signature: nobody vouches for it."


def test_the_document_is_as_its_schema_says(released: Path, bundle: Path) -> None:
    (bundle / contents.CARD).unlink()

    for directory in (released, bundle):
        jsonschema.validate(json.loads(verify_release(directory).to_json()), json.loads(schema_text("release_check")))


def test_it_does_not_depend_on_where_a_bundle_lies(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)

    assert verify_release(tmp_path / "link").outcome == "as released"


@pytest.mark.parametrize("what", ["nowhere", "file", "empty"])
def test_what_is_no_bundle_is_not_evaluated(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()

    with pytest.raises(QuarkEagleError, match="is no bundle") as refused:
        verify_release(tmp_path / what)
    assert refused.value.exit_code == 5


def test_a_bundle_without_its_list_is_one_with_a_file_missing(bundle: Path) -> None:
    (bundle / contents.SUMS).unlink()

    made = verify_release(bundle)
    assert of(made, "files").differences == ["SHA256SUMS is missing."]
    assert made.exit_code == 3


def test_a_wrong_argument_is_told_before_the_work_and_is_nothing_about_the_bundle(released: Path) -> None:
    with pytest.raises(UsageError, match="is no public key"):
        verify_release(released, Asked(trusted=PublicKey(path=released / contents.CARD)))
    with pytest.raises(CheckpointError):
        verify_release(released, Asked(source=released / contents.EVIDENCE))
    with pytest.raises(TraceError, match=r"holds no trace\.json"):
        verify_release(released, Asked(trace=released))


def test_another_draft_is_not_its_source_and_another_trace_not_its_own(
    released: Path, given: Given, tmp_path: Path
) -> None:
    other = give(tmp_path / "other", (0, 1) * 20, seed=3)
    (tmp_path / "trace").mkdir()
    (tmp_path / "trace" / "trace.json").write_text("{}")
    made = verify_release(released, Asked(source=other.draft, trace=tmp_path / "trace", arch="gfx950"))

    assert made.exit_code == 3
    assert any("model.safetensors" in it for it in of(made, "source").differences)
    assert of(made, "engine").status == "not ok", "every weight is compared with the draft's as well"
    assert len(of(made, "trace").differences) == 1
    assert any("x86_64" in it for it in of(made, "arch").differences)


@pytest.mark.parametrize("trusts", [False, True])
def test_another_version_words_things_otherwise_and_that_is_left_open_unless_a_signer_vouches_for_it(
    bundle: Path, tmp_path: Path, trusts: bool
) -> None:
    """What cannot be told from a change is not called one, and not passed over either."""
    record = json.loads((bundle / contents.RELEASE).read_text())
    versions = {**record["versions"], "quark_eagle": "0.0.9"}
    environment = json.loads((bundle / contents.ENVIRONMENT).read_text())
    edit(
        bundle / contents.RELEASE, versions=versions, overrides=[f"In other words: {it}" for it in record["overrides"]]
    )
    edit(bundle / contents.ENVIRONMENT, released=environment["released"] | {"quark_eagle": "0.0.9"})
    checksums.write(bundle)
    key = keys.new_key()
    sign(bundle, name="tiny", signer=PrivateKey(path=keys.write_private(key, tmp_path / "key.pem")))
    trusted = PublicKey(path=keys.write_public(key, tmp_path / "public.pem")) if trusts else None

    made = verify_release(bundle, Asked(trusted=trusted))

    assert made.exit_code == (0 if trusts else 5)
    assert made.made_by == "0.0.9"
    assert of(made, "record").status == of(made, "prose").status == "not checked"
    how = "whoever signed vouches for it" if trusts else "install quark-eagle 0.0.9 to check it"
    assert f"It cannot be checked here: {how}." in of(made, "prose").says
    assert of(made, "verdict").status == of(made, "binding").status == of(made, "weights").status == "ok"


def test_what_lies_beside_is_named(bundle: Path) -> None:
    (bundle / ".gitattributes").write_text("")

    made = verify_release(bundle)
    assert made.beside == [".gitattributes"]
    assert made.outcome == "as released"


def test_a_file_that_may_not_be_read_is_neither_good_nor_bad(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(released / "config.json"))

    monkeypatch.setattr(checksums, "digest", denied)

    made = verify_release(released)
    assert of(made, "files").status == "not checked"
    assert "Permission denied" in of(made, "files").says
    assert made.exit_code in (3, 5)


def test_a_bug_is_no_verdict(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("quark_eagle.release.made_again.unbound", broken)

    with pytest.raises(RuntimeError, match="a bug"):
        verify_release(released)


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        ([("ok", True)], "as released"),
        ([("ok", True), ("not checked", False)], "as released"),
        ([("ok", True), ("not checked", True)], "not checked"),
        ([("not checked", True), ("not ok", True)], "not as released"),
    ],
)
def test_the_outcome_is_the_gravest_of_all_checks(statuses: list[tuple[Any, bool]], outcome: str) -> None:
    checks = [
        Check(name="files", status=status, asked=asked, says="", differences=["x"] if status == "not ok" else [])
        for status, asked in statuses
    ]

    assert outcome_of(checks) == outcome


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, "\\u00e9", null]}', "[" * 64 + "]" * 64, '{"a": "[[[[{{{{"}'])
def test_sound_json_is_sound(tmp_path: Path, text: str) -> None:
    (tmp_path / "it.json").write_text(text)

    assert sane_json.problem(tmp_path / "it.json") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 65 + "]" * 65, "is nested too deep"),
        ('{"a": 1, "a": 2}', "a name occurs twice"),
        ("[NaN]", "NaN is no number of JSON"),
        ("[1e999]", "a number is not finite"),
        (f"[{2**63}]", "more than 63 bits"),
        ('["\\ud800"]', "surrogates not allowed"),
        ("", "Expecting value"),
    ],
)
def test_json_that_no_release_writes_is_not(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "it.json").write_text(text)

    assert said in (sane_json.problem(tmp_path / "it.json") or "")
