"""Keys and certificates, made where they are needed: none lies in the repository."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey


def new_key(curve: ec.EllipticCurve | None = None) -> Key:
    return ec.generate_private_key(curve or ec.SECP256R1())


def write_private(key: Key, path: Path, password: str | None = None) -> Path:
    locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    return path


def write_public(key: Key, path: Path) -> Path:
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, info))
    return path


def certificate(
    name: str,
    key: Key,
    *,
    issuer: tuple[str, Key] | None = None,
    authority: bool = False,
    may_sign: bool = True,
    years: Sequence[int] = (2024, 2044),
) -> x509.Certificate:
    """A certificate of a key, by an issuer or by itself."""
    issuer_name, issuer_key = issuer or (name, key)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    begin, end = (datetime(year, 1, 1, tzinfo=timezone.utc) for year in years)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=may_sign and not authority,
                key_cert_sign=authority,
                crl_sign=authority,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
        .sign(issuer_key, hashes.SHA256())
    )


def write_certificate(made: x509.Certificate, path: Path) -> Path:
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return path
