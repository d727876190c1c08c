from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.cli.hf import app as hf
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from quark_eagle.documents.parity import ParityReport
from quark_eagle.errors import CheckpointError
from quark_eagle.release import contents
from quark_eagle.release.collecting import EPOCH
from quark_eagle.release.origin import origin, target_name
from tests.release import keys
from tests.release.made_evidence import write_bundle
from tests.release.made_out import beside, write_out

MIT = "MIT License\n\nCopyright (c) 2026 Somebody\n\nPermission is hereby granted, free of charge, to any person"


@pytest.fixture(autouse=True)
def _no_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EPOCH, raising=False)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that passed and what `quantize` left beside it; read only."""
    directory = tmp_path_factory.mktemp("release")
    return write_out(write_bundle(directory / "made"), directory)


def run(*args: str | Path | float) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["release", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_it_ends_with_how_to_check_and_how_to_publish(out: Path, tmp_path: Path) -> None:
    key = keys.write_private(keys.new_key(), tmp_path / "key.pem", "s3cret")
    bundle = tmp_path / "a bundle"
    args = ("--source", out.with_name("draft"), "--require-arch", "any", "--repo-id", "owner/tiny", "--license", "mit")
    signing = ("--signing-key", key, "--signing-password-env", "TINY_PASSWORD")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINY_PASSWORD", "s3cret")
        code, said, notes = run(out, *args, *signing, "--output", bundle)
    assert code == 0
    assert "Not measured on gfx950" in notes
    lines = said.splitlines()
    assert lines[-3:] == [
        f"Released: {bundle}",
        f"Check it: quark-eagle verify-release '{bundle}' --public-key PUBLIC.pem",
        f"Publish it: hf upload owner/tiny '{bundle}' .",
    ]
    for path in bundle.rglob("*"):
        if path.is_file():
            assert path.relative_to(bundle).as_posix() in said
            assert b"s3cret" not in path.read_bytes()
    assert "s3cret" not in said + notes
    record = json.loads((bundle / contents.RELEASE).read_text())
    assert (record["name"], record["license"], record["license_source"]) == ("tiny", "mit", "--license")


def test_the_hub_takes_the_command_that_is_printed(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said, _ = run(out, "--require-arch", "any", "--repo-id", "owner/tiny", "--output", tmp_path / "b", "--json")
    upload = json.loads(said)["upload"]
    seen: dict[str, Any] = {}

    def upload_folder(self: object, **options: Any) -> str:
        seen.update(options)
        return "https://huggingface.co/owner/tiny"

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload_folder)
    monkeypatch.setattr(
        "huggingface_hub.HfApi.create_repo", lambda self, **options: type("Url", (), {"repo_id": options["repo_id"]})
    )
    program, *args = shlex.split(upload)
    assert (code, program) == (0, "hf")
    hf.main(args, standalone_mode=False)
    assert (seen["repo_id"], str(seen["folder_path"]), seen["path_in_repo"]) == ("owner/tiny", str(tmp_path / "b"), ".")


def test_a_refusal_says_everything_and_writes_nothing(out: Path, tmp_path: Path) -> None:
    code, said, _ = run(out, "--output", tmp_path / "bundle")
    assert code == 3
    assert said.startswith(f"NOT RELEASED: {out}: one objection. Nothing was written.")
    assert "--require-arch any" in said
    assert not list(tmp_path.iterdir())
    code, said, _ = run(out, "--output", tmp_path / "bundle", "--json")
    answer = json.loads(said)
    assert (code, answer["exit_code"], answer["bundle"], len(answer["objections"])) == (3, 3, None, 1)


def test_a_verdict_of_another_measurement_is_evidence_about_nothing_here(out: Path, tmp_path: Path) -> None:
    verdict = tmp_path / "verdict.json"
    content = json.loads(beside(out, "verdict.json").read_text())
    content["evidence"]["parity_sha256"] = "ab" * 32
    verdict.write_text(json.dumps(content))
    args = ("--verdict", verdict, "--require-arch", "any", "--publish-anyway", "--output", tmp_path / "bundle")
    code, said, _ = run(out, *args)
    assert code == 5
    assert "nobody can set that aside" in said
    assert re.search(
        r"evidence/verdict\.json, sha256 of the measurement: wanted sha256 \w+…, found sha256 abababab", said
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--margin", "0.02", "--verdict", "v.json"), "--margin and --verdict: the verdict has its own margin"),
        (("--base-model", "{draft}"), "is a directory here, which nobody else has"),
        (("--target-name", "/models/kimi"), "is no such name, but a Hugging Face id"),
        (("--name", "a/b/c"), "--name a/b/c"),
        (("--repo-id", "tiny"), "--repo-id tiny: has no owner"),
        (("--repo-id", "owner/ti--ny"), "--repo-id owner/ti--ny: is no repository's name"),
        (("--source", "x" * 300), "--source: 'xxx"),
        (("--require-arch", ""), "--require-arch: is empty"),
        (("--license", "Apache 2.0!"), "is no licence as the Hugging Face hub names them"),
        (("--signing-certificate", "c.pem"), "--signing-certificate: is about --signing-key"),
        (("--signing-key", "nowhere.pem"), "--signing-key nowhere.pem: is no file."),
        (("--signing-key", "{key}", "--signing-password-env", "NO_SUCH"), "NO_SUCH: is not set"),
        (("--signing-key", "k.pem", "--keyless"), "one signature was needed"),
        (("--evidence", "a", "--evidence", "b", "--evidence", "c"), "3 given, but one measurement was needed"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_work(
    out: Path, tmp_path: Path, args: tuple[str, ...], said: str
) -> None:
    key = keys.write_private(keys.new_key(), tmp_path / "key.pem", "s3cret")
    filled = [arg.format(draft=out.with_name("draft"), key=key) for arg in args]
    code, answer, notes = run(out, "--require-arch", "any", *filled, "--output", tmp_path / "bundle")
    assert (code, answer) == (2, "")
    assert said in notes
    assert list(tmp_path.iterdir()) == [key]


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path: Path) -> None:
    code, _, notes = run(tmp_path / "nowhere", "--output", tmp_path / "bundle")
    assert code == 5
    assert "found nothing, but a draft is a directory" in notes


def test_an_extra_that_is_missing_is_named(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quark_eagle.release.extra.find_spec", lambda name: None if name == "cyclonedx" else name)
    code, _, notes = run(out, "--output", tmp_path / "bundle")
    assert code == 2
    assert "cyclonedx (writes the bill of materials): not installed" in notes
    assert "quark-eagle[release]" in notes


def test_without_any_measurement_there_is_nothing_to_release(out: Path, tmp_path: Path) -> None:
    alone = write_out(out.with_name("made"), tmp_path)
    for path in tmp_path.glob("*.json"):
        path.unlink()
    code, _, notes = run(alone, "--output", tmp_path / "bundle")
    assert code == 2
    assert "0 given, but one measurement was needed" in notes


@pytest.mark.parametrize(
    ("card", "text", "known"),
    [
        ("---\nlicense: apache-2.0\n---\n# A draft\n", "", ("apache-2.0", "the model card of the BF16 draft")),
        ("# No metadata\n", MIT, ("mit", "LICENSE of the BF16 draft")),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "My own terms.", (None, None)),
    ],
    ids=["of the card", "of the text", "unknown, and not guessed"],
)
def test_a_licence_is_what_somebody_said(
    out: Path, tmp_path: Path, card: str, text: str, known: tuple[str | None, str | None]
) -> None:
    (tmp_path / "README.md").write_text(card)
    if text:
        (tmp_path / "LICENSE").write_text(text)
    report = ParityReport.read(beside(out, "parity.json"))
    found = origin(report, out, source=tmp_path, named=str(tmp_path))
    assert (found.license, found.license_source) == known
    assert found.base_model == "tiny-eagle3"  # a name: the path is nobody else's


@pytest.mark.parametrize("length", [240, 300])
def test_an_output_that_cannot_be_called_so_is_refused(out: Path, tmp_path: Path, length: int) -> None:
    """While it is filled it is called by a longer name."""
    code, _, notes = run(out, "--require-arch", "any", "--output", tmp_path / ("x" * length))
    assert code == 2
    assert "is longer than a name may be here" in notes


def test_a_licence_that_may_not_be_read_is_said(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "LICENSE").write_text(MIT)

    def denied(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    report = ParityReport.read(beside(out, "parity.json"))
    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(CheckpointError, match=r"LICENSE: could not be read \(Permission denied\)"):
        origin(report, out, source=tmp_path)


def test_a_source_in_the_hubs_cache_is_called_as_on_the_hub(out: Path, tmp_path: Path) -> None:
    report = ParityReport.read(beside(out, "parity.json"))
    snapshot = tmp_path / "models--lmsys--some-draft" / "snapshots" / ("0123456789" * 4)
    snapshot.mkdir(parents=True)
    found = origin(report, out, source=snapshot)
    assert (found.base_model, found.revision) == ("lmsys/some-draft", "0123456789" * 4)
    found = origin(report, out, source=snapshot, base_model="other/draft@v1")
    assert (found.base_model, found.revision) == ("other/draft", "v1")
    assert target_name(report) == "tiny-target"  # of /home/releaser/models/tiny-target
    assert target_name(report, "owner/target") == "owner/target"
