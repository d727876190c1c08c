"""`quark-eagle recipe`: how to serve a target with a draft on a GPU, every flag with its reason and source."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from quark_eagle.cli.options import JsonFlag, TargetArg, TensorParallelOption, speculative_tokens


def recipe(
    target: TargetArg,
    draft: Annotated[
        str | None,
        typer.Argument(
            metavar="DRAFT",
            help="Eagle3 draft, BF16 or FP8: a local directory or a Hugging Face id; none serves the target alone.",
            show_default=False,
        ),
    ] = None,
    gpu: Annotated[str, typer.Option(metavar="GPU", help="mi355x, mi350x, mi325x, mi300x, h200, …, cpu.")] = "mi355x",
    tp: TensorParallelOption = None,
    isl: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 1024,
    osl: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 1024,
    num_speculative_tokens: Annotated[
        int | None,
        speculative_tokens("k. By default as published."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="For a comparison of two drafts: one k for all arms, the FP8 draft's.")
    ] = False,
    engine: Annotated[str, typer.Option(metavar="ENGINE", help="Engine and version that will run it.")] = "vllm-0.31",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the server, on 127.0.0.1.")] = 8000,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let vLLM run the target's own Python code (Kimi's needs it).")
    ] = False,
    shell: Annotated[
        bool, typer.Option("--shell", help="Print a script for the shell (the default).", show_default=False)
    ] = False,
    json_: JsonFlag = False,
) -> None:
    """Print the environment and the command that serve TARGET with DRAFT, every part with its reason and source.

    For Kimi-K2.5 and MiniMax-M2.5 on MI355X they are AMD's own; for other targets what a comparison needs. Nothing is
    started, loaded or fetched.
    Example: quark-eagle recipe amd/Kimi-K2.5-MXFP4 amd/Kimi-K2.5-Eagle3-FP8 --trust-remote-code > serve.sh
    """
    from quark_eagle.checkpoint.source import on_disk
    from quark_eagle.cli import render
    from quark_eagle.errors import UsageError
    from quark_eagle.serving.recipe_model import ServedModel
    from quark_eagle.serving.recipes import Job
    from quark_eagle.serving.recipes import recipe as recipe_of

    if shell and json_:
        raise UsageError("--shell and --json: one answer was needed. Give one of them.")
    version = re.fullmatch(r"vllm-(\d+)\.(\d+)(\.\d+)?", engine)
    if version is None:
        raise UsageError(f"--engine {engine}: an engine and its version were needed, as vllm-0.31.")
    made = recipe_of(
        Job(
            target=ServedModel.of(target, on_disk(target)),
            draft=None if draft is None else ServedModel.of(draft, on_disk(draft)),
            gpu=gpu,
            tensor_parallel_size=tp,
            num_speculative_tokens=num_speculative_tokens,
            compare=compare,
            isl=isl,
            osl=osl,
            vllm=(int(version[1]), int(version[2])),
            trust_remote_code=trust_remote_code,
        )
    )
    if json_:
        render.emit_json(made.to_json())
        return
    render.emit(made.shell(port))
