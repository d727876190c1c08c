"""SignatureFile: what a model.sig says, read strictly before any library is asked whether it is true.

The OpenSSF model signing format: a Sigstore bundle (https://docs.sigstore.dev/about/bundle/) around a DSSE envelope
around an in-toto statement, whose predicate lists each file with its hash. Everything that the `model-signing` library
takes for granted of that shape is checked here, so that a damaged file is a finding, and whatever the library still
stumbles over is a bug.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from quark_eagle.errors import QuarkEagleError, StorageError, findings
from quark_eagle.release.checksums import shown
from quark_eagle.release.contents import SIGNATURE

MadeWith = Literal["key", "certificate", "keyless"]
"""How a signature was made: with a bare key, with one that certificates vouch for, or with an identity (Sigstore)."""

_LARGEST = 64 << 20
_TYPES = {"x509CertificateChain": "certificate", "publicKey": "key", "certificate": "keyless"}


class _Part(BaseModel):
    """Of a format that others may extend: what is not known here is left to the library."""

    model_config = ConfigDict(strict=True, alias_generator=to_camel)


class _Signature(_Part):
    sig: str


class _Envelope(_Part):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: Annotated[list[_Signature], Field(min_length=1, max_length=1)]


class _Bundle(_Part):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: dict[str, Any]
    dsse_envelope: _Envelope


class _Digest(_Part):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Subject(_Part):
    name: str
    digest: _Digest


class _Resource(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    algorithm: Literal["sha256"]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Serialization(BaseModel):
    model_config = ConfigDict(strict=True)

    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: bool
    ignore_paths: list[str] = []


class _Predicate(BaseModel):
    model_config = ConfigDict(strict=True)

    serialization: _Serialization
    resources: list[_Resource]


class _Statement(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[list[_Subject], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["https://model_signing/signature/v1.0"], Field(alias="predicateType")]
    predicate: _Predicate


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureFile:
    """What a signature says before anybody asked whether it is true.

    Attributes:
        made_with: what checks it.
        certificates: in DER, the signer's own first, where it was made with a certificate.
        name: of what was signed, as the signer called it.
        hashes: sha256 of each file that it covers, by path.
    """

    made_with: MadeWith
    certificates: tuple[bytes, ...]
    name: str
    hashes: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> SignatureFile:
        """What the file says.

        Raises:
            QuarkEagleError: it is not such a signature, or is one of a kind that a release never makes.
            StorageError: it may not be read.
        """
        try:
            if path.stat().st_size > _LARGEST:
                raise QuarkEagleError(f"{SIGNATURE}: has {path.stat().st_size} bytes; no signature is as large.")
            content = path.read_bytes()
        except OSError as error:
            raise StorageError(f"{path}: could not be read ({error.strerror}). Fetch it again.") from error
        try:
            bundle = _Bundle.model_validate_json(content)
            statement = _Statement.model_validate_json(_decoded(bundle.dsse_envelope.payload))
            _decoded(bundle.dsse_envelope.signatures[0].sig)
            made_with, certificates = _material(bundle.verification_material)
        except ValidationError as error:
            raise _refusal([f"{'.'.join(map(str, it['loc']))}: {it['msg']}." for it in error.errors()[:10]]) from error
        except (ValueError, RecursionError) as error:
            raise _refusal([f"{error}."]) from error
        resources = statement.predicate.resources
        hashes = {resource.name: resource.digest for resource in resources}
        if len(hashes) != len(resources):
            raise _refusal(["names a file twice."])
        return cls(made_with=made_with, certificates=certificates, name=statement.subject[0].name, hashes=hashes)


def _material(material: Mapping[str, Any]) -> tuple[MadeWith, tuple[bytes, ...]]:
    """What it was made with, and the certificates that it brings along.

    Raises:
        ValueError: that cannot be told.
    """
    kinds = [kind for name, kind in _TYPES.items() if material.get(name)]
    if kinds == ["key"]:
        return "key", ()
    if kinds == ["keyless"]:
        return "keyless", ()
    if kinds != ["certificate"]:
        raise ValueError("does not say whether a key, a certificate or an identity made it")
    try:
        chain = [_decoded(certificate["rawBytes"]) for certificate in material["x509CertificateChain"]["certificates"]]
    except (KeyError, TypeError) as error:
        raise ValueError("holds a certificate chain that is none") from error
    if not chain:
        raise ValueError("holds an empty certificate chain")
    return "certificate", tuple(chain)


def _decoded(text: str) -> bytes:
    """Raises: ValueError if it is not base64."""
    if not isinstance(text, str):
        raise TypeError("not a string")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"holds what is not base64 ({error})") from error


def _refusal(problems: list[str]) -> QuarkEagleError:
    advice = "It is no signature of the OpenSSF model signing format, over files by their SHA-256. Fetch it again."
    return QuarkEagleError(findings(SIGNATURE, [shown(problem) for problem in problems], advice))
