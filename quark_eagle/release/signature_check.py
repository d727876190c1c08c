"""Is model.sig by whom it should be, and does it cover what lies in the bundle? An answer, never an exception.

The `model-signing` library checks the signature itself and hashes the files a second time, on a road of its own. It
says "another key", "a changed file" and "a broken configuration" all by ValueError, and takes the shape of the file for
granted (KeyError, AttributeError, IndexError where it is another): so the shape is checked before it is asked
(`SignatureFile`), only the exceptions that are its verdict are caught, and whatever else comes out of it is a bug and
keeps its traceback. It prints warnings to stdout, which belongs to the answer: they go to stderr.

Two things that its verdict leaves open are asked here. A signature says itself which files it does not cover: so every
file of the bundle has to be among those it names. And a certificate is taken as it was when it began to hold: one that
has expired or was revoked since still verifies.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quark_eagle.errors import QuarkEagleError, StorageError, UsageError
from quark_eagle.progress import SILENT, Progress
from quark_eagle.release.checksums import Listing, shown
from quark_eagle.release.contents import SIGNATURE
from quark_eagle.release.signature import CURVES
from quark_eagle.release.signature_file import MadeWith, SignatureFile

if TYPE_CHECKING:
    from model_signing import hashing, verifying

_IN_WORDS: Mapping[MadeWith, str] = {
    "key": "a key (--public-key)",
    "certificate": "a certificate (--certificate-chain)",
    "keyless": "an identity (--identity)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """The public half of the signer's key, in PEM."""

    path: Path

    def __str__(self) -> str:
        """As a person would say it."""
        return f"the key {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateChain:
    """Certificates that are trusted, in PEM: the root, and those below it that the signature does not bring along."""

    paths: tuple[Path, ...]

    def __str__(self) -> str:
        """As a person would say it."""
        return f"a certificate that {', '.join(map(str, self.paths))} vouches for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who signed without a key, and which OpenID provider knows them."""

    identity: str
    provider: str

    def __str__(self) -> str:
        """As a person would say it."""
        return f"{self.identity}, known to {self.provider}"


Trusted = PublicKey | CertificateChain | Identity

_MADE_WITH: Mapping[type, MadeWith] = {PublicKey: "key", CertificateChain: "certificate", Identity: "keyless"}


def trusting(trusted: Trusted) -> verifying.Config:
    """The library's verifier for whoever is trusted.

    Raises:
        UsageError: a file holds no key or certificate that could have signed.
        StorageError: it may not be read.
        QuarkEagleError: Sigstore's own keys could not be fetched.
    """
    from model_signing import verifying

    config = verifying.Config()  # type: ignore[no-untyped-call]
    try:
        if isinstance(trusted, PublicKey):
            _require_elliptic(trusted.path)
            return config.use_elliptic_key_verifier(public_key=trusted.path)
        if isinstance(trusted, CertificateChain):
            return config.use_certificate_verifier(certificate_chain=trusted.paths)
        return _knowing(config, trusted)
    except OSError as error:
        raise StorageError(f"{error.filename or trusted}: could not be read ({error}). Name the file.") from error
    except ValueError as error:
        raise UsageError(f"{trusted}: is not in PEM ({error}). Give the file that the signer published.") from error


def _knowing(config: verifying.Config, trusted: Identity) -> verifying.Config:
    from sigstore.errors import Error

    try:
        return config.use_sigstore_verifier(identity=trusted.identity, oidc_issuer=trusted.provider)
    except (Error, OSError) as error:
        raise QuarkEagleError(
            f"--identity: Sigstore's own keys could not be fetched ({error}). A signature without a key is checked "
            "with them, which takes the network. Nothing is known of this one."
        ) from error


