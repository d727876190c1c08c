"""export: the draft step of a checkpoint as ONNX files, in a directory that appears whole or not at all.

    OUT/
    ├── combine.onnx, combine.onnx.data    the target's aux states → one state
    ├── step.onnx, step.onnx.data          one proposal
    └── config.json                        the draft's own

The weights are the checkpoint's, byte for byte and by canonical name, each at a multiple of 4096 bytes. They are copied
in pieces, so memory does not grow with them, and lie beside the graph because a protobuf message ends at 2 GB. The same
draft always gives the same bytes: nothing in them tells when or where they were made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import checker

from quark_eagle import __version__
from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.manifest import digest, sha256_of_shards
from quark_eagle.checkpoint.reader import CONFIG_NAME, Checkpoint
from quark_eagle.checkpoint.support import not_replayed
from quark_eagle.checkpoint.writer import staged
from quark_eagle.errors import CheckpointError, UsageError, findings
from quark_eagle.onnx_export.agreement import Agreement
from quark_eagle.onnx_export.draft_graphs import combine_graph, step_graph
from quark_eagle.onnx_export.graph import ALIGNMENT, OPSET, GraphBuilder
from quark_eagle.onnx_export.ports import Port, Ports, combine_ports, step_ports
from quark_eagle.onnx_export.tensors import DraftTensors
from quark_eagle.progress import SILENT, Progress, Task

_GRAPH_BYTES = 4 << 20  # for the graphs themselves, when room on the disk is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedGraph:
    """One graph as it lies on disk.

    Attributes:
        name: of its file, without ``.onnx``.
        ports: its inputs and outputs.
        num_nodes: how many operators it has.
        data_bytes: length of its weights' file.
    """

    name: str
    ports: Ports
    num_nodes: int
    data_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was exported.

    Attributes:
        directory: where it is, or would be if the check had found it equal.
        scheme: of the linear layers; "none" without FP8.
        graphs: ``combine`` and ``step``.
        agreement: with `quark_eagle.model`, if a trace was given to check on.
    """

    directory: Path
    scheme: str
    graphs: tuple[ExportedGraph, ...]
    agreement: Agreement | None = None

    @property
    def is_published(self) -> bool:
        """Whether the directory is there: a draft whose check found a difference is not written."""
        return self.agreement is None or self.agreement.ok


class _DiffersError(Exception):
    """Leaves `staged` without publishing."""


def export(
    draft: Path,
    output: Path,
    *,
    takes_embeds: bool = False,
    overwrite: bool = False,
    compare: Callable[[Path], Agreement] | None = None,
    progress: Progress = SILENT,
) -> Export:
    """Write the draft step of a checkpoint, BF16 or FP8, as ONNX, and see that it is valid.

    Args:
        draft: the checkpoint's directory.
        output: the directory to make.
        takes_embeds: the step takes embeddings though the draft has a table; without one it always does.
        overwrite: an export there may be replaced.
        compare: asked, before the directory appears, whether the files in it compute what the draft does.
        progress: told of the bytes written.

    Raises:
        CheckpointError: the draft cannot be exported; every reason is listed.
        UsageError: the output exists, or is named like a file.
        StorageError: the disk is full or may not be written.
    """
    if output.suffix == ".onnx":
        raise UsageError(
            f"{output}: is a file's name, but a directory was needed: a draft is two graphs (one for the target's "
            f"states, one for a step) and their weights. Pass --output {output.with_suffix('')}-onnx."
        )
    checkpoint = Checkpoint.open(draft)
    layout = Eagle3Layout.of(checkpoint)
    tensors = DraftTensors(checkpoint=checkpoint, layout=layout)
    _require_exportable(tensors)
    pairs = _graphs(tensors, takes_embeds=takes_embeds or not tensors.has("embed_tokens.weight"))
    size = sum(g.data_bytes for g, _ in pairs)
    made: Export | None = None
    with (
        suppress(_DiffersError),
        staged(output, overwrite=overwrite, source=draft, needed_bytes=size + _GRAPH_BYTES) as staging,
    ):
        metadata = _metadata(tensors, progress)
        with progress.task("write weights", size) as task:
            graphs = tuple(_write(staging, g, ports, metadata, task) for g, ports in pairs)
        shutil.copyfile(checkpoint.directory / CONFIG_NAME, staging / CONFIG_NAME)
        made = Export(directory=output, scheme=tensors.scheme, graphs=graphs)
        if compare is not None:
            made = replace(made, agreement=compare(staging))
            if not made.is_published:
                raise _DiffersError
    assert made is not None
    return made


