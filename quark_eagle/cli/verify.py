"""`quark-eagle verify`: what an engine will do with every module of a checkpoint."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quark_eagle.cli.exit_codes import ExitCode
from quark_eagle.cli.options import CheckpointArg, JsonFlag, RevisionOption, VllmPythonOption

if TYPE_CHECKING:
    from quark_eagle.deploy.live_report import LiveReport
    from quark_eagle.deploy.verify import VerifyReport


EXIT_CODES = {"ok": ExitCode.DONE, "broken": ExitCode.NO, "inconclusive": ExitCode.INCONCLUSIVE}


class AskedEngine(StrEnum):
    """Engines that can be asked themselves."""

    VLLM = "vllm"


def verify(
    checkpoint: CheckpointArg,
    revision: RevisionOption = None,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="DRAFT", help="BF16 draft that it was made from: compare every byte and every weight with it."
        ),
    ] = None,
    engine: Annotated[
        AskedEngine | None,
        typer.Option(help="Ask the engine itself as well: load the draft in an installed vLLM, in about 30 s."),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            metavar="TARGET",
            help="With --engine: directory of the target. Only its config.json is read: a stand-in of its layers, "
            "width and vocabulary is loaded, with weights that vLLM makes up. Default: one that fits the draft.",
        ),
    ] = None,
    real_target: Annotated[
        bool, typer.Option("--real-target", help="Load TARGET itself, weights and all, on one device.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let vLLM run Python that the real target brings along.")
    ] = False,
    vllm_python: VllmPythonOption = None,
    vllm_bin: Annotated[
        Path | None,
        typer.Option(
            metavar="VLLM", help="The `vllm` script of an environment, for --vllm-python.", show_default=False
        ),
    ] = None,
    engine_version: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="Version of vLLM whose loading rules are applied. Default: the installed one's, or the newest known.",
        ),
    ] = None,
    num_target_layers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Layers of the target, which vLLM's module names contain. Default: any."),
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Say what vLLM will do with every module of CHECKPOINT: by its loading rules, or asking it with --engine vllm.

    Asked itself, it reports every parameter as it was when loading ended, before weights are processed for a device's
    kernels: dtype, shape, scale and SHA-256, held against the file.

    Exits with 0 if it will run as it was meant, 3 if it is broken, 4 if the device that was asked cannot run its
    scheme, 5 if it could not be read or vLLM not be asked.

    Example: quark-eagle verify out/fp8 --source draft --engine vllm --target Kimi-K2.5
    """
    from quark_eagle.checkpoint.source import at_revision, is_hub_id, resolve
    from quark_eagle.cli import render, verify_output
    from quark_eagle.deploy.live_report import verify_live
    from quark_eagle.deploy.verify import verify as verify_by_rules
    from quark_eagle.serving.engine import Engine

    _refuse_pointless(
        engine,
        {
            "--target": target,
            "--real-target": real_target,
            "--trust-remote-code": trust_remote_code,
            "--vllm-python": vllm_python,
            "--vllm-bin": vllm_bin,
        },
        {"--engine-version": engine_version, "--num-target-layers": num_target_layers},
    )
    _refuse_without_target(target, {"--real-target": real_target, "--trust-remote-code": trust_remote_code})
    name = at_revision(str(checkpoint), revision)
    if is_hub_id(name):
        checkpoint = resolve(name)
    progress = render.progress(quiet=json_)
    report: VerifyReport | LiveReport
    if engine is None:
        report = verify_by_rules(checkpoint, source, num_target_layers, engine_version, progress)
    else:
        report = verify_live(
            checkpoint,
            source,
            target,
            real_target=real_target,
            python=Engine.find(vllm_python, vllm_bin).python,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if json_:
        render.emit_json(report.to_json())
    else:
        verify_output.show(report)
    raise typer.Exit(int(EXIT_CODES[report.verdict]))


def _refuse_pointless(engine: AskedEngine | None, needs: dict[str, object], excludes: dict[str, object]) -> None:
    """Options that would be read by nobody."""
    from quark_eagle.errors import UsageError

    given = [name for name, value in (excludes if engine else needs).items() if value]
    if given and engine:
        raise UsageError(f"{', '.join(given)}: with --engine the engine tells that itself. Leave it out.")
    if given:
        raise UsageError(f"{', '.join(given)}: is about asking the engine itself. Say --engine vllm as well.")


def _refuse_without_target(target: Path | None, given: dict[str, bool]) -> None:
    from quark_eagle.errors import UsageError

    names = [name for name, value in given.items() if value]
    if names and target is None:
        raise UsageError(f"{', '.join(names)}: loads the target itself, but --target does not say which. Name it.")
