"""`quark-eagle verify-release`: is a bundle as it was released?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quark_eagle.cli.options import JsonFlag, OptionalTraceOption

if TYPE_CHECKING:
    from quark_eagle.release.signature_check import Trusted


def verify_release(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Directory that `release` wrote.", show_default=False)
    ],
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="PEM", help="Public key of whoever should have signed it.", show_default=False),
    ] = None,
    certificate_chain: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PEM",
            help="Certificate that vouches for the signer's: the root, and again for each below it.",
            show_default=False,
        ),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            metavar="WHO", help="Who should have signed it without a key; takes the network.", show_default=False
        ),
    ] = None,
    identity_provider: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenID provider that knows --identity.", show_default=False),
    ] = None,
    require_signature: Annotated[
        bool, typer.Option("--require-signature", help="Refuse to check without one of the options above.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="DRAFT",
            help="BF16 draft, directory or Hugging Face id, that it should have been made from: compare every byte.",
            show_default=False,
        ),
    ] = None,
    trace: OptionalTraceOption = None,
    require_arch: Annotated[
        str | None,
        typer.Option(metavar="ARCH", help="Where everything had to be measured: gfx950.", show_default=False),
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Say whether BUNDLE is as it was released, with no network: every check, and every difference.

    Every file is hashed, the signature checked if a key is given, and what the bundle says is made again from what it
    stands on: verdict, engine's rules, statistics, card and report.

    Exits with 0 if all is as it was released, 3 if something is not, 5 if it is no bundle, or something that was asked
    for could not be checked.

    Example: quark-eagle verify-release draft-fp8 --public-key signer.pem --source draft
    """
    from quark_eagle.checkpoint.source import resolve
    from quark_eagle.cli import render, verify_release_output
    from quark_eagle.cli.path_options import require_paths
    from quark_eagle.errors import UsageError
    from quark_eagle.release.extra import require_extra

    require_extra()  # what follows imports it
    from quark_eagle.release.checking import Asked
    from quark_eagle.release.verify_release import verify_release as check

    require_paths(
        {
            "BUNDLE": bundle,
            "--public-key": public_key,
            "--certificate-chain": certificate_chain,
            "--source": source,
            "--trace": trace,
        }
    )
    if require_arch is not None and not require_arch.strip():
        raise UsageError("--require-arch: is empty, but the name of an arch was needed: gfx950.")
    trusted = _trusted(public_key, certificate_chain or [], identity, identity_provider, required=require_signature)
    asked = Asked(trusted=trusted, source=None if source is None else resolve(source), trace=trace, arch=require_arch)
    made = check(bundle, asked, render.progress(quiet=json_))
    if json_:
        render.emit(made.to_json())
    else:
        verify_release_output.show(made)
    raise typer.Exit(made.exit_code)


def _trusted(
    public_key: Path | None, chain: list[Path], identity: str | None, provider: str | None, *, required: bool
) -> Trusted | None:
    """Who should have signed, as the options say it.

    Raises:
        UsageError: they say it twice, or by half.
    """
    from quark_eagle.errors import UsageError
    from quark_eagle.release.signature_check import CertificateChain, Identity, PublicKey

    given = {"--public-key": public_key, "--certificate-chain": chain, "--identity": identity}
    names = [name for name, value in given.items() if value]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)}: a bundle has one signature, made in one way. Give one of them.")
    if (identity is None) != (provider is None):
        raise UsageError("--identity and --identity-provider: say who signed and who knows them. Give both.")
    if required and not names:
        raise UsageError(f"--require-signature: nothing says whose it should be. Give one of {', '.join(given)}.")
    if public_key is not None:
        return PublicKey(path=public_key)
    if chain:
        return CertificateChain(paths=tuple(chain))
    if identity is not None and provider is not None:
        return Identity(identity=identity, provider=provider)
    return None
