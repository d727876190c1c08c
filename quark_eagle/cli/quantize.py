"""`quark-eagle quantize`: a BF16 draft to an FP8 one, whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quark_eagle.cli import calibration_options as calib
from quark_eagle.cli import render
from quark_eagle.cli import save_recipe_options as saving
from quark_eagle.cli import served_options as served
from quark_eagle.cli.calibration_output import show_calibration
from quark_eagle.cli.options import (
    DraftArg,
    JsonFlag,
    KeepOption,
    OptionalTraceOption,
    OverwriteFlag,
    QuantizeFcFlag,
    ReplayDeviceOption,
    RevisionOption,
    SpeculativeTokensOption,
    VllmPythonOption,
)
from quark_eagle.cli.quantize_output import announce_kernel, show_plan, show_result
from quark_eagle.quantize.format import Format
from quark_eagle.quantize.scheme import Scheme

if TYPE_CHECKING:
    from quark_eagle.checked import Check
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.quantize.calibration.job import Calibrating
    from quark_eagle.quantize.plan import QuantPlan


def quantize(
    context: typer.Context,
    draft: DraftArg,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Directory to write: it appears whole or not at all. Needed unless --dry-run.",
            show_default=False,
        ),
    ] = None,
    revision: RevisionOption = None,
    scheme: Annotated[
        Scheme,
        typer.Option(
            parser=Scheme.named,
            metavar="|".join(Scheme),
            help="How to quantize, under Quark's own name where it has one.",
        ),
    ] = Scheme.PTPC_FP8,
    format: Annotated[
        Format, typer.Option(help="How scales and config are written; the FP8 numbers are the same.")
    ] = Format.QUARK,
    keep: KeepOption = None,
    quantize_fc: QuantizeFcFlag = False,
    calibration: calib.CalibrationOption = None,
    observer: calib.ObserverOption = None,
    percentile: calib.PercentileOption = None,
    calib_tokens: calib.CalibTokensOption = None,
    kv_cache_scales: calib.KvCacheScalesFlag = False,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="Record this target's answers first, and publish only if acceptance is at par on them.",
            show_default=False,
        ),
    ] = None,
    trace: OptionalTraceOption = None,
    margin: Annotated[
        float, typer.Option(help="With --trace or --target: the loss of τ that is still parity, as a fraction.")
    ] = 0.01,
    publish_anyway: Annotated[
        bool, typer.Option("--publish-anyway", help="Publish in spite of a failed or inconclusive verdict.")
    ] = False,
    num_speculative_tokens: SpeculativeTokensOption = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="With --target: record N prompts, spread over the categories."),
    ] = None,
    device: ReplayDeviceOption = "cpu",
    engine: Annotated[
        Literal["transformers", "vllm"],
        typer.Option(help="What runs the target; vllm also serves both drafts, as the options marked vllm: say."),
    ] = "transformers",
    blocks: served.BlocksOption = None,
    concurrency: served.ConcurrencyOption = None,
    devices: served.DevicesOption = None,
    gpu: served.GpuOption = None,
    tensor_parallel_size: served.TensorParallelOption = None,
    vllm_option: served.VllmOption = None,
    vllm_python: VllmPythonOption = None,
    vllm_bin: served.VllmBinOption = None,
    ready_seconds: served.ReadySecondsOption = None,
    trust_remote_code: served.TrustRemoteCodeOption = False,
    save_recipe: saving.SaveRecipeOption = None,
    overwrite: OverwriteFlag = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done to each tensor, and stop.")
    ] = False,
    json_: JsonFlag = False,
) -> None:
    """Quantize DRAFT to FP8 with AMD Quark, so that vLLM reads it as it was meant.

    LM head, embeddings, norms and vocabulary map are always kept, byte for byte; fc unless --quantize-fc.
    A static scheme (fp8, fp8_channel_static) is calibrated first, by Quark's observers on the draft's own forward pass:
    on --calibration TRACE, or on what --target answers to the calibration prompts.
    With --trace (or --target) the FP8 draft is measured before it is published, and judged as `gate` would: exit 3
    (fail) or 4 (inconclusive) and no output, unless --publish-anyway.
    With --engine vllm the whole job is done on the machine that serves: the target answers in vLLM, the BF16 draft
    beside it anchors replay, and both drafts are served in turn; a loss that only serving shows is a fail too.
    Example: quark-eagle quantize examples/smollm2-135m-eagle3 --output draft-fp8
    """
    from quark_eagle.checked import Check
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.checkpoint.source import at_revision, resolve
    from quark_eagle.checkpoint.writer import require_free, staged
    from quark_eagle.errors import UsageError
    from quark_eagle.parity.verdict import Rules
    from quark_eagle.quantize.plan import QuantPlan, require_quantizable
    from quark_eagle.quantize.shards import output_bytes
    from quark_eagle.quantize.stage import stage
    from quark_eagle.serve_options import ServeOptions

    if output is None and not dry_run:
        raise UsageError(
            "--output: not given, but the quantized draft must go somewhere. Give --output OUT, or --dry-run."
        )
    serve = ServeOptions(
        target=target,
        limit=limit,
        blocks=blocks,
        concurrency=concurrency,
        devices=devices,
        gpu=gpu,
        tensor_parallel_size=tensor_parallel_size,
        vllm_option=vllm_option,
        vllm_python=vllm_python,
        vllm_bin=vllm_bin,
        ready_seconds=ready_seconds,
        trust_remote_code=trust_remote_code,
    )
    served.require_engine(engine, serve)
    if target is not None and trace is not None and engine != "vllm":
        raise UsageError(
            "--target and --trace: only one of them says what to measure on. Give --trace if you have one."
        )
    if publish_anyway and target is None and trace is None:
        raise UsageError("--publish-anyway: nothing is judged without --trace or --target. Leave it out, or give one.")
    record_options = served.recording(serve, num_speculative_tokens) if engine == "vllm" else None
    arguments = calib.CalibrationArguments(
        trace=calibration,
        observer=observer,
        percentile=percentile,
        max_tokens=calib_tokens,
        kv_cache_scales=kv_cache_scales,
    )
    job = arguments.job(scheme, target, record_options, limit, num_speculative_tokens, device)
    checkpoint = Checkpoint.open(resolve(at_revision(draft, revision)))
    layout = Eagle3Layout.of(checkpoint)
    plan = QuantPlan.of(layout, scheme, keep or (), quantize_fc, format)
    require_quantizable(checkpoint, plan)
    if quantize_fc:
        render.warn("fc is quantized: vLLM runs it, but SGLang builds fc in high precision and cannot load this draft.")
    saving.save_recipe(context, save_recipe)
    if output is None or dry_run:
        if output is not None:
            require_free(output, overwrite=overwrite, source=checkpoint.directory)
        if job is not None:
            job.require_usable(checkpoint, layout)
        show_plan(checkpoint, plan, json_)
        return
    calibrating = calib.calibrating(
        job, checkpoint, layout, plan, output, overwrite=overwrite, quiet=json_, command_line=_command_line()
    )
    if not json_:
        announce_kernel()
    if target is not None or trace is not None:
        check = Check(
            target=None if trace is not None else target,
            trace=trace,
            options=record_options,
            limit=limit,
            num_speculative_tokens=num_speculative_tokens,
            device=device,
            serve=serve if engine == "vllm" else None,
            rules=Rules(margin=margin),
            publish_anyway=publish_anyway,
        )
        _quantize_and_check(checkpoint, layout, plan, output, check, calibrating, overwrite, json_)
        return
    needed = output_bytes(checkpoint, plan)
    # Not flushed to the disk, like cp: after a power cut, quark_eagle.json tells whether a file is whole.
    with staged(
        output, overwrite=overwrite, source=checkpoint.directory, needed_bytes=needed, durable=False
    ) as staging:
        calibrated = None if calibrating is None else calibrating.run()
        result = stage(
            checkpoint,
            layout,
            plan,
            staging,
            render.progress(quiet=json_),
            activation_scales=None if calibrated is None else calibrated.scales,
            command_line=_command_line(),
        )
        if calibrating is not None and calibrated is not None:
            calibrating.write(calibrated)
    if calibrating is not None:
        calibrating.forget()
    if json_:
        seconds = {"import_seconds": result.import_seconds, "work_seconds": result.work_seconds}
        written = {} if calibrating is None else {"calibration": str(calibrating.document_path)}
        render.emit_json({"output_directory": str(output), **result.to_json(), **seconds, **written})
    else:
        if calibrating is not None:
            show_calibration(calibrating.document_path)
        show_result(checkpoint, result, output)


def _quantize_and_check(
    checkpoint: Checkpoint,
    layout: Eagle3Layout,
    plan: QuantPlan,
    output: Path,
    check: Check,
    calibrating: Calibrating | None,
    overwrite: bool,
    json_: bool,
) -> None:
    from quark_eagle.cli.served_parity import announce_served, announce_turn
    from quark_eagle.cli.trace_output import announce
    from quark_eagle.pipeline import quantize_and_check

    checked = quantize_and_check(
        checkpoint,
        layout,
        plan,
        output,
        check,
        overwrite=overwrite,
        announce=(lambda estimate: None) if json_ else announce,
        announce_served=announce_served,
        on_turn=announce_turn,
        progress=render.progress(quiet=json_),
        command_line=_command_line(),
        calibrating=calibrating,
    )
    if json_:
        written = {"calibration": str(calibrating.document_path)} if calibrating and checked.published else {}
        render.emit_json({"output_directory": str(output), **checked.to_json(), **written})
    else:
        if calibrating is not None and checked.published:
            show_calibration(calibrating.document_path)
        if checked.published:
            show_result(checkpoint, checked.result, output)
        for line in checked.sentences():
            render.say(line)
    raise typer.Exit(int(checked.exit_code))


def _command_line() -> list[str]:
    return ["quark-eagle", *sys.argv[1:]]
