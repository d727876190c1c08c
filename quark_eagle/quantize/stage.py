"""stage(): a plan carried out into an empty directory, shard by shard, with memory that does not grow with the file.

Kept bytes are copied and all input is hashed in a thread while Quark is imported, which takes longer. Then the rows of
the quantized weights pass through Quark in blocks. Every output byte is hashed as it is written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.manifest import RECORD_NAME, FileDigest, Manifest, digest
from quark_eagle.checkpoint.reader import CONFIG_NAME, INDEX_NAME, Checkpoint
from quark_eagle.checkpoint.vocab_map import check_vocab_map
from quark_eagle.checkpoint.writer import ShardWriter
from quark_eagle.errors import NonFiniteWeightError
from quark_eagle.progress import SILENT, Progress, Task
from quark_eagle.quantize.carried import Companions
from quark_eagle.quantize.plan import QuantPlan, require_quantizable
from quark_eagle.quantize.quantization_config import quantized_config
from quark_eagle.quantize.quark_backend import BLOCK_ELEMENTS, Quark, load_quark, require_quark
from quark_eagle.quantize.record import QuantizeResult, record
from quark_eagle.quantize.shards import output_index, output_specs, scale_name
from quark_eagle.quantize.soundness import non_finite_weights, require_divisible
from quark_eagle.quantize.streaming import Copier, quick_thread_switches, row_blocks

if TYPE_CHECKING:
    from torch import Tensor

Copying = Future[dict[str, FileDigest]]


def stage(
    checkpoint: Checkpoint,
    layout: Eagle3Layout,
    plan: QuantPlan,
    staging: Path,
    progress: Progress = SILENT,
    *,
    command_line: Sequence[str] = (),
) -> QuantizeResult:
    """Writes the quantized checkpoint into an empty directory, ``quark_eagle.json`` included.

    Args:
        checkpoint: the input; only read.
        layout: of the same checkpoint.
        plan: made for the same checkpoint.
        staging: exists and is empty; see `quark_eagle.checkpoint.writer.staged`.
        progress: told of the bytes of input tensors as they are done.
        command_line: recorded in ``quark_eagle.json``.

    Raises:
        QuantizationError: the draft is quantized already, or Quark is missing.
        NonFiniteWeightError: weights to quantize hold NaN or infinities; all are listed.
        CheckpointError: d2t and t2d are no vocabulary map, or the input changed meanwhile.
        OSError: the disk is full.
    """
    require_quantizable(checkpoint, plan)
    require_quark()
    check_vocab_map(checkpoint, layout)
    started = time.perf_counter()
    companions = Companions.of(checkpoint)
    companions.copy(checkpoint.directory, staging)
    _write_json(staging / CONFIG_NAME, quantized_config(checkpoint.config, plan.scheme, plan.exclude))
    specs = {shard: output_specs(checkpoint, plan, shard) for shard in checkpoint.shards}
    if checkpoint.index is not None:
        index = json.loads((checkpoint.directory / checkpoint.index).read_text(encoding="utf-8"))
        _write_json(staging / INDEX_NAME, output_index(index, specs))

    with (
        progress.task("quantize", checkpoint.size_bytes, "B") as task,
        ExitStack() as files,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="copy-kept") as threads,
    ):
        writers = {shard: files.enter_context(ShardWriter(staging / shard, specs[shard])) for shard in specs}
        copier = Copier(checkpoint=checkpoint, writers=writers, kept=frozenset(plan.kept), task=task)
        copying = threads.submit(copier.run)
        try:
            with quick_thread_switches():
                quark = load_quark(plan.scheme)
                imported = time.perf_counter()
                _quantize_weights(checkpoint, plan, writers, quark, task, copying)
                digests = copying.result()
        finally:
            copier.stop.set()

    known = {shard: FileDigest(size_bytes=writer.size_bytes, sha256=writer.sha256) for shard, writer in writers.items()}
    result = QuantizeResult(
        plan=plan,
        input=_input_manifest(checkpoint, companions, digests),
        output=Manifest.of(staging, known=known),
        tensors_before_bytes=checkpoint.size_bytes,
        tensors_after_bytes=sum(spec.size_bytes for tensors in specs.values() for spec in tensors),
        companions=companions,
        import_seconds=imported - started,
        work_seconds=time.perf_counter() - imported,
    )
    _write_json(staging / RECORD_NAME, record(result, command_line))
    return result


def _quantize_weights(
    checkpoint: Checkpoint,
    plan: QuantPlan,
    writers: Mapping[str, ShardWriter],
    quark: Quark,
    task: Task,
    copying: Copying,
) -> None:
    for shard, writer in writers.items():
        scales: dict[str, list[memoryview]] = {}
        for name in plan.quantized:
            if checkpoint.tensors[name].shard == shard:
                scales[name] = []
                writer.write(name, _payload(checkpoint, plan, name, quark, scales[name], task, copying))
        for name, scale in scales.items():
            writer.write(scale_name(name), scale)


def _payload(
    checkpoint: Checkpoint,
    plan: QuantPlan,
    name: str,
    quark: Quark,
    scales: list[memoryview],
    task: Task,
    copying: Copying,
) -> Iterator[memoryview]:
    """The FP8 bytes of one weight, block by block; the bytes of its scale are appended to `scales`."""
    for first, rows in row_blocks(checkpoint, checkpoint.tensors[name], BLOCK_ELEMENTS):
        payload, scale = quark.quantize_rows(rows)
        if not scale.isfinite().all():
            raise NonFiniteWeightError(non_finite_weights(checkpoint, plan))
        require_divisible(checkpoint, name, first, rows, scale)
        scales.append(_bytes(scale))
        yield _bytes(payload)
        task.advance(rows.nbytes)
        if copying.done():
            copying.result()  # a full disk should not wait for the last weight


def _input_manifest(checkpoint: Checkpoint, companions: Companions, shards: Mapping[str, FileDigest]) -> Manifest:
    names = [CONFIG_NAME, *([checkpoint.index] if checkpoint.index is not None else []), *companions.carried]
    files = {**shards, **{name: digest(checkpoint.directory / name) for name in names}}
    return Manifest(files=dict(sorted(files.items())))


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return tensor.contiguous().view(torch.uint8).numpy().data


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