def _graphs(tensors: DraftTensors, *, takes_embeds: bool) -> list[tuple[GraphBuilder, Ports]]:
    geometry = tensors.layout.geometry
    has_head = tensors.has("lm_head.weight")
    ports = step_ports(geometry, takes_embeds=takes_embeds, has_head=has_head)
    step = (step_graph(tensors, takes_embeds=takes_embeds), ports)
    return [(combine_graph(tensors), combine_ports(geometry)), step]


def _write(directory: Path, g: GraphBuilder, ports: Ports, metadata: dict[str, str], task: Task) -> ExportedGraph:
    """One graph and its weights, checked as they lie on disk."""
    with (directory / f"{g.name}.onnx.data").open("xb") as file:
        for info in g.data.values():
            for piece in g.tensors.checkpoint.stream(info):
                file.write(piece)
            padding = -info.size_bytes % ALIGNMENT
            file.write(bytes(padding))
            task.advance(info.size_bytes + padding)
    described = {"inputs": _as_json(ports.inputs), "outputs": _as_json(ports.outputs)}
    model = g.model(ports, {**metadata, **described})
    path = directory / f"{g.name}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    checker.check_model(str(path), full_check=True)  # by path: what lies beside it is looked at too
    return ExportedGraph(name=g.name, ports=ports, num_nodes=len(model.graph.node), data_bytes=g.data_bytes)


def _metadata(tensors: DraftTensors, progress: Progress) -> dict[str, str]:
    """What both graphs say of where they come from; a runtime reads it as custom metadata."""
    checkpoint, layout = tensors.checkpoint, tensors.layout
    geometry = layout.geometry
    shards = [checkpoint.directory / shard for shard in checkpoint.shards]
    with progress.task("hash the draft", sum(path.stat().st_size for path in shards)) as task:
        digests = [(path.name, digest(path, task.advance).sha256) for path in shards]
    return {
        "quark_eagle_version": __version__,
        "weights_sha256": sha256_of_shards(digests),
        "config_sha256": hashlib.sha256((checkpoint.directory / CONFIG_NAME).read_bytes()).hexdigest(),
        "scheme": tensors.scheme,
        "family": layout.family.value,
        "opset": str(OPSET),
        "aux_layer_ids": json.dumps(geometry.aux_layer_ids),
        "vocab_size": str(geometry.vocab_size),
        "draft_vocab_size": str(geometry.draft_vocab_size),
    }


def _as_json(ports: tuple[Port, ...]) -> str:
    return json.dumps([{"name": it.name, "dtype": it.dtype, "shape": it.dims} for it in ports])


def _require_exportable(tensors: DraftTensors) -> None:
    """See that the graphs can say what the draft computes.

    Raises:
        CheckpointError: it has not.
    """
    problems = not_replayed(tensors.checkpoint, tensors.layout)  # the graphs are what `model` computes, and no more
    for canonical, name in tensors.layout.by_canonical.items():
        if not canonical.endswith((".weight", ".bias")):
            continue
        module = canonical.removesuffix(".weight")
        if not tensors.is_exportable(canonical):
            problems.append(f"{name} is {tensors.info(canonical).dtype}, which opset {OPSET} has no product for.")
        elif canonical.endswith(".weight") and tensors.is_fp8(module) and not tensors.has_scale(module):
            problems.append(
                f"{name} is FP8 without a weight_scale for all of it or for each of its "
                f"{tensors.info(canonical).shape[0]} rows."
            )
    if problems:
        advice = "Export a BF16 draft, or one that `quark-eagle quantize` made."
        raise CheckpointError(findings(str(tensors.checkpoint.directory), problems, advice))
