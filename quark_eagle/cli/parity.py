"""`quark-eagle parity`: how many proposals of two drafts are accepted, over a recorded path or by a real engine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from quark_eagle.cli import served_options as served
from quark_eagle.cli.exit_codes import ExitCode
from quark_eagle.cli.options import (
    JsonFlag,
    KvCacheDtypeOption,
    OptionalTraceOption,
    OverwriteFlag,
    ReplayDeviceOption,
    SpeculativeTokensOption,
    VllmPythonOption,
)

if TYPE_CHECKING:
    from quark_eagle.documents.parity import ParityReport


def parity(
    drafts: Annotated[
        list[str],
        typer.Argument(
            metavar="BASELINE CANDIDATE",
            help="The BF16 draft and the FP8 draft, directories or Hugging Face ids (owner/name@REV); CANDIDATE alone "
            "with --baseline-report, BASELINE alone with --update-baseline.",
            show_default=False,
        ),
    ],
    trace: OptionalTraceOption = None,
    engine: Annotated[
        Literal["replay", "vllm"],
        typer.Option(help="Replay the drafts over a trace, or serve them with vLLM and count what it accepts."),
    ] = "replay",
    num_speculative_tokens: SpeculativeTokensOption = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the counts of every prompt.")
    ] = Path("parity.json"),
    baseline_report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Take BASELINE's counts from this file instead of replaying it; refused when stale."
        ),
    ] = None,
    update_baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Store BASELINE's counts for --baseline-report; replaces what it wrote before."
        ),
    ] = None,
    walk_only: Annotated[
        bool, typer.Option("--walk-only", help="Only the rounds a server makes: cheaper for large drafts, no τ curve.")
    ] = False,
    draft_sample_method: Annotated[
        Literal["greedy", "probabilistic"],
        typer.Option(help="As in vLLM: the draft proposes its argmax, or samples; the latter needs a sampled trace."),
    ] = "greedy",
    dtype: Annotated[
        Literal["auto", "bfloat16", "float32"],
        typer.Option(help="Of activations; auto is bfloat16, as engines run, or as the trace's anchor was replayed."),
    ] = "auto",
    device: ReplayDeviceOption = "cpu",
    kv_cache_dtype: KvCacheDtypeOption = "auto",
    target: served.TargetOption = None,
    prompts: served.PromptsOption = None,
    split: served.SplitOption = None,
    limit: served.LimitOption = None,
    max_tokens: served.MaxTokensOption = None,
    temperature: served.TemperatureOption = None,
    top_p: served.TopPOption = None,
    seed: served.SeedOption = None,
    blocks: served.BlocksOption = None,
    concurrency: served.ConcurrencyOption = None,
    deterministic: served.DeterministicOption = False,
    one_at_a_time: served.OneAtATimeOption = False,
    devices: served.DevicesOption = None,
    baseline_url: served.BaselineUrlOption = None,
    candidate_url: served.CandidateUrlOption = None,
    gpu: served.GpuOption = None,
    tensor_parallel_size: served.TensorParallelOption = None,
    vllm_option: served.VllmOption = None,
    vllm_python: VllmPythonOption = None,
    vllm_bin: served.VllmBinOption = None,
    ready_seconds: served.ReadySecondsOption = None,
    trust_remote_code: served.TrustRemoteCodeOption = False,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
) -> None:
    """Count what is accepted of BASELINE's and CANDIDATE's proposals: over a recorded path, or by a real engine.

    It measures and does not gate: exits with 0 whatever it finds, a collapse included (which it says), and with 5 where
    nothing could be evaluated.

    Example: quark-eagle parity DRAFT DRAFT-FP8 --trace TRACE

    Served: quark-eagle parity DRAFT DRAFT-FP8 --engine vllm --target TARGET

    Baseline once: quark-eagle parity DRAFT --trace TRACE --update-baseline baseline.json

    Candidate alone: quark-eagle parity DRAFT-FP8 --trace TRACE --baseline-report baseline.json
    """
    from quark_eagle.checkpoint.source import resolve
    from quark_eagle.cli import replayed_parity as replayed
    from quark_eagle.cli.served_parity import check_usage, compare_served
    from quark_eagle.documents.base import refuse_existing
    from quark_eagle.documents.baseline import refuse_replacing_another_file
    from quark_eagle.parity.measurement import Settings
    from quark_eagle.serve_options import ServeOptions
    from quark_eagle.trace.target_trace import TargetTrace

    serve = ServeOptions(
        target=target,
        prompts=prompts,
        split=split,
        limit=limit,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        blocks=blocks,
        concurrency=concurrency,
        deterministic=deterministic,
        one_at_a_time=one_at_a_time,
        devices=devices,
        baseline_url=baseline_url,
        candidate_url=candidate_url,
        gpu=gpu,
        tensor_parallel_size=tensor_parallel_size,
        vllm_option=vllm_option,
        vllm_python=vllm_python,
        vllm_bin=vllm_bin,
        ready_seconds=ready_seconds,
        trust_remote_code=trust_remote_code,
    )
    if engine == "vllm":
        of_replay = {
            "--trace": trace,
            "--baseline-report": baseline_report,
            "--update-baseline": update_baseline,
            "--walk-only": walk_only,
            "--draft-sample-method": draft_sample_method != "greedy",
            "--device": device != "cpu",
            "--kv-cache-dtype": kv_cache_dtype != "auto",
        }
        check_usage(serve, drafts, [option for option, value in of_replay.items() if value])
        refuse_existing(output, overwrite=overwrite)
        deliver(compare_served(drafts, serve, num_speculative_tokens, dtype, json_=json_), output, json_=json_)
    trace = replayed.require_trace(trace, serve)
    replayed.check_usage(drafts, baseline_report, update_baseline)
    directories = [resolve(draft) for draft in drafts]
    if update_baseline is not None:
        refuse_replacing_another_file(update_baseline)
    settings = Settings(
        num_speculative_tokens=num_speculative_tokens or TargetTrace.open(trace).num_speculative_tokens,
        dtype=dtype,
        walk_only=walk_only,
        draft_sample_method=draft_sample_method,
        device=device,
        kv_cache_dtype=kv_cache_dtype,
    )
    replayed.check_files(output, baseline_report, update_baseline)
    if update_baseline is not None and len(directories) == 1:
        replayed.store_baseline(directories[0], trace, settings, update_baseline, json_=json_)
        return
    refuse_existing(output, overwrite=overwrite)
    report = replayed.compare(baseline_report or directories[0], directories[-1], trace, settings, json_=json_)
    deliver(report, output, update_baseline, json_=json_)


def deliver(report: ParityReport, output: Path, update_baseline: Path | None = None, *, json_: bool) -> NoReturn:
    """Write a measurement's files, say what it found, and end.

    Raises:
        typer.Exit: with 5 where nothing could be evaluated, else with 0.
    """
    from quark_eagle.cli import render
    from quark_eagle.cli.parity_output import show_report
    from quark_eagle.documents.base import write_text
    from quark_eagle.documents.baseline import BaselineReport
    from quark_eagle.parity.verdict import judge

    write_text(output, report.to_json())
    if update_baseline is not None:
        write_text(update_baseline, BaselineReport.of(report).to_json())
    judgement = judge(report)
    if json_:
        render.emit_json({**report.model_dump(mode="json"), "output": str(output)})
    else:
        show_report(report, judgement)
        if update_baseline is not None:
            render.say(f"Stored baseline: {update_baseline}")
        render.say(f"Counts of every prompt: {output}\nNext: quark-eagle gate {shlex.quote(str(output))}")
    raise typer.Exit(int(ExitCode.FAILED if judgement.outcome == "unusable" else ExitCode.DONE))
