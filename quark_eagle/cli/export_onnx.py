"""`quark-eagle export-onnx`: the draft step as ONNX, valid, and checked against the draft if a trace is at hand."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quark_eagle.cli.exit_codes import ExitCode
from quark_eagle.cli.options import JsonFlag, OutputOption, OverwriteFlag, RevisionOption

if TYPE_CHECKING:
    from quark_eagle.onnx_export.agreement import Agreement
    from quark_eagle.onnx_export.export import Export

SCHEMA_VERSION = 1


def export_onnx(
    draft: Annotated[
        str,
        typer.Argument(
            metavar="DRAFT", help="BF16 or FP8 Eagle3 draft: a directory or a Hugging Face id.", show_default=False
        ),
    ],
    output: OutputOption,
    revision: RevisionOption = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="TRACE",
            help="Replay prompts of this trace with onnxruntime before OUT appears, and hold tokens and logits against "
            "the draft's own.",
            show_default=False,
        ),
    ] = None,
    check_prompts: Annotated[
        int, typer.Option(min=1, metavar="N", help="With --check: how many of the trace's prompts.")
    ] = 4,
    inputs_embeds: Annotated[
        bool,
        typer.Option(
            "--inputs-embeds",
            help="Leave the draft's own embedding out: a step takes embeddings, which the target's table has too.",
        ),
    ] = False,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
) -> None:
    """Write DRAFT as ONNX: combine.onnx for the target's states, step.onnx for one proposal, their weights beside them.

    FP8 layers are Q/DQ in opset 21, the head and what else is not quantized keep their precision. onnx.checker passes
    before OUT appears.

    Exits with 0 if it is written, 3 if --check found a difference (and OUT is not written), 5 if it cannot be exported.

    Example: quark-eagle export-onnx out/fp8 --output out/onnx --check trace
    """
    from quark_eagle.checkpoint.source import at_revision, resolve
    from quark_eagle.cli import render

    _require_installed("onnx")
    if check is not None:
        _require_installed("onnxruntime")
    from quark_eagle.onnx_export.export import export

    directory = resolve(at_revision(draft, revision))
    progress = render.progress(quiet=json_)

    def compare_with_draft(staged: Path) -> Agreement:
        from quark_eagle.onnx_export.compare import compare

        assert check is not None
        return compare(staged, directory, check, num_prompts=check_prompts, progress=progress)

    made = export(
        directory,
        output,
        takes_embeds=inputs_embeds,
        overwrite=overwrite,
        compare=None if check is None else compare_with_draft,
        progress=progress,
    )
    if json_:
        render.emit_json(_document(made))
    else:
        _show(made, directory)
    raise typer.Exit(int(ExitCode.DONE if made.is_published else ExitCode.NO))


def _require_installed(package: str) -> None:
    """See that an optional package is here.

    Raises:
        UsageError: it is not.
    """
    from quark_eagle.errors import UsageError

    if find_spec(package) is None:
        raise UsageError(
            f"{package}: is not installed, but was needed. Install it with `pip install 'quark-eagle[onnx]'`."
        )


def _document(made: Export) -> dict[str, Any]:
    """The answer as one JSON object."""
    return {
        "schema_version": SCHEMA_VERSION,
        "output": str(made.directory),
        "is_published": made.is_published,
        "scheme": made.scheme,
        "graphs": [
            {
                "file": f"{graph.name}.onnx",
                "num_nodes": graph.num_nodes,
                "data_bytes": graph.data_bytes,
                "inputs": _ports(graph.ports.inputs),
                "outputs": _ports(graph.ports.outputs),
            }
            for graph in made.graphs
        ],
        "agreement": None if made.agreement is None else made.agreement.to_json(),
    }


def _ports(ports: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [{"name": port.name, "dtype": port.dtype, "shape": list(port.dims)} for port in ports]


def _show(made: Export, draft: Path) -> None:
    """The answer for people: what goes in and comes out, what the check found, what to do next."""
    from quark_eagle.cli import render

    render.say(f"{draft} as ONNX, scheme {made.scheme}\n")
    for graph in made.graphs:
        rows = [
            (kind, port.name, port.dtype, " × ".join(map(str, port.dims)) or "scalar")
            for kind, ports in (("in", graph.ports.inputs), ("out", graph.ports.outputs))
            for port in ports
        ]
        title = f"{graph.name}.onnx: {graph.num_nodes} nodes, {render.size(graph.data_bytes)} of weights"
        render.show(render.table(["", title, "dtype", "shape"], rows))
        render.say()
    if made.agreement is not None:
        render.say(_verdict(made.agreement))
    if not made.is_published:
        render.say(f"{made.directory} was not written.")
        return
    render.say(f"Written: {made.directory}")
    if made.agreement is None:
        command = f"quark-eagle export-onnx {shlex.quote(str(draft))} --output OUT --check TRACE"
        render.say(f"Not compared with the draft yet: {command}")


def _verdict(found: Agreement) -> str:
    """One line on the check."""
    tied = f" ({found.num_tied_tokens} more are tied)" if found.num_tied_tokens else ""
    compared = f"{found.num_equal} of {found.num_proposals} proposals are the draft's own{tied}"
    difference = "not finite" if found.max_difference is None else f"{found.max_difference:.2g}"
    logits = f"logits differ by {difference} of their standard deviation at most ({found.bound:g} is allowed)"
    num, total = found.num_ties, found.num_quantized
    ties = f" {num} of {total} activations lay between two FP8 numbers: the graph's choice was taken." if num else ""
    left_out = "" if found.has_combine else " The trace is projected: combine.onnx was not run."
    word = "EQUAL" if found.ok else "DIFFERENT"
    return f"{word}: {compared}, over {found.num_prompts} prompts; {logits}.{ties}{left_out}"
