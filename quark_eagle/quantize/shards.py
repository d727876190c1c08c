"""What the output shards hold: the input's tensors in the input's files, and scales beside each quantized weight."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from quark_eagle.checkpoint.header import DTYPE_BITS
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.checkpoint.shard_writer import aligned
from quark_eagle.checkpoint.writer import TensorSpec
from quark_eagle.quantize.exclude import module_of
from quark_eagle.quantize.plan import QuantPlan


def scale_name(tensor: str) -> str:
    """Where Quark writes a weight's scale, and vLLM looks for it.

    >>> scale_name("midlayer.mlp.down_proj.weight")
    'midlayer.mlp.down_proj.weight_scale'
    """
    return f"{tensor}_scale"


def output_specs(
    checkpoint: Checkpoint, plan: QuantPlan, shard: str, activations: Collection[str] = ()
) -> list[TensorSpec]:
    """The tensors of one output shard in the order of their data: kept, then payloads, then scales.

    In that order a shard is hashed as it is written, and what is kept is written before Quark is there. Where a tensor
    would not begin at a multiple of its element's size (after a matrix of odd size, say), the order is that of the
    safetensors library instead, and the shard is read once more to be hashed.

    Args:
        checkpoint: the input.
        plan: made for it.
        shard: one of its files.
        activations: names of all scales of activations, each of which goes where its module's weight is.
    """
    infos = [info for info in checkpoint.tensors.values() if info.shard == shard]
    quantized = frozenset(plan.quantized)
    weights = [info for info in infos if info.name in quantized]
    kept = aligned(TensorSpec(name=i.name, dtype=i.dtype, shape=i.shape) for i in infos if i.name not in quantized)
    payloads = [TensorSpec(name=i.name, dtype=plan.scheme.weight_dtype, shape=i.shape) for i in weights]
    shapes = {scale_name(i.name): plan.format.weight_scale_shape(plan.scheme.weight, i.shape[0]) for i in weights}
    scales = [TensorSpec(name=name, dtype=plan.scheme.scale_dtype, shape=shape) for name, shape in shapes.items()]
    scales += [
        TensorSpec(name=name, dtype=plan.scheme.scale_dtype, shape=plan.format.shape_of_one)
        for name in scales_beside((info.name for info in infos), activations)
    ]
    # A t2d of odd length would push everything after it to odd places: single bytes go last.
    wide = [spec for spec in kept if DTYPE_BITS[spec.dtype] > 8]
    specs = [*wide, *payloads, *scales, *(spec for spec in kept if DTYPE_BITS[spec.dtype] <= 8)]
    return specs if _is_aligned(specs) else aligned(specs)


def scales_beside(tensors: Iterable[str], activations: Collection[str]) -> list[str]:
    """Those of the scales whose module has a weight among the tensors, in order; of an attention, its ``v_proj``.

    >>> scales_beside(["fc.weight", "a.v_proj.weight"], ["fc.input_scale", "lm_head.input_scale", "a.k_scale"])
    ['a.k_scale', 'fc.input_scale']
    """
    modules = {module_of(name) for name in tensors if name.endswith(".weight")}
    return sorted(name for name in activations if {module_of(name), f"{module_of(name)}.v_proj"} & modules)


def output_bytes(checkpoint: Checkpoint, plan: QuantPlan) -> int:
    """Bytes of all tensors of the output together."""
    return sum(spec.size_bytes for shard in checkpoint.shards for spec in output_specs(checkpoint, plan, shard))


def output_index(index: Mapping[str, Any], specs: Mapping[str, Sequence[TensorSpec]]) -> dict[str, Any]:
    """The index file of the output: the input's, with the scales and the new total size.

    Args:
        index: the input's index as it was read.
        specs: of each output shard, by its name.
    """
    places = {spec.name: shard for shard, tensors in specs.items() for spec in tensors}
    total = sum(spec.size_bytes for tensors in specs.values() for spec in tensors)
    metadata = index.get("metadata") or {}
    return {**index, "metadata": {**metadata, "total_size": total}, "weight_map": dict(sorted(places.items()))}


def _is_aligned(specs: Sequence[TensorSpec]) -> bool:
    position = 0
    for spec in specs:
        if position % max(1, DTYPE_BITS[spec.dtype] // 8):
            return False
        position += spec.size_bytes
    return True
