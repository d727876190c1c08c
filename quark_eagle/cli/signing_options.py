"""How a release is signed: by a key, by a certificate's key, or keyless. Key and password never reach a log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from quark_eagle.release.signature import Keyless, PrivateKey

SigningKeyOption = Annotated[
    Path | None,
    typer.Option("--signing-key", metavar="KEY.pem", help="Sign with this private key (elliptic, PEM); offline."),
]
PasswordOption = Annotated[
    str | None,
    typer.Option(
        "--signing-password-env", metavar="NAME", help="Environment variable that holds the password of the key."
    ),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option(
        "--signing-certificate", metavar="CERT.pem", help="With --signing-key: the certificate of that key; offline."
    ),
]
ChainOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--certificate-chain",
        metavar="CERT.pem",
        help="With --signing-certificate: who vouches for it, up to the root. May be repeated.",
    ),
]
KeylessFlag = Annotated[
    bool,
    typer.Option("--keyless", help="Sign with Sigstore: an identity, proved over the network, in a public log."),
]


def signer(
    key: Path | None, password_env: str | None, certificate: Path | None, chain: list[Path] | None, keyless: bool
) -> PrivateKey | Keyless | None:
    """Who signs; None if nobody does.

    Raises:
        UsageError: options that contradict each other, or that nobody would read; all of them.
    """
    from quark_eagle.errors import UsageError
    from quark_eagle.release.signature import Keyless, PrivateKey, password_in

    of_a_key = {"--signing-password-env": password_env, "--signing-certificate": certificate}
    problems = [
        f"{option}: is about --signing-key. Give it too." for option, value in of_a_key.items() if value and not key
    ]
    if chain and certificate is None:
        problems.append("--certificate-chain: vouches for --signing-certificate. Give it too.")
    if certificate is not None and not chain:
        problems.append("--signing-certificate: nobody vouches for it. Give --certificate-chain too.")
    if keyless and key is not None:
        problems.append("--keyless and --signing-key: one signature was needed. Give one of them.")
    named = [("--signing-key", key), ("--signing-certificate", certificate)]
    named += [("--certificate-chain", path) for path in chain or []]
    problems += [f"{option} {path}: is no file." for option, path in named if path is not None and not path.is_file()]
    if problems:
        raise UsageError("\n".join(problems))
    if keyless:
        return Keyless()
    if key is None:
        return None
    password = None if password_env is None else password_in(password_env)
    if password is not None:
        password()  # that the variable is set is seen now, and not after the work
    return PrivateKey(
        path=key,
        password=password,
        certificate=certificate,
        chain=tuple(chain or ()),
    )
