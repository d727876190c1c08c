"""model.sig: whoever holds the key vouches for every byte; whatever is wrong is told, and nothing else is."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from quark_eagle.errors import QuarkEagleError, StorageError, UsageError
from quark_eagle.release import checksums, signature_check
from quark_eagle.release.contents import SIGNATURE
from quark_eagle.release.signature import Keyless, PrivateKey, password_in, sign
from quark_eagle.release.signature_check import CertificateChain, Identity, PublicKey, Trusted, trusting
from quark_eagle.release.signature_file import SignatureFile
from tests.release import keys


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = tmp_path / ".release.staging-host-1-ab"
    (made / "evidence").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(bytes(100))
    (made / "evidence" / "parity.json").write_text("{}")
    checksums.write(made)
    return made


@pytest.fixture
def key(tmp_path: Path) -> keys.Key:
    made = keys.new_key()
    keys.write_private(made, tmp_path / "key.pem")
    keys.write_public(made, tmp_path / "public.pem")
    return made


@pytest.fixture
def signed(bundle: Path, key: keys.Key, tmp_path: Path) -> Path:
    sign(bundle, name="tiny-fp8", signer=PrivateKey(path=tmp_path / "key.pem"))
    return bundle


def problems(bundle: Path, trusted: Trusted) -> list[str]:
    return signature_check.problems(bundle, checksums.listing(bundle), trusted)


def by_key(bundle: Path) -> list[str]:
    return problems(bundle, PublicKey(path=bundle.parent / "public.pem"))


def by_root(bundle: Path) -> list[str]:
    return problems(bundle, CertificateChain(paths=(bundle.parent / "root.pem",)))


def sign_with_certificate(bundle: Path, *, password: str | None = None, **leaf: Any) -> None:
    """By a key that an intermediate vouches for, which a root vouches for; all of them beside the bundle."""
    beside = bundle.parent
    root, middle, own = keys.new_key(), keys.new_key(ec.SECP384R1()), keys.new_key()
    keys.write_certificate(keys.certificate("root", root, authority=True), beside / "root.pem")
    between = keys.certificate("middle", middle, issuer=("root", root), authority=True)
    keys.write_certificate(between, beside / "middle.pem")
    mine = keys.certificate("releases", own, issuer=("middle", middle), **leaf)
    keys.write_certificate(mine, beside / "own.pem")
    keys.write_private(own, beside / "own.key", password)
    signer = PrivateKey(
        path=beside / "own.key",
        certificate=beside / "own.pem",
        chain=(beside / "middle.pem",),
        password=(lambda: password) if password else None,
    )
    sign(bundle, name="tiny-fp8", signer=signer)


def test_a_signed_bundle_is_good_and_any_change_to_it_is_told(signed: Path) -> None:
    assert by_key(signed) == []

    (signed / "model.safetensors").write_bytes(bytes(99) + b"\1")
    (signed / "evidence" / "parity.json").unlink()
    (signed / "evidence" / "more.json").write_text("{}")

    assert by_key(signed) == [
        "evidence/parity.json was signed, and is missing.",
        "evidence/more.json is not covered by the signature.",
        "model.safetensors is not what was signed.",
    ]


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_every_curve_of_the_format_signs(bundle: Path, curve: ec.EllipticCurve) -> None:
    made = keys.new_key(curve)
    sign(bundle, name="tiny", signer=PrivateKey(path=keys.write_private(made, bundle.parent / "key.pem")))
    keys.write_public(made, bundle.parent / "public.pem")

    assert by_key(bundle) == []


def test_the_library_alone_takes_it_for_good_too(signed: Path) -> None:
    """Whoever does not have quark-eagle checks with model-signing; also what the hub has put its own files beside."""
    (signed / ".gitattributes").write_text("")
    (signed / ".cache" / "huggingface").mkdir(parents=True)
    (signed / ".cache" / "huggingface" / "x").write_text("")
    command = ["verify", "key", str(signed), "--signature", str(signed / SIGNATURE)]
    options = ["--public_key", str(signed.parent / "public.pem")]

    done = subprocess.run(
        [sys.executable, "-m", "model_signing", *command, *options], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert by_key(signed) == []


def test_what_is_signed_is_the_releases_name_and_all_its_files(signed: Path) -> None:
    said = SignatureFile.read(signed / SIGNATURE)

    assert said.name == "tiny-fp8"
    assert said.made_with == "key"
    assert said.hashes.keys() == {"SHA256SUMS", "model.safetensors", "evidence/parity.json"}
    assert (
        "staging"
        not in base64.b64decode(json.loads((signed / SIGNATURE).read_text())["dsseEnvelope"]["payload"]).decode()
    )


def test_another_key_is_refused(signed: Path, tmp_path: Path) -> None:
    keys.write_public(keys.new_key(), tmp_path / "public.pem")

    (said,) = by_key(signed)
    assert said.startswith(f"model.sig is not by the key {tmp_path / 'public.pem'}: Key mismatch")


def test_a_forged_key_hint_does_not_help(signed: Path, tmp_path: Path) -> None:
    """The hint says which key signed; saying so is not having signed."""
    other = keys.new_key()
    hint = json.loads((signed / SIGNATURE).read_text())["verificationMaterial"]
    sign(signed, name="tiny-fp8", signer=PrivateKey(path=keys.write_private(other, tmp_path / "other.pem")))
    forged = json.loads((signed / SIGNATURE).read_text()) | {"verificationMaterial": hint}
    (signed / SIGNATURE).write_text(json.dumps(forged))

    (said,) = by_key(signed)
    assert "what it signs was signed by another key, or changed since" in said


def test_a_key_with_a_password_is_unlocked_in_memory_alone(
    bundle: Path, key: keys.Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = keys.write_private(key, bundle.parent / "locked.pem", "secret")
    monkeypatch.setenv("KEY_PASSWORD", "secret")
    before = sorted(bundle.parent.rglob("*"))

    sign(bundle, name="tiny", signer=PrivateKey(path=locked, password=password_in("KEY_PASSWORD")))

    assert by_key(bundle) == []
    assert sorted(bundle.parent.rglob("*")) == sorted([*before, bundle / SIGNATURE])


@pytest.mark.parametrize(
    ("password", "said"),
    [
        (None, "has a password. Name the environment variable"),
        (lambda: "guess", "could not be unlocked: the password is wrong"),
        (password_in("NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE: is not set"),
    ],
)
def test_a_password_that_is_wrong_is_the_users_mistake_and_is_not_repeated(
    bundle: Path, key: keys.Key, password: Callable[[], str] | None, said: str
) -> None:
    locked = keys.write_private(key, bundle.parent / "locked.pem", "secret")

    with pytest.raises(UsageError, match=said) as refused:
        sign(bundle, name="tiny", signer=PrivateKey(path=locked, password=password))

    assert "guess" not in str(refused.value)
    assert not (bundle / SIGNATURE).exists()


def _rsa() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, plain)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: b"no key", "is no private key in PEM"),
        (_rsa, "is RSAPrivateKey, but the format knows secp256r1"),
    ],
)
def test_a_key_that_cannot_sign_is_refused(bundle: Path, content: Callable[[], bytes], said: str) -> None:
    path = bundle.parent / "key.pem"
    path.write_bytes(content())

    with pytest.raises(UsageError, match=said):
        sign(bundle, name="tiny", signer=PrivateKey(path=path))


def test_a_curve_that_the_format_does_not_know_is_refused(bundle: Path) -> None:
    path = keys.write_private(keys.new_key(ec.SECP256K1()), bundle.parent / "key.pem")

    with pytest.raises(UsageError, match="is secp256k1, but the format knows secp256r1"):
        sign(bundle, name="tiny", signer=PrivateKey(path=path))


def test_a_key_that_is_not_there_is_told(bundle: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        sign(bundle, name="tiny", signer=PrivateKey(path=bundle / "nowhere.pem"))


def test_a_certificate_is_checked_up_to_the_root(bundle: Path) -> None:
    sign_with_certificate(bundle)
    assert by_root(bundle) == []

    (bundle / "model.safetensors").write_bytes(b"")
    assert by_root(bundle) == ["model.safetensors is not what was signed."]


def test_a_certificates_key_may_have_a_password(bundle: Path) -> None:
    """The library alone cannot: it takes none in this mode."""
    sign_with_certificate(bundle, password="secret")

    assert by_root(bundle) == []


def test_another_root_does_not_vouch(bundle: Path) -> None:
    sign_with_certificate(bundle)
    keys.write_certificate(keys.certificate("root", keys.new_key(), authority=True), bundle.parent / "root.pem")

    (said,) = by_root(bundle)
    assert "its certificate is not vouched for" in said


def test_an_expired_certificate_is_taken_as_it_was_when_it_began(bundle: Path) -> None:
    """What the docs say of the library, so that nobody relies on an expiry."""
    sign_with_certificate(bundle, years=(2024, 2025))

    assert by_root(bundle) == []


def test_a_certificate_that_may_not_sign_is_refused_before_it_does(bundle: Path) -> None:
    with pytest.raises(UsageError, match="needs the key usage digitalSignature"):
        sign_with_certificate(bundle, may_sign=False)
    assert not (bundle / SIGNATURE).exists()


def test_a_certificate_of_another_key_is_refused(bundle: Path, key: keys.Key, tmp_path: Path) -> None:
    other = keys.write_certificate(keys.certificate("other", keys.new_key()), tmp_path / "other.pem")

    with pytest.raises(UsageError, match=r"other\.pem: is no certificate of .*key\.pem"):
        sign(bundle, name="tiny", signer=PrivateKey(path=tmp_path / "key.pem", certificate=other))


def test_a_signature_of_another_kind_is_no_signature_by_this_key(signed: Path) -> None:
    """Whoever cannot sign with the key may not get by with a certificate of their own."""
    keys.write_certificate(keys.certificate("root", keys.new_key(), authority=True), signed.parent / "root.pem")
    assert by_root(signed) == [
        "model.sig was made with a key (--public-key), but should have been with a certificate (--certificate-chain)."
    ]

    sign_with_certificate(signed)
    assert by_key(signed) == [
        "model.sig was made with a certificate (--certificate-chain), but should have been with a key (--public-key)."
    ]


@pytest.mark.parametrize("private", [True, False])
def test_what_is_no_public_key_is_the_users_mistake(signed: Path, private: bool) -> None:
    path = signed.parent / ("key.pem" if private else "no.pem")
    if not private:
        path.write_text("no key")

    with pytest.raises(UsageError, match="is no public key in PEM") as refused:
        trusting(PublicKey(path=path))
    assert ("It is a private one" in str(refused.value)) == private


def test_what_is_no_certificate_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")

    with pytest.raises(UsageError, match=r"no\.pem vouches for: is not in PEM"):
        trusting(CertificateChain(paths=(tmp_path / "no.pem",)))
    with pytest.raises(StorageError, match="could not be read"):
        trusting(CertificateChain(paths=(tmp_path / "nowhere.pem",)))


@pytest.mark.parametrize("checking", [True, False])
def test_sigstore_that_cannot_be_reached_is_neither_a_bug_nor_a_verdict(
    bundle: Path, checking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own keys are fetched first, here from an address that nobody answers at."""
    import sigstore.models

    monkeypatch.setattr(sigstore.models, "DEFAULT_TUF_URL", "http://127.0.0.1:9")
    someone = Identity(identity="someone@example.org", provider="https://accounts.example.org")

    with pytest.raises(QuarkEagleError, match="network") as refused:
        trusting(someone) if checking else sign(bundle, name="tiny", signer=Keyless(identity_token="token"))

    assert not isinstance(refused.value, UsageError)
    assert not (bundle / SIGNATURE).exists()