def _require_elliptic(path: Path) -> None:
    """Raises: UsageError if a file does not hold a public key of a curve that the format knows."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = path.read_bytes()
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        private = " It is a private one, which nobody else should have." if b"PRIVATE KEY" in content else ""
        raise UsageError(
            f"{path}: is no public key in PEM.{private} `openssl ec -in key.pem -pubout` prints one's public half."
        ) from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise UsageError(f"{path}: is no elliptic key of {', '.join(CURVES)}, so it signed nothing of this format.")


def problems(
    bundle: Path,
    found: Listing,
    trusted: Trusted,
    *,
    verifier: verifying.Config | None = None,
    progress: Progress = SILENT,
) -> list[str]:
    """Everything that is wrong with a bundle's signature, a sentence each; none if it is good.

    Args:
        bundle: with a signature in it.
        found: everything that lies in it.
        trusted: who should have signed.
        verifier: `trusting` of it, where that was asked before.
        progress: told when the files have been hashed.

    Raises:
        UsageError: as `trusting`.
        StorageError: a file may not be read.
    """
    verifier = verifier or trusting(trusted)
    try:
        said = SignatureFile.read(bundle / SIGNATURE)
    except StorageError:
        raise
    except QuarkEagleError as error:
        return [str(error)]
    expected = _MADE_WITH[type(trusted)]
    if said.made_with != expected:
        return [
            f"{SIGNATURE} was made with {_IN_WORDS[said.made_with]}, but should have been with {_IN_WORDS[expected]}."
        ]
    if said.certificates and not _elliptic(said.certificates[0]):
        return [f"{SIGNATURE}: its first certificate is no elliptic key's, so it cannot have signed."]
    files = {name: path for name, path in found.files.items() if name != SIGNATURE}
    hashed: dict[str, str] = {}
    with progress.task("check signature", 1, "step") as task:
        wrong = _library_says(verifier.set_hashing_config(_hashing(files, into=hashed)), bundle)
        task.advance(1)
    if wrong is not None and not hashed:
        return [f"{SIGNATURE} is not by {trusted}: {wrong}."]
    return _differences(said, files.keys(), hashed, by_library=wrong)


def _library_says(verifier: verifying.Config, bundle: Path) -> str | None:
    """What the library has against a signature; None if nothing."""
    from cryptography.exceptions import InvalidSignature
    from OpenSSL.crypto import X509StoreContextError
    from sigstore.errors import VerificationError

    try:
        with redirect_stdout(sys.stderr):
            verifier.verify(bundle, bundle / SIGNATURE)
    except InvalidSignature:
        return "what it signs was signed by another key, or changed since"
    except X509StoreContextError as error:
        return f"its certificate is not vouched for ({error})"
    except VerificationError as error:
        return shown(str(error))
    except ValueError as error:  # the library's own word for everything else
        return shown(str(error).strip().removesuffix("."))
    return None


def _differences(
    said: SignatureFile, files: Collection[str], hashed: Mapping[str, str], *, by_library: str | None
) -> list[str]:
    """What of the bundle is not as it was signed, after the signature itself has been found to be true."""
    found = [f"{shown(path)} was signed, and is missing." for path in sorted(said.hashes.keys() - set(files))]
    found += [f"{path} is not covered by the signature." for path in sorted(set(files) - said.hashes.keys())]
    both = sorted(hashed.keys() & said.hashes.keys())
    found += [f"{path} is not what was signed." for path in both if hashed[path] != said.hashes[path]]
    if by_library is not None and not found:  # a difference that we do not see is one all the same
        found.append(f"{SIGNATURE}: {by_library}.")
    return found


def _hashing(files: Mapping[str, Path], *, into: dict[str, str]) -> hashing.Config:
    """The library's own hashing, of these files alone; asked for only once the signature was found to be true."""
    from model_signing import hashing, manifest

    class OfTheseFiles(hashing.Config):
        def hash(self, model_path: hashing.PathLike, **_: object) -> manifest.Manifest:
            found = super().hash(model_path, files_to_hash=list(files.values()))
            into.update({each.identifier: each.digest.digest_hex for each in found.resource_descriptors()})
            return found

    made = OfTheseFiles()  # type: ignore[no-untyped-call]
    return made.set_ignored_paths(paths=[], ignore_git_paths=False)


def _elliptic(certificate: bytes) -> bool:
    """Whether a certificate in DER is of a key that the library can check with; it takes that for granted."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(key, EllipticCurvePublicKey) and key.curve.name in CURVES
