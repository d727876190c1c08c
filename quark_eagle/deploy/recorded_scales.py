"""The scales of activations in a checkpoint, held against those that its record says a calibration found.

A static scale is a number that no weight can prove right or wrong: one of another module, or ten times too large, is as
good a number. ``quark_eagle.json`` says which was meant for which module, by names of its own (`inputs` by canonical
module, `keys` and `values` by layer). A checkpoint without that file, of another tool, is not asked.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.findings import Finding, RuntimeModule, errors
from quark_eagle.deploy.values import values_of

RECORD = "quark_eagle.json"
_PARTS = {"keys": "k_scale", "values": "v_scale"}


def check_recorded_scales(checkpoint: Checkpoint, modules: Sequence[RuntimeModule]) -> list[Finding]:
    """Findings about scales that are not those of the record."""
    recorded = _recorded(checkpoint)
    if recorded is None:
        return []
    found: list[Finding] = []
    for name, scale in _by_tensor(recorded, modules):
        info = checkpoint.tensors[name]
        stored = float(values_of(info, checkpoint.read_bytes(info)).float().reshape(-1)[0])
        if struct.pack("<f", stored) != struct.pack("<f", scale):
            problem = f"is {stored:g}, but {RECORD} says that a calibration found {scale:g} for it. Quantize again."
            found += errors(name, [problem], "content")
    return found


def _recorded(checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    path = checkpoint.directory / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # a damaged record is no fault of the draft
    scales = record.get("activation_scales") if isinstance(record, dict) else None
    return scales if isinstance(scales, dict) else None


def _by_tensor(recorded: Mapping[str, Any], modules: Sequence[RuntimeModule]) -> Iterator[tuple[str, float]]:
    """Tensor on disk → the scale that was meant for it, found through the runtime module that takes it."""
    inputs = recorded.get("inputs") or {}
    for module in modules:
        parts = module.parts or (module.name.removeprefix("model.").split(".", 2)[-1],)
        layer = module.name.removeprefix("model.layers.").partition(".")[0]
        for parameter in module.parameters:
            kind = parameter.name.rpartition(".")[2]
            if kind == "input_scale":
                prefix = f"layers.{layer}." if module.name.startswith("model.layers.") else ""
                wanted = [inputs.get(f"{prefix}{part}") for part in parts]
            else:
                wanted = [(recorded.get(key) or {}).get(layer) for key, name in _PARTS.items() if name == kind]
            for name, scale in zip(parameter.sources, wanted, strict=False):
                if name is not None and isinstance(scale, float):
                    yield name, scale
