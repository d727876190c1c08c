"""verify-release: a table that says what was looked at, every difference, and an exit code that a script can trust."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from quark_eagle.cli.app import app
from quark_eagle.release import contents
from quark_eagle.release.signature import PrivateKey, sign
from tests.release import keys
from tests.release.released import Given, give, release_tiny


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return give(tmp_path_factory.mktemp("given"), (0, 1) * 20)


@pytest.fixture(scope="module")
def released(given: Given) -> Path:
    """Signed; its public key lies beside it."""
    return release_tiny(given, given.output.parent / "released", keys.new_key())


@pytest.fixture
def bundle(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "bundle"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["verify-release", *map(str, arguments)])


def key_of(released: Path) -> Path:
    return released.with_name("released.pem")


def test_a_good_bundle_exits_with_0_and_says_what_held(released: Path, given: Given) -> None:
    result = run(released, "--public-key", key_of(released), "--source", given.draft, "--require-signature")

    assert result.exit_code == 0, result.output
    assert f"Every file was signed by the key {key_of(released)}." in result.stdout
    assert "AS RELEASED: 11 checks hold." in result.stdout
    assert f"Next, serve it: quark-eagle recipe TARGET {released}" in result.stdout
    assert "Warning: it was released with a rule set aside: Not measured on gfx950" in result.stderr


def test_what_was_not_checked_is_said_plainly_with_the_next_command(released: Path, given: Given) -> None:
    unasked = run(released)
    assert unasked.exit_code == 0
    assert "It has a signature, but no option says whose it should be (--public-key)." in unasked.stdout
    assert "AS RELEASED: 9 checks hold. Not checked: signature." in unasked.stdout
    assert f"quark-eagle verify-release {released} --public-key PEM" in unasked.stdout

    no_source = run(released, "--public-key", key_of(released))
    assert f"quark-eagle verify-release {released} --source DRAFT" in no_source.stdout


def test_a_changed_bundle_exits_with_3_and_tells_every_difference(bundle: Path, released: Path) -> None:
    (bundle / contents.SCRIPT).unlink()
    (bundle / "extra.py").write_text("")

    result = run(bundle, "--public-key", key_of(released))

    assert result.exit_code == 3
    for line in (
        "NOT OK files: extra.py is extra: it was not released.",
        "NOT OK files: reproduce.sh is missing.",
        "NOT OK signature: reproduce.sh was signed, and is missing.",
        "NOT OK signature: extra.py is not covered by the signature.",
        "NOT OK prose: reproduce.sh is missing.",
    ):
        assert line in result.stdout
    assert "NOT AS RELEASED: files, signature" in result.stdout
    assert "Traceback" not in result.output


@pytest.mark.parametrize("broken", [False, True])
def test_json_is_one_object_and_its_exit_code_the_processes(bundle: Path, broken: bool) -> None:
    if broken:
        (bundle / contents.CARD).write_text("")
    result = run(bundle, "--json")

    document = json.loads(result.stdout)
    assert document["exit_code"] == result.exit_code == (3 if broken else 0)
    assert document["outcome"] == ("not as released" if broken else "as released")
    assert result.stderr == ""


def test_a_librarys_print_does_not_spoil_the_json(bundle: Path, released: Path) -> None:
    """model-signing prints a warning to stdout where a signature does not say which key made it."""
    document = json.loads((bundle / contents.SIGNATURE).read_text())
    document["verificationMaterial"]["publicKey"]["hint"] = ""
    (bundle / contents.SIGNATURE).write_text(json.dumps(document))

    json.loads(run(bundle, "--public-key", key_of(released), "--json").stdout)


def test_what_is_no_bundle_exits_with_5(tmp_path: Path) -> None:
    result = run(tmp_path)

    assert result.exit_code == 5
    assert "is no bundle: it holds neither SHA256SUMS nor evidence/release.json" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--require-signature"], "--require-signature: nothing says whose it should be"),
        (["--identity", "me@example.org"], "--identity and --identity-provider: say who signed and who knows them"),
        (["--identity-provider", "https://x"], "--identity and --identity-provider"),
        (["--public-key", "a", "--certificate-chain", "b"], "--public-key and --certificate-chain: a bundle has one"),
        (["--public-key", __file__], "is no public key in PEM"),
        (["--source", "x" * 300], "--source: 'xxxx"),
        (["--source", "no\0thing"], "is no path: a NUL"),
        (["--trace", "x" * 300], "is longer than a name may be here (300 characters)"),
        (["--require-arch", ""], "--require-arch: is empty"),
    ],
)
def test_options_that_cannot_be_meant_exit_with_2(released: Path, options: list[str], said: str) -> None:
    result = run(released, *options)

    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("name", ["x" * 300, "no\0thing"])
def test_a_name_that_no_file_has_is_no_traceback(name: str) -> None:
    result = run(name)

    assert result.exit_code == 2
    assert "BUNDLE" in result.stderr
    assert "Traceback" not in result.output


def test_a_source_is_named_as_it_was_to_release(released: Path, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its id on the hub, too."""
    monkeypatch.setattr("quark_eagle.checkpoint.source._from_hub", lambda name, patterns: given.draft)

    assert "11 checks hold" in run(released, "--public-key", key_of(released), "--source", "owner/draft").stdout


def test_a_certificate_is_checked_from_its_root(bundle: Path) -> None:
    root, own = keys.new_key(), keys.new_key()
    beside = bundle.parent
    keys.write_certificate(keys.certificate("root", root, authority=True), beside / "root.pem")
    keys.write_certificate(keys.certificate("me", own, issuer=("root", root)), beside / "me.pem")
    signer = PrivateKey(
        path=keys.write_private(own, beside / "me.key"), certificate=beside / "me.pem", chain=(beside / "root.pem",)
    )
    sign(bundle, name="tiny", signer=signer)

    assert run(bundle, "--certificate-chain", beside / "root.pem").exit_code == 0
    keys.write_certificate(keys.certificate("root", keys.new_key(), authority=True), beside / "root.pem")
    assert run(bundle, "--certificate-chain", beside / "root.pem").exit_code == 3


def test_a_place_that_the_evidence_is_not_from_exits_with_3(released: Path) -> None:
    result = run(released, "--require-arch", "gfx950")

    assert result.exit_code == 3
    assert "NOT OK arch: evidence/parity.json: the drafts were replayed on x86_64" in result.stdout


def test_names_of_files_cannot_write_to_the_terminal(bundle: Path) -> None:
    (bundle / "\x1b[2J\n::error::").write_text("")

    result = run(bundle)

    assert result.exit_code == 3
    assert "\x1b" not in result.output
    assert not any(line.startswith("::") for line in result.output.splitlines())


def test_identities_are_asked_of_the_network_and_a_dead_one_is_no_verdict(
    released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sigstore.models

    monkeypatch.setattr(sigstore.models, "DEFAULT_TUF_URL", "http://127.0.0.1:9")
    result = run(released, "--identity", "me@example.org", "--identity-provider", "https://accounts.example.org")

    assert result.exit_code == 5
    assert "Sigstore's own keys could not be fetched" in result.stderr