def _bundle(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return changed


def _statement(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def of_payload(document: dict[str, Any]) -> None:
        statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
        change(statement)
        document["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

    return _bundle(of_payload)


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "no text": lambda _: b"\xff\xfe",
    "cut off": lambda content: content[: len(content) // 2],
    "a list": lambda _: b"[]",
    "nested": lambda _: b"[" * 100_000,
    "nested inside": _bundle(lambda it: it.update(verificationMaterial=json.loads("[" * 900 + "]" * 900))),
    "no material": _bundle(lambda it: it.pop("verificationMaterial")),
    "empty material": _bundle(lambda it: it.update(verificationMaterial={})),
    "two materials": _bundle(lambda it: it["verificationMaterial"].update(certificate={"rawBytes": "AA=="})),
    "an empty chain": _bundle(
        lambda it: it.update(verificationMaterial={"x509CertificateChain": {"certificates": [1]}})
    ),
    "no envelope": _bundle(lambda it: it.pop("dsseEnvelope")),
    "no signature in it": _bundle(lambda it: it["dsseEnvelope"].update(signatures=[])),
    "a signature of numbers": _bundle(lambda it: it["dsseEnvelope"].update(signatures=[{"sig": 1}])),
    "a signature that is none": _bundle(lambda it: it["dsseEnvelope"]["signatures"][0].update(sig="!")),
    "a payload that is none": _bundle(lambda it: it["dsseEnvelope"].update(payload="!")),
    "another payload type": _bundle(lambda it: it["dsseEnvelope"].update(payloadType="text/plain")),
    "another media type": _bundle(lambda it: it.update(mediaType="application/json")),
    "no predicate": _statement(lambda it: it.pop("predicate")),
    "no subject": _statement(lambda it: it.update(subject=[])),
    "an old predicate": _statement(lambda it: it.update(predicateType="https://model_signing/Digests/v0.1")),
    "shards": _statement(lambda it: it["predicate"]["serialization"].update(method="shards")),
    "another hash": _statement(lambda it: it["predicate"]["resources"][0].update(algorithm="md5")),
    "a hash that is none": _statement(lambda it: it["predicate"]["resources"][0].update(digest="xyz")),
    "a file twice": _statement(lambda it: it["predicate"]["resources"].append(it["predicate"]["resources"][0])),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_damaged_signature_is_a_finding_and_never_a_traceback(signed: Path, hostile: str) -> None:
    content = (signed / SIGNATURE).read_bytes()
    (signed / SIGNATURE).write_bytes(HOSTILE[hostile](content))

    (said,) = by_key(signed)

    assert said.startswith("model.sig: ")
    assert said.removeprefix("model.sig: ").replace("\n", "").isprintable()


@pytest.mark.parametrize("certificate", [b"", b"\x30\x03\x02\x01\x01", "rsa"])
def test_a_chain_of_garbage_is_a_finding(bundle: Path, certificate: bytes | str) -> None:
    sign_with_certificate(bundle)
    document = json.loads((bundle / SIGNATURE).read_text())
    chain = document["verificationMaterial"]["x509CertificateChain"]["certificates"]
    if certificate == "rsa":
        pair = rsa.generate_private_key(65537, 2048)
        made = keys.certificate("rsa", pair)  # type: ignore[arg-type]
        certificate = made.public_bytes(serialization.Encoding.DER)
    assert isinstance(certificate, bytes)
    chain[0]["rawBytes"] = base64.b64encode(certificate).decode()
    (bundle / SIGNATURE).write_text(json.dumps(document))

    assert by_root(bundle) == ["model.sig: its first certificate is no elliptic key's, so it cannot have signed."]


def test_a_signature_that_leaves_files_out_does_not_cover_them(signed: Path, tmp_path: Path) -> None:
    """A signature says itself what it ignores, and a plain verifier follows it."""
    from model_signing import hashing, signing

    ignoring = hashing.Config().set_ignored_paths(paths=[SIGNATURE, "evidence"])
    config = signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem").set_hashing_config(ignoring)
    config.sign(signed, signed / SIGNATURE)

    assert by_key(signed) == ["evidence/parity.json is not covered by the signature."]


def test_a_bug_in_the_library_is_no_verdict(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_signing import verifying

    def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(verifying.Config, "verify", broken)

    with pytest.raises(KeyError, match="a bug"):
        by_key(signed)


def test_the_librarys_warnings_do_not_reach_stdout(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads((signed / SIGNATURE).read_text())
    document["verificationMaterial"]["publicKey"]["hint"] = ""
    (signed / SIGNATURE).write_text(json.dumps(document))

    by_key(signed)

    printed = capsys.readouterr()
    assert printed.out == ""
    assert "older verification material" in printed.err
