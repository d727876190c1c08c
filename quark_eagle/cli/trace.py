"""`quark-eagle trace`: run the target once, keep its path and hidden states, and score any number of drafts on them."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quark_eagle.cli import render
from quark_eagle.cli import served_options as served
from quark_eagle.cli.exit_codes import ExitCode
from quark_eagle.cli.options import JsonFlag, OverwriteFlag, RevisionOption, TargetArg, speculative_tokens

if TYPE_CHECKING:
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.documents.anchor import Anchor
    from quark_eagle.trace.prompts import PromptSet
    from quark_eagle.trace.record_options import RecordOptions
    from quark_eagle.trace.target_trace import TargetTrace
    from quark_eagle.trace.vllm_options import VllmOptions


class EngineName(str, Enum):
    """What runs the target."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


class Dtype(str, Enum):
    """What the target computes in."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class StateDtype(str, Enum):
    """What the states are stored in."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


def trace(
    target: TargetArg,
    draft: Annotated[
        str,
        typer.Option(
            "--draft",
            metavar="DRAFT",
            help="BF16 draft to record for: names the aux layers; what it lacks is borrowed from the target.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="TRACE", help="Directory of the trace; resumable.", show_default=False),
    ],
    revision: RevisionOption = None,
    draft_revision: Annotated[
        str | None, typer.Option(metavar="REV", help="The same of the draft's id.", show_default=False)
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON Lines: messages, prompt, ShareGPT conversations or MT-Bench turns. Default: the package's own.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Record the prompts of this split.")] = "parity",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Record N prompts, spread over the categories.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens of an answer, at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Of the distribution at that temperature.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Each prompt draws from its own generator, seeded with this.")] = 0,
    dtype: Annotated[
        Dtype, typer.Option(help="Of the target's arithmetic; auto is bfloat16 where the device is fast at it.")
    ] = Dtype.AUTO,
    state_dtype: Annotated[
        StateDtype, typer.Option(help="Of the stored states: bfloat16 as engines hand them to the draft.")
    ] = StateDtype.BFLOAT16,
    project: Annotated[
        bool, typer.Option("--project", help="Store only what the draft's BF16 fc makes of the states: a third.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Prompts decoded together.", show_default="auto")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda (ROCm too), cuda:1; auto is a GPU if there is one.")] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the target's own Python code run.")
    ] = False,
    engine: Annotated[
        EngineName,
        typer.Option(help="What runs the target: transformers, in this process; vllm, in one of its own, on any GPUs."),
    ] = EngineName.TRANSFORMERS,
    vllm_python: Annotated[
        Path | None,
        typer.Option(metavar="PYTHON", help="An interpreter that has vLLM. Default: our own.", show_default=False),
    ] = None,
    vllm_bin: Annotated[
        Path | None,
        typer.Option(metavar="VLLM", help="The `vllm` script of its environment instead.", show_default=False),
    ] = None,
    gpu: served.GpuOption = None,
    tensor_parallel_size: served.TensorParallelOption = None,
    vllm_option: Annotated[
        list[str] | None,
        typer.Option(metavar="FLAG[=VALUE]", help="A further flag of vLLM; may be repeated.", show_default=False),
    ] = None,
    num_speculative_tokens: Annotated[
        int | None,
        speculative_tokens("Of the served draft. Default: the recipe's."),
    ] = None,
    no_anchor: Annotated[
        bool,
        typer.Option("--no-anchor", help="With vllm: serve no draft along. Such a trace explains, and gates nothing."),
    ] = False,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
) -> None:
    """Run the target once over the prompts and keep its tokens and hidden states.

    An interrupted run continues where it stopped when the same command is given again. With --engine vllm the
    target runs as `quark-eagle recipe` says, the draft is served along, and replay of it is held against what was
    served: exit 3 if they differ.

    Example: quark-eagle trace TARGET --draft DRAFT --output TRACE
    """
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.checkpoint.source import at_revision, resolve
    from quark_eagle.trace.prompts import PromptSet
    from quark_eagle.trace.record_options import RecordOptions
    from quark_eagle.trace.trace_document import Sampling

    vllm = _vllm(
        engine,
        vllm_python,
        vllm_bin,
        gpu,
        tensor_parallel_size,
        vllm_option,
        num_speculative_tokens,
        anchored=not no_anchor,
    )
    chosen = PromptSet.load(prompts, split).limited(limit)
    for remark in () if json_ else chosen.notes:
        render.note(f"{chosen.source}: {remark}.")
    options = RecordOptions(
        sampling=Sampling(temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens),
        dtype=dtype.value,
        state_dtype=state_dtype.value,
        project=project,
        batch_size=batch_size,
        device=device,
        trust_remote_code=trust_remote_code,
        vllm=vllm,
    )
    opened = Checkpoint.open(resolve(at_revision(draft, draft_revision, "--draft-revision")))
    try:
        recorded = _recorded(
            at_revision(target, revision), opened, chosen, output, options, overwrite=overwrite, quiet=json_
        )
        anchor = _anchored(recorded, opened, quiet=json_) if vllm is not None and not no_anchor else None
    except (KeyboardInterrupt, SystemExit):
        render.note("What is recorded is kept: the same command continues where it stopped.")
        raise
    _deliver(recorded, anchor, draft, json_=json_)


def _vllm(
    engine: EngineName,
    python: Path | None,
    script: Path | None,
    gpu: str | None,
    tensor_parallel_size: int | None,
    flags: list[str] | None,
    num_speculative_tokens: int | None,
    *,
    anchored: bool,
) -> VllmOptions | None:
    """How vLLM is run; None if it is not.

    Raises:
        UsageError: an option of vLLM's without it, or two that contradict each other.
    """
    from quark_eagle.errors import UsageError, findings
    from quark_eagle.trace.vllm_options import VllmOptions, parse_options

    k = "--num-speculative-tokens"
    given = {
        "--vllm-python": python,
        "--vllm-bin": script,
        "--gpu": gpu,
        "--tensor-parallel-size": tensor_parallel_size,
        "--vllm-option": flags,
        k: num_speculative_tokens,
        "--no-anchor": None if anchored else True,
    }
    if engine is not EngineName.VLLM:
        problems = [f"{name}: means nothing without --engine vllm." for name, value in given.items() if value]
        if problems:
            raise UsageError(findings("trace", problems, "Add --engine vllm, or leave them out."))
        return None
    if num_speculative_tokens is not None and not anchored:
        raise UsageError(f"{k} and --no-anchor: no draft is served. Leave one of them out.")
    return VllmOptions(
        python=python,
        bin=script,
        gpu=gpu,
        tensor_parallel_size=tensor_parallel_size,
        serves_draft=anchored,
        num_speculative_tokens=num_speculative_tokens,
        options=parse_options(flags or []),
    )


def _recorded(
    target: str,
    draft: Checkpoint,
    prompts: PromptSet,
    output: Path,
    options: RecordOptions,
    *,
    overwrite: bool,
    quiet: bool,
) -> TargetTrace:
    """The trace: recorded now, or finished by an earlier run that was ended before it came to the anchor."""
    from quark_eagle.cli.trace_output import announce
    from quark_eagle.parity.anchor import without_anchor
    from quark_eagle.trace.recording import record

    finished = None if overwrite else without_anchor(output, target, draft, prompts, options)
    if finished is not None:
        render.note(f"{output}: is finished, and only its anchor is missing.")
        return finished
    return record(
        target,
        draft,
        prompts,
        output,
        options,
        overwrite=overwrite,
        progress=render.progress(quiet=quiet),
        announce=(lambda estimate: None) if quiet else announce,
        command_line=sys.argv,
    )


def _anchored(trace: TargetTrace, draft: Checkpoint, *, quiet: bool) -> Anchor:
    """Replay of the draft, held against what was served of it."""
    from quark_eagle.parity.anchor import anchor

    return anchor(trace, draft.directory, render.progress(quiet=quiet))


def _deliver(trace: TargetTrace, anchor: Anchor | None, draft: str, *, json_: bool) -> None:
    from quark_eagle.cli.trace_output import show_anchor, show_trace, trace_document

    if json_:
        render.emit_json(trace_document(trace, anchor))
    else:
        show_trace(trace)
        if anchor is not None:
            show_anchor(anchor)
    if anchor is not None and not anchor.matches:
        raise typer.Exit(ExitCode.NO)
    if not json_:
        next_one = f"quark-eagle parity {shlex.quote(draft)} FP8_DRAFT --trace {shlex.quote(str(trace.directory))}"
        render.note(f"Next: {next_one}")
