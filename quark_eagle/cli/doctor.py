"""`quark-eagle doctor`: what this machine has for the job, what it lacks, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quark_eagle.cli.exit_codes import ExitCode
from quark_eagle.cli.options import JsonFlag, TensorParallelOption, VllmPythonOption

if TYPE_CHECKING:
    from quark_eagle.serving.doctor import Diagnosis
    from quark_eagle.serving.recipes import Job


def doctor(
    target: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="Size memory, disk and attention for this target.", show_default=False),
    ] = None,
    draft: Annotated[str | None, typer.Option(metavar="DRAFT", help="And for this draft.", show_default=False)] = None,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="GPU", help="GPU that must be there: mi355x, mi300x, h200, …; by default any, or none."),
    ] = None,
    vllm_python: VllmPythonOption = None,
    tp: TensorParallelOption = None,
    isl: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 1024,
    osl: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 1024,
    prompts: Annotated[int, typer.Option(min=1, metavar="N", help="Prompts of a trace.")] = 320,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where results will go: its disk is looked at.")
    ] = Path("."),
    json_: JsonFlag = False,
) -> None:
    """Say what this machine has for the job, what it lacks, and what to do about it.

    Nothing is loaded and nothing is fetched. Exits with 0, or with 3 if there is an error; a warning is none.
    Without --gpu a machine without a GPU is a warning: all but serving works there.
    Example: quark-eagle doctor --gpu mi355x --target amd/Kimi-K2.5-MXFP4 --draft amd/Kimi-K2.5-Eagle3-FP8
    """
    from quark_eagle.cli import render
    from quark_eagle.errors import UsageError
    from quark_eagle.serving.doctor import diagnose
    from quark_eagle.serving.doctor_room import TraceSize
    from quark_eagle.serving.machine import GPU_ARCHES, Machine

    if gpu is not None and gpu not in GPU_ARCHES:
        raise UsageError(f"--gpu {gpu}: must be one of {', '.join(GPU_ARCHES)}.")
    if draft is not None and target is None:
        raise UsageError("--draft: says nothing without its target. Add --target TARGET.")
    job = None if target is None else _job(target, draft, gpu, tp, isl, osl)
    machine = Machine.read(vllm_python, output)
    trace = TraceSize(num_prompts=prompts, num_tokens=isl + osl)
    diagnosis = diagnose(machine, _own_versions(), gpu=gpu, job=job, trace=trace)
    if json_:
        render.emit_json(diagnosis.to_json())
    else:
        _show(diagnosis, job)
    raise typer.Exit(int(ExitCode.DONE if diagnosis.ok else ExitCode.NO))


def _job(target: str, draft: str | None, gpu: str | None, tp: int | None, isl: int, osl: int) -> Job:
    from quark_eagle.checkpoint.source import on_disk
    from quark_eagle.serving.recipe_model import ServedModel
    from quark_eagle.serving.recipes import DEFAULT_GPU, Job

    return Job(
        target=ServedModel.of(target, on_disk(target)),
        draft=None if draft is None else ServedModel.of(draft, on_disk(draft)),
        gpu=gpu or DEFAULT_GPU,
        tensor_parallel_size=tp,
        isl=isl,
        osl=osl,
    )


def _own_versions() -> dict[str, str]:
    """Of what this Python needs for `quantize` and `trace`; nothing is imported."""
    from importlib import metadata

    packages = {"quark": "amd-quark", "transformers": "transformers"}
    found = {name: next(iter(metadata.distributions(name=package)), None) for name, package in packages.items()}
    return {name: it.version for name, it in found.items() if it is not None}


def _show(diagnosis: Diagnosis, job: Job | None) -> None:
    import shlex

    from quark_eagle.cli import render

    width = max(len(line.subject) for line in diagnosis.lines)
    for line in diagnosis.lines:
        render.say(f"{line.level:<7}  {line.subject:<{width}}  {line.found}")
        if line.remedy:
            render.say(f"{'':<7}  {'':<{width}}  → {line.remedy}")
    errors, warnings = diagnosis.count("error"), diagnosis.count("warning")
    told = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    render.say(f"\n{'OK' if diagnosis.ok else 'NOT READY'}: {told}.")
    if diagnosis.ok and job is not None and job.draft is not None:
        names = shlex.join([job.target.name, job.draft.name])
        render.note(f"Next: quark-eagle recipe {names} --gpu {job.gpu}")
