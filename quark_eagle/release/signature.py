"""model.sig: the signature of a bundle in the OpenSSF model signing format, made by the `model-signing` library.

It covers every file of the bundle but itself: each by its path and SHA-256, in an in-toto statement. The key's owner
vouches for the bytes, and with them for the evidence; checking it (`release.signature_check`) needs no network, but for
one that was made without a key. Where model-signing 1.1.1 falls short of what a release needs:

* The name that it signs is the directory's (`_serialization/file.py`), which while a release is made is a hidden
  sibling's. The release's own name is signed instead.
* It reads keys from paths alone, and for a certificate's key takes no password (`_signing/sign_certificate.py`). Keys
  are read here, and handed over through a pipe: an unlocked key is never in a file.
* A certificate that may not sign is refused when the signature is checked. Here, before anything is signed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from quark_eagle.errors import QuarkEagleError, StorageError, UsageError
from quark_eagle.release.checksums import FETCHED_WITH
from quark_eagle.release.contents import SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from model_signing import hashing, signing

CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""Of keys that the format knows; openssl calls the first prime256v1."""
_MAKE_A_KEY = "Make one with `openssl ecparam -name prime256v1 -genkey -noout -out key.pem`."


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateKey:
    """An elliptic key in PEM, and the certificate that vouches for it if there is one.

    Attributes:
        path: of the key.
        password: asked for the password, if the key has one; None where nobody can be asked.
        certificate: of the key, in PEM.
        chain: that vouches for the certificate, in PEM, up to the root or just below it.
    """

    path: Path
    password: Callable[[], str] | None = None
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyless:
    """Sigstore: an identity proved to an OpenID provider over the network, and written into a public log.

    Attributes:
        identity_token: of the provider; None takes the workflow's, and where there is none opens a browser.
        staging: Sigstore's own instance for trials.
    """

    identity_token: str | None = None
    staging: bool = False


def password_in(variable: str) -> Callable[[], str]:
    """A password that lies in an environment variable: never on a command line, which every process may read."""

    def password() -> str:
        if variable not in os.environ:
            raise UsageError(f"{variable}: is not set, but was to hold the key's password. Export it.")
        return os.environ[variable]

    return password


def sign(bundle: Path, *, name: str, signer: PrivateKey | Keyless) -> Path:
    """Sign everything that lies in a bundle, and return where the signature lies.

    Args:
        bundle: whole, with its SHA256SUMS; a signature in it is replaced.
        name: of the release, for the record.
        signer: in whose name.

    Raises:
        UsageError: the key cannot sign, or its password is wrong.
        QuarkEagleError: the identity could not be proved.
        StorageError: a file may not be read or written.
    """
    path = bundle / SIGNATURE
    config = _config(name)
    try:
        if isinstance(signer, Keyless):
            _sign_keyless(config, signer, bundle, path)
        else:
            with _unlocked(signer) as key:
                _use_key(config, signer, key).sign(bundle, path)
    except OSError as error:
        raise StorageError(f"{path}: could not be made ({error}).") from error
    return path


