"""What `quantize` says: what it would do, and what it did."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from quark_eagle.cli import render

if TYPE_CHECKING:
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.quantize.plan import QuantPlan
    from quark_eagle.quantize.record import QuantizeResult


def announce_kernel() -> None:
    """Say that importing Quark will take longer than its 20 seconds, before it seems to hang."""
    from quark_eagle.quantize.quark_import import kernel_build

    build = kernel_build()
    if build is None:
        return
    if build.lock.exists():
        render.warn(
            f"{build.lock}: another process compiles AMD Quark's kernel, or was killed as it did, and the import waits "
            "until this file is gone. Remove it if there is no such process."
        )
    elif not build.is_done:
        render.note(f"AMD Quark compiles its kernel first: about a minute, and only this once, into {build.directory}.")


def show_plan(checkpoint: Checkpoint, plan: QuantPlan, json_: bool) -> None:
    """What would become of each tensor."""
    from quark_eagle.quantize.compressed_tensors import ignore_list
    from quark_eagle.quantize.format import Format
    from quark_eagle.quantize.shards import output_bytes

    before, after = checkpoint.size_bytes, output_bytes(checkpoint, plan)
    if json_:
        sizes = {"tensors_before_bytes": before, "tensors_after_bytes": after}
        render.emit_json({"schema_version": 1, "plan": plan.to_json(), **sizes})
        return
    rows = []
    for decision in plan.decisions:
        info = checkpoint.tensors[decision.tensor]
        shape = " × ".join(map(str, info.shape))
        becomes = plan.scheme.weight_dtype if decision.action == "quantize" else ""
        rows.append((decision.tensor, shape, info.dtype, becomes, decision.reason))
    render.show(render.table(["tensor", "shape", "is", "becomes", "because"], rows))
    render.say(f"\n{render.size(before)} → {render.size(after)} ({after / before - 1:+.1%}). Nothing was written.")
    is_quark = plan.format is Format.QUARK
    render.say(f"exclude: {', '.join(plan.exclude)}" if is_quark else f"ignore: {', '.join(ignore_list(plan))}")


def show_result(checkpoint: Checkpoint, result: QuantizeResult, output: Path) -> None:
    """What became of the draft, and what to do next."""
    before, after = result.tensors_before_bytes, result.tensors_after_bytes
    render.show(
        render.table(
            ["", "tensors", "before", "after"],
            [
                *_rows(checkpoint, result.plan, after),
                ("total", len(checkpoint.tensors), *map(render.size, (before, after))),
            ],
            right=(1, 2, 3),
        )
    )
    seconds = result.import_seconds + result.work_seconds
    sizes = f"{render.size(before)} → {render.size(after)} ({after / before - 1:+.1%})"
    scheme = f"{result.plan.scheme.value} ({result.plan.format.value})"
    # Calibrating imports Quark before any of this is counted.
    quark = f"of which importing AMD Quark took {result.import_seconds:.1f} s"
    counted = quark if result.import_seconds >= 0.1 else "calibrating not counted"
    render.say(f"\n{output}: {sizes}, {scheme}, in {seconds:.1f} s, {counted}.")
    if result.companions.carried:
        render.say(f"Carried along: {', '.join(result.companions.carried)}.")
    for path, reason in result.companions.left_out:
        render.say(f"Left out: {path} ({reason}).")
    source = shlex.quote(str(checkpoint.directory))
    render.say(f"Next: quark-eagle verify {shlex.quote(str(output))} --source {source}")


def _rows(checkpoint: Checkpoint, plan: QuantPlan, after: int) -> list[tuple[object, ...]]:
    """One line for the quantized weights, and one for each reason to keep."""
    kept: dict[str, list[int]] = {}
    quantized = []
    for decision in plan.decisions:
        size = checkpoint.tensors[decision.tensor].size_bytes
        if decision.action == "quantize":
            quantized.append(size)
        else:
            kept.setdefault(decision.reason, []).append(size)
    fp8 = after - sum(sum(sizes) for sizes in kept.values())
    lines: list[tuple[object, ...]] = [
        ("quantized to FP8, with scales", len(quantized), render.size(sum(quantized)), render.size(fp8))
    ]
    for reason, sizes in sorted(kept.items(), key=lambda item: -sum(item[1])):
        lines.append((f"kept: {reason}", len(sizes), *[render.size(sum(sizes))] * 2))
    return lines
