"""`quark-eagle throughput`: how fast a target serves with no draft, the BF16 one and the FP8 one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quark_eagle.cli.options import JsonFlag, OverwriteFlag, TargetArg, VllmPythonOption, speculative_tokens

if TYPE_CHECKING:
    from quark_eagle.documents.throughput import ArmName
    from quark_eagle.serving.command import ServeCommand
    from quark_eagle.throughput.summary import DraftTimes


def throughput(
    target: TargetArg,
    drafts: Annotated[
        list[str],
        typer.Argument(metavar="BASELINE [CANDIDATE]", help="The BF16 draft and the FP8 draft.", show_default=False),
    ],
    concurrency: Annotated[
        str, typer.Option(metavar="N,N,…", help="Requests in flight; one row of the table for each.")
    ] = "4,8,16,32,64",
    isl: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 1024,
    osl: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = 1024,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each cell, each with prompts of its own.")] = 4,
    passes: Annotated[
        int, typer.Option(min=1, help="Times that each server is started, forwards and backwards in turn.")
    ] = 2,
    num_speculative_tokens: Annotated[
        int | None,
        speculative_tokens("k; the recipe's by default."),
    ] = None,
    draft_step_ms: Annotated[
        str | None,
        typer.Option(metavar="MS[,MS]", help="Time of a draft step of BASELINE and of CANDIDATE, for the prediction."),
    ] = None,
    prompts_per_stream: Annotated[
        int, typer.Option(min=1, help="Requests of a run for each one in flight; AMD's sweeps have 10.")
    ] = 10,
    raw_prompts: Annotated[
        bool, typer.Option("--raw-prompts", help="Do not put prompts through the chat template.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the first repeat's prompts.")] = 0,
    gpu: Annotated[
        str, typer.Option(help="Whose recipe is served: mi355x, …, cpu; auto is the one that the engine sees.")
    ] = "auto",
    tensor_parallel_size: Annotated[
        int | None, typer.Option(min=1, help="GPUs that the target is split over; the recipe's by default.")
    ] = None,
    vllm_option: Annotated[
        list[str] | None,
        typer.Option(metavar="FLAG[=VALUE]", help="A further flag of every server; may be repeated."),
    ] = None,
    vllm_python: VllmPythonOption = None,
    vllm_bin: Annotated[
        Path | None, typer.Option(metavar="VLLM", help="The `vllm` script of an environment, for --vllm-python.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let vLLM run Python that the target brings along.")
    ] = False,
    max_failed: Annotated[float, typer.Option(help="Share of a run's requests that may fail.")] = 0.01,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the report; logs go beside it.")
    ] = Path("throughput.json"),
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
) -> None:
    """Measure tokens per second per GPU with no draft, the BF16 draft and the FP8 draft.

    vLLM's own benchmark module asks one server after another, and again in reverse order. It measures and does not
    gate: exits with 0 when all runs are usable, and with 5 when a server or a run is not.

    Example: quark-eagle throughput TARGET DRAFT DRAFT-FP8 --concurrency 4,64
    """
    from quark_eagle.cli import render
    from quark_eagle.cli.throughput_output import announce, announce_run, show_report
    from quark_eagle.documents.base import refuse_existing, write_text
    from quark_eagle.documents.throughput import Workload
    from quark_eagle.serving.engine import Engine
    from quark_eagle.serving.flags import flags, gpu_of, major_minor
    from quark_eagle.throughput.plan import ASSUMED_TPOT_MS, arms_of
    from quark_eagle.throughput.sweep import Sweep, caveat_of

    _check(drafts, max_failed)
    streams = sorted(set(_numbers("--concurrency", concurrency)))
    step_ms = _numbers("--draft-step-ms", draft_step_ms, float) if draft_step_ms is not None else []
    refuse_existing(output, overwrite=overwrite)
    engine = Engine.find(vllm_python, vllm_bin)
    version = engine.version()
    workload = Workload(
        input_tokens=isl,
        output_tokens=osl,
        concurrency=streams,
        prompts_per_stream=prompts_per_stream,
        chat_template=not raw_prompts,
        seed=seed,
        repeats=repeats,
    )
    commands = _commands(
        target,
        drafts,
        gpu=gpu_of(gpu, version),
        tensor_parallel_size=tensor_parallel_size,
        num_speculative_tokens=num_speculative_tokens,
        compare=True,
        isl=isl,
        osl=osl,
        vllm=major_minor(version.vllm),
        trust_remote_code=trust_remote_code,
    )
    commands = [replace(it, options={**it.options, **flags(vllm_option or [])}) for it in commands]
    logs = output.with_name(f"{output.name}.logs")
    sweep = Sweep.plan(engine, arms_of(commands), workload, logs, passes=passes, max_failed=max_failed)
    if (caveat := caveat_of(version)) is not None:
        render.warn(caveat)
    announce(sweep.estimate(), ASSUMED_TPOT_MS)
    report = sweep.run(
        times=_draft_times(drafts, commands[0].num_speculative_tokens or 0, step_ms),
        command_line=sys.argv,
        progress=render.progress(quiet=json_),
        on_run=None if json_ else announce_run,
    )
    write_text(output, report.to_json())
    if json_:
        render.emit_json({**report.model_dump(mode="json"), "output": str(output)})
    else:
        show_report(report)
        render.say(f"Every run: {output}; logs: {logs}")


def _check(drafts: list[str], max_failed: float) -> None:
    """See that there are one or two drafts, and that the share is one.

    Raises:
        UsageError: there are more, or it is not.
    """
    from quark_eagle.errors import UsageError

    if len(drafts) > 2:
        raise UsageError(f"{len(drafts)} drafts are named, but BASELINE and CANDIDATE are all that is compared.")
    if not 0 <= max_failed < 1:
        raise UsageError(f"--max-failed {max_failed:g}: a share of a run's requests is needed, from 0 to below 1.")


def _numbers(option: str, text: str, kind: type[int] | type[float] = int) -> list[Any]:
    """Positive numbers, separated by commas.

    Raises:
        UsageError: something else.
    """
    from quark_eagle.errors import UsageError

    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < number < float("inf") for number in found):
        raise UsageError(f"{option} {text}: numbers above 0 were needed, separated by commas.")
    return found


def _commands(target: str, drafts: Sequence[str], **job: Any) -> list[ServeCommand]:
    """How the target is served with each of the drafts, by its recipe."""
    from quark_eagle.checkpoint.source import on_disk
    from quark_eagle.serving.recipe_model import ServedModel
    from quark_eagle.serving.recipes import Job, recipe

    served = ServedModel.of(target, on_disk(target))
    return [recipe(Job(target=served, draft=ServedModel.of(it, on_disk(it)), **job)).command for it in drafts]


def _draft_times(drafts: Sequence[str], k: int, step_ms: Sequence[float]) -> DraftTimes:
    """What is known of the drafts' step times: what was stated, and how many bytes a round of each reads."""
    from quark_eagle.checkpoint.source import on_disk
    from quark_eagle.throughput.summary import DraftTimes

    names: tuple[ArmName, ...] = ("baseline", "candidate")
    directories = [on_disk(draft) for draft in drafts]
    sizes = [_round_bytes(directory, k) for directory in directories if directory is not None]
    return DraftTimes(
        step_ms=dict(zip(names, step_ms, strict=False)),
        candidate_share=sizes[1] / sizes[0] if len(sizes) == 2 else None,
    )


def _round_bytes(draft: Path, k: int) -> int:
    """What the k draft steps of a round read."""
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.checkpoint.traffic import Footprint, ReadIn

    checkpoint = Checkpoint.open(draft)
    step = Footprint.of(checkpoint, Eagle3Layout.of(checkpoint), ()).step
    return k * sum(step(part) for part in (ReadIn.LAYERS, ReadIn.HEAD, ReadIn.EMBEDDING)) + step(ReadIn.FIRST_STEP)