def public_half(signer: PrivateKey) -> bytes:
    """The public key of a private one, in PEM.

    Raises:
        UsageError: it cannot, its password is wrong, or its certificate is another key's.
        StorageError: a file may not be read.
    """
    from cryptography.hazmat.primitives import serialization

    require_can_sign(signer)
    return (
        _private_key(signer)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def require_can_sign(signer: PrivateKey) -> None:
    """See before the work that a key can be unlocked and may sign, and that its certificates are its own.

    Raises:
        UsageError: the key cannot sign, its password is wrong, or a certificate is not of it.
        StorageError: one may not be read.
    """
    try:
        with _unlocked(signer) as key:
            _use_key(_config("none"), signer, key)
    except OSError as error:
        raise StorageError(f"{signer.path}: it or a certificate could not be read ({error}). Name files.") from error


def _config(name: str) -> signing.Config:
    from model_signing import signing

    return signing.Config().set_hashing_config(_hashing(name))  # type: ignore[no-untyped-call]


def _hashing(name: str) -> hashing.Config:
    """How a bundle is hashed: files by SHA-256, no link, everything but the signature and what the hub puts beside.

    What is left out is recorded in the signature, so that a plain `model_signing verify` leaves out the same.
    """
    from model_signing import hashing, manifest

    class Named(hashing.Config):
        """The library's own hashing; only the name is not the directory's."""

        def hash(self, model_path: hashing.PathLike, **options: Any) -> manifest.Manifest:
            found = super().hash(model_path, **options)
            items = [
                manifest.FileManifestItem(path=PurePosixPath(each.identifier), digest=each.digest)
                for each in found.resource_descriptors()
            ]
            return manifest.Manifest(name, items, manifest.SerializationType.from_args(found.serialization_type))

    made = Named()  # type: ignore[no-untyped-call]
    return made.set_ignored_paths(paths=[SIGNATURE, *FETCHED_WITH], ignore_git_paths=False)


def _use_key(config: signing.Config, signer: PrivateKey, key: Path) -> signing.Config:
    if signer.certificate is None:
        return config.use_elliptic_key_signer(private_key=key)
    try:
        return config.use_certificate_signer(
            private_key=key, signing_certificate=signer.certificate, certificate_chain=signer.chain
        )
    except ValueError as error:  # not PEM, or another key's
        named = ", ".join(map(str, (signer.certificate, *signer.chain)))
        raise UsageError(f"{named}: is no certificate of {signer.path}, or no chain of one ({error}).") from error


@contextmanager
def _unlocked(signer: PrivateKey) -> Iterator[Path]:
    """The key without its password, as a path that can be read once: the end of a pipe.

    Raises:
        UsageError: it is no elliptic key that may sign, or its password is wrong.
        StorageError: it may not be read.
    """
    from cryptography.hazmat.primitives import serialization

    key = _private_key(signer)
    if signer.certificate is not None:
        _require_may_sign(signer.certificate)
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    read, write = os.pipe()
    try:
        os.write(write, encoded)  # some 240 bytes: a pipe takes 4096 at once
        os.close(write)
        yield Path(f"/dev/fd/{read}")
    finally:
        os.close(read)


def _private_key(signer: PrivateKey) -> EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _content(signer.path)
    locked = b"ENCRYPTED" in content
    if locked and signer.password is None:
        raise UsageError(f"{signer.path}: has a password. Name the environment variable that holds it.")
    password = signer.password().encode() if locked and signer.password is not None else None
    try:
        key = load_pem_private_key(content, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = "could not be unlocked: the password is wrong, or" if locked else "is no private key in PEM, or"
        # Not chained: what the library says may quote the key.
        raise UsageError(f"{signer.path}: {what} the file is damaged. {_MAKE_A_KEY}") from (None if locked else error)
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        found = key.curve.name if isinstance(key, EllipticCurvePrivateKey) else type(key).__name__
        raise UsageError(f"{signer.path}: is {found}, but the format knows {', '.join(CURVES)}. {_MAKE_A_KEY}")
    return key


def _require_may_sign(path: Path) -> None:
    """Refuse a certificate whose key usage nobody would accept a signature from.

    Raises:
        UsageError: it is no certificate, or one for something else.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        extensions = x509.load_pem_x509_certificate(_content(path)).extensions
    except ValueError as error:
        raise UsageError(f"{path}: is no certificate in PEM ({error}).") from error
    usages = {type(extension.value): extension.value for extension in extensions}
    usage, extended = usages.get(x509.KeyUsage), usages.get(x509.ExtendedKeyUsage)
    signs = isinstance(usage, x509.KeyUsage) and usage.digital_signature
    if not signs and not (isinstance(extended, x509.ExtendedKeyUsage) and ExtendedKeyUsageOID.CODE_SIGNING in extended):
        raise UsageError(f"{path}: is not for signing: it needs the key usage digitalSignature. Have another issued.")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: could not be read ({error.strerror}). Name the key's file.") from error


def _sign_keyless(config: signing.Config, signer: Keyless, bundle: Path, path: Path) -> None:
    """Raises: QuarkEagleError if Sigstore could not be reached or the identity not be proved."""
    from sigstore.errors import Error
    from sigstore.oidc import IdentityError, IssuerError

    try:
        config.use_sigstore_signer(
            use_ambient_credentials=True, use_staging=signer.staging, identity_token=signer.identity_token
        ).sign(bundle, path)
    except (Error, IdentityError, IssuerError) as error:
        raise QuarkEagleError(
            f"{SIGNATURE}: Sigstore did not sign ({error}). It needs the network and an identity that it knows. "
            "Sign with a key instead, which needs neither."
        ) from error
