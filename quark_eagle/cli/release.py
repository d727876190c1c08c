"""`quark-eagle release`: a checkpoint and its evidence to a bundle that anyone can check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quark_eagle.cli import save_recipe_options as saving
from quark_eagle.cli.options import JsonFlag, OptionalTraceOption, OverwriteFlag
from quark_eagle.cli.signing_options import (
    CertificateOption,
    ChainOption,
    KeylessFlag,
    PasswordOption,
    SigningKeyOption,
    signer,
)

if TYPE_CHECKING:
    from quark_eagle.parity.verdict import Rules


def release(
    context: typer.Context,
    checkpoint: Annotated[
        Path, typer.Argument(metavar="OUT", help="Checkpoint, as `quantize` wrote it.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="BUNDLE",
            help="Directory to write: it appears whole or not at all.",
            show_default=False,
        ),
    ],
    evidence: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PARITY_JSON",
            help="Measurement of OUT; twice for a replayed and a served one. Default: what `quantize` left beside OUT.",
            show_default=False,
        ),
    ] = None,
    verdict: Annotated[
        Path | None,
        typer.Option(
            metavar="VERDICT_JSON",
            help="Verdict on the measurement. Default: that beside OUT, if --evidence is not given; else it is judged.",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Calibration of static scales. Default: OUT.calibration.json.", show_default=False
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="DRAFT",
            help="BF16 draft, directory or Hugging Face id: is compared with, and says licence and base model.",
            show_default=False,
        ),
    ] = None,
    trace: OptionalTraceOption = None,
    target: Annotated[
        Path | None,
        typer.Option(metavar="TARGET", help="Directory of the target: see that it is the one of the evidence."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the release. Default: that of the repository, else of OUT.")
    ] = None,
    repo_id: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Repository on the Hugging Face hub that it is meant for.")
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Hugging Face id of the BF16 draft. Default: --source, if it is one."),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Licence, as the hub names it: apache-2.0. Default: what the draft says of itself."
        ),
    ] = None,
    target_name: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Hugging Face id or name of the target. Default: as in the evidence."),
    ] = None,
    require_arch: Annotated[
        str, typer.Option(metavar="ARCH", help="Where it had to be measured: gfx950 (MI355X), gfx942, …; or any.")
    ] = "gfx950",
    margin: Annotated[
        float | None,
        typer.Option(
            help="Judge anew: the loss of τ that is still parity, as a fraction. Default: 0.01.", show_default=False
        ),
    ] = None,
    publish_anyway: Annotated[
        bool,
        typer.Option("--publish-anyway", help="Release in spite of a verdict that is no pass. Card and report say so."),
    ] = False,
    signing_key: SigningKeyOption = None,
    signing_password_env: PasswordOption = None,
    signing_certificate: CertificateOption = None,
    certificate_chain: ChainOption = None,
    keyless: KeylessFlag = False,
    save_recipe: saving.SaveRecipeOption = None,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
) -> None:
    """Make of OUT what is published: a Hugging Face repository with its card, report, evidence, hashes and signature.

    Refused unless the evidence is bound by hashes to exactly these weights, to the BF16 draft, the trace and the
    target; the verdict follows from its counts and is a pass; an engine runs the weights as they are meant; and it was
    measured on gfx950. Exits with 3 (the answer is no), 4 (the verdict is inconclusive) or 5 (evidence about other
    bytes, which is none; that can never be set aside). All but the signature is the same for the same inputs, at
    any time: dates are SOURCE_DATE_EPOCH's, else the verdict's.
    The measurements, the verdict and OUT's record are kept byte for byte, command lines and local paths in them
    included: look through evidence/ before it is published.
    Example: quark-eagle release draft-fp8 --source DRAFT --repo-id me/draft-fp8 --signing-key key.pem --output bundle
    """
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.checkpoint.source import resolve
    from quark_eagle.cli import release_output, render
    from quark_eagle.cli.path_options import require_paths
    from quark_eagle.errors import UsageError
    from quark_eagle.release.extra import require_extra

    require_extra()  # what follows imports it
    from quark_eagle.release.bundle import Naming, Order, Released
    from quark_eagle.release.bundle import release as make
    from quark_eagle.release.collecting import Sources
    from quark_eagle.release.examining import ANY_ARCH, Leave

    require_paths(
        {
            "OUT": checkpoint,
            "--evidence": evidence,
            "--verdict": verdict,
            "--calibration": calibration,
            "--source": source,
            "--trace": trace,
            "--target": target,
            "--signing-key": signing_key,
            "--signing-certificate": signing_certificate,
            "--certificate-chain": certificate_chain,
        },
        written={"--output": output},
    )
    if not require_arch.strip():
        raise UsageError("--require-arch: is empty, but the name of an arch was needed: gfx950; or any.")
    if margin is not None and verdict is not None:
        raise UsageError("--margin and --verdict: the verdict has its own margin. Give one of them.")
    Checkpoint.open(checkpoint)  # whatever lies there is looked at before what lies beside it
    order = Order(
        sources=Sources.of(
            checkpoint, parity=evidence or (), verdict=verdict, calibration=calibration, judge=margin is not None
        ),
        rules=_rules(margin),
        source=None if source is None else resolve(source),
        source_name=source,
        trace=trace,
        target=target,
        naming=Naming(name=name, repo_id=repo_id, base_model=base_model, license=license, target=target_name),
        leave=Leave(required_arch=None if require_arch == ANY_ARCH else require_arch, publish_anyway=publish_anyway),
        signer=signer(signing_key, signing_password_env, signing_certificate, certificate_chain, keyless),
    )
    saving.save_recipe(context, save_recipe)
    made = make(order, output, overwrite=overwrite, progress=render.progress(quiet=json_))
    if isinstance(made, Released):
        release_output.show(made, order, json_)
        return
    release_output.show_refusal(made, checkpoint, json_)
    raise typer.Exit(made.exit_code)


def _rules(margin: float | None) -> Rules:
    from quark_eagle.parity.verdict import Rules

    return Rules() if margin is None else Rules(margin=margin)
