"""stage(): a plan carried out into an empty directory, shard by shard, with memory that does not grow with the file.

Kept bytes are copied and all input is hashed in a thread while Quark is imported, which takes longer. Then the rows of
the quantized weights pass through Quark in blocks. Every output byte is hashed as it is written.
A scheme with one scale for a whole weight reads the weight twice: for its largest magnitude, and to quantize it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.manifest import RECORD_NAME, FileDigest, Manifest, digest
from quark_eagle.checkpoint.reader import CONFIG_NAME, INDEX_NAME, Checkpoint
from quark_eagle.checkpoint.vocab_map import check_vocab_map
from quark_eagle.checkpoint.writer import ShardWriter, TensorSpec
from quark_eagle.errors import NonFiniteWeightError
from quark_eagle.progress import SILENT, Progress, Task
from quark_eagle.quantize.activation_scales import ActivationScales, scale_bytes, scale_tensors
from quark_eagle.quantize.carried import Companions
from quark_eagle.quantize.plan import QuantPlan, require_quantizable
from quark_eagle.quantize.quantization_config import quantized_config
from quark_eagle.quantize.quark_backend import BLOCK_ELEMENTS, Quark, load_quark, require_quark
from quark_eagle.quantize.record import QuantizeResult, record
from quark_eagle.quantize.shards import output_index, output_specs, scale_name
from quark_eagle.quantize.shared_scale import largest_magnitude, sharing
from quark_eagle.quantize.soundness import non_finite_weights, require_divisible, require_kept_by_vllm
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
    activation_scales: ActivationScales | None = None,
    command_line: Sequence[str] = (),
) -> QuantizeResult:
    """Writes the quantized checkpoint into an empty directory, ``quark_eagle.json`` included.

    Args:
        checkpoint: the input; only read.
        layout: of the same checkpoint.
        plan: made for the same checkpoint.
        staging: exists and is empty; see `quark_eagle.checkpoint.writer.staged`.
        progress: told of the bytes of input tensors as they are done.
        activation_scales: what a calibration found; a static scheme needs them, and a KV cache in FP8 may have some.
        command_line: recorded in ``quark_eagle.json``.

    Raises:
        QuantizationError: the draft is quantized already, Quark is missing, or the activation scales are not those that
            the plan needs.
        NonFiniteWeightError: weights to quantize hold NaN or infinities; all are listed.
        CheckpointError: d2t and t2d are no vocabulary map, or the input changed meanwhile.
        OSError: the disk is full.
    """
    require_quantizable(checkpoint, plan)
    activations = scale_tensors(activation_scales, plan, layout)
    require_quark()
    check_vocab_map(checkpoint, layout)
    started = time.perf_counter()
    companions = Companions.of(checkpoint)
    companions.copy(checkpoint.directory, staging)
    of_the_cache = activation_scales is not None and activation_scales.of_the_cache
    _write_json(staging / CONFIG_NAME, quantized_config(checkpoint.config, plan, kv_cache=of_the_cache))
    specs = {shard: output_specs(checkpoint, plan, shard, activations) for shard in checkpoint.shards}
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
                _Quantizing(checkpoint=checkpoint, plan=plan, quark=quark, task=task, copying=copying).write(writers)
                _write_activation_scales(specs, activations, writers)
                digests = copying.result()
        finally:
            copier.stop.set()

    known = {shard: FileDigest(size_bytes=writer.size_bytes, sha256=writer.sha256) for shard, writer in writers.items()}
    result = QuantizeResult(
        plan=plan,
        activation_scales=activation_scales,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantizing:
    """The weights on their way through Quark.

    Attributes:
        copying: asked between blocks whether it failed; a full disk should not wait for the last weight.
        largest: largest magnitude by the weights that share a scale; found once for all of them.
    """

    checkpoint: Checkpoint
    plan: QuantPlan
    quark: Quark
    task: Task
    copying: Copying
    largest: dict[tuple[str, ...], Tensor] = field(default_factory=dict)

    def write(self, writers: Mapping[str, ShardWriter]) -> None:
        """Payloads and weight scales into their shards."""
        for shard, writer in writers.items():
            scales: dict[str, list[memoryview]] = {}
            for name in self.plan.quantized:
                if self.checkpoint.tensors[name].shard == shard:
                    scales[name] = []
                    writer.write(name, self._payload(name, scales[name]))
            for name, scale in scales.items():
                writer.write(scale_name(name), scale)

    def _payload(self, name: str, scales: list[memoryview]) -> Iterator[memoryview]:
        """The FP8 bytes of one weight, block by block; the bytes of its scale are appended to `scales`."""
        shared = self._largest(name) if self.plan.scheme.weight == "per_tensor" else None
        for first, rows in row_blocks(self.checkpoint, self.checkpoint.tensors[name], BLOCK_ELEMENTS):
            payload, scale = self.quark.quantize_rows(rows, shared)
            if not scale.isfinite().all():
                raise NonFiniteWeightError(non_finite_weights(self.checkpoint, self.plan))
            if shared is None:
                require_divisible(self.checkpoint, name, first, rows, scale)
            else:
                require_kept_by_vllm(self.checkpoint, name, scale)
            if shared is None or first == 0:
                scales.append(_bytes(scale))
            yield _bytes(payload)
            self.task.advance(rows.nbytes)
            if self.copying.done():
                self.copying.result()

    def _largest(self, name: str) -> Tensor:
        names = sharing(self.plan, name)
        if names not in self.largest:
            self.largest[names] = largest_magnitude(self.checkpoint, names)
        return self.largest[names]


def _write_activation_scales(
    specs: Mapping[str, Sequence[TensorSpec]], activations: Mapping[str, float], writers: Mapping[str, ShardWriter]
) -> None:
    for shard, tensors in specs.items():
        for spec in tensors:
            if spec.name in activations:
                writers[shard].write(spec.name, scale_bytes(activations[spec.name]))


def _input_manifest(checkpoint: Checkpoint, companions: Companions, shards: Mapping[str, FileDigest]) -> Manifest:
    names = [CONFIG_NAME, *([checkpoint.index] if checkpoint.index is not None else []), *companions.carried]
    files = {**shards, **{name: digest(checkpoint.directory / name) for name in names}}
    return Manifest(files=dict(sorted(files.items())))


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
