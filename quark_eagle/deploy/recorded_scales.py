"""The scales of activations in a checkpoint, held against those that its record says a calibration found.

A static scale is a number that no weight can prove right or wrong: one of another module, or ten times too large, is as
good a number. ``quark_eagle.json`` says which was meant for which module, by names of its own (`inputs` by canonical
module, `keys` and `values` by layer), so both sides are held against each other: a scale that only one of them has is
an error as well. A checkpoint without that file, of another tool, is not asked.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.findings import Finding, RuntimeModule, errors
from quark_eagle.deploy.values import values_of
from quark_eagle.errors import CheckpointError

RECORD_NAME = "quark_eagle.json"  # known here as well: the second road shares nothing with what writes
_PARTS = {"inputs": "input_scale", "keys": "k_scale", "values": "v_scale"}
"""Part of the record → the last name of the runtime parameters that take its scales."""
_LARGEST = 3.4028234663852886e38  # of float32

_Scale = tuple[str, str]
"""One scale in the record's own words: its part, and the module or layer there."""


def check_recorded_scales(checkpoint: Checkpoint, modules: Sequence[RuntimeModule]) -> list[Finding]:
    """Findings about scales that are not those of the record, that one side lacks, or that the record garbles."""
    path = checkpoint.directory / RECORD_NAME
    if not path.exists() or not modules:  # of a draft whose modules are not foretold nothing is known
        return []
    try:
        recorded = _recorded(path)
    except CheckpointError as error:
        return errors(RECORD_NAME, [str(error)], "content")
    found: list[Finding] = []
    for name, scale in _by_tensor(modules):
        meant = recorded.pop(scale, None)
        found += errors(name, _about_tensor(_stored(checkpoint, name), meant), "content")
    gone = [
        f"says that a calibration found {meant:g} for {part}.{where}, but the draft loads no such one. Quantize again."
        for (part, where), meant in recorded.items()
    ]
    return found + errors(RECORD_NAME, gone, "content")


def _about_tensor(stored: Sequence[float], meant: float | None) -> Iterator[str]:
    shown = ", ".join(f"{scale:g}" for scale in stored)
    if meant is None:
        yield f"is {shown}, but {RECORD_NAME} knows of no scale for it. Remove it, or quantize again."
    elif [struct.pack("<f", scale) for scale in stored] != [struct.pack("<f", meant)]:
        yield f"is {shown}, but {RECORD_NAME} says that a calibration found {meant:g} for it. Quantize again."


def _stored(checkpoint: Checkpoint, name: str) -> list[float]:
    info = checkpoint.tensors[name]
    return [float(scale) for scale in values_of(info, checkpoint.read_bytes(info)).float().reshape(-1)[:2]]


def _recorded(path: Path) -> dict[_Scale, float]:
    """Every scale that the record names; a record without any says that there are none.

    Raises:
        CheckpointError: it cannot be read, or does not hold what `ActivationScales.to_json` wrote.
    """
    restore = "so nobody knows whether the scales are those that were found. Restore it, or quantize again."
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be read ({error}), {restore}") from error
    scales = record.get("activation_scales") if isinstance(record, dict) else record
    if scales is None and isinstance(record, dict):
        return {}
    if not isinstance(scales, dict):
        raise CheckpointError(f"activation_scales is no JSON object, {restore}")
    wrong = [part for part in _PARTS if not _is_part(scales.get(part, {}))]
    if wrong:
        raise CheckpointError(f"activation_scales.{wrong[0]} is no object of positive float32 numbers, {restore}")
    return {(part, where): scale for part in _PARTS for where, scale in scales.get(part, {}).items()}


def _is_part(content: Any) -> bool:
    return isinstance(content, Mapping) and all(
        isinstance(scale, int | float) and not isinstance(scale, bool) and 0 < scale <= _LARGEST
        for scale in content.values()
    )


def _by_tensor(modules: Sequence[RuntimeModule]) -> Iterator[tuple[str, _Scale]]:
    """Tensor on disk → what the record calls it, found through the runtime module that takes it."""
    kinds = {kind: part for part, kind in _PARTS.items()}
    for module in modules:
        parts = module.parts or (module.name.removeprefix("model.").split(".", 2)[-1],)
        in_layer = module.name.startswith("model.layers.")
        layer = module.name.removeprefix("model.layers.").partition(".")[0]
        for parameter in module.parameters:
            kind = kinds.get(parameter.name.rpartition(".")[2])
            if kind is None:
                continue
            inputs = [f"layers.{layer}.{part}" if in_layer else part for part in parts]
            named = inputs if kind == "inputs" else [layer]
            yield from (
                (name, (kind, where)) for name, where in zip(parameter.sources, named, strict=False) if name is not None
            )
