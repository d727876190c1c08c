"""``quark_eagle.json``: how a checkpoint came about, and what its files must hash to."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from quark_eagle import __version__
from quark_eagle.checkpoint.manifest import Manifest
from quark_eagle.quantize.activation_scales import ActivationScales
from quark_eagle.quantize.carried import Companions
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.quark_backend import quark_version

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeResult:
    """What was written, from what, and how long it took.

    Attributes:
        activation_scales: that were written; None if the scheme needs none and none were given.
        input, output: every file with size and sha256; the output without ``quark_eagle.json``.
        tensors_before_bytes, tensors_after_bytes: of all tensors together.
        companions: the files beside the weights.
        import_seconds: until Quark was imported; copying went on meanwhile.
        work_seconds: from then to the end.
    """

    plan: QuantPlan
    activation_scales: ActivationScales | None
    input: Manifest
    output: Manifest
    tensors_before_bytes: int
    tensors_after_bytes: int
    companions: Companions
    import_seconds: float
    work_seconds: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON object: plan, sizes, files with their hashes, what was left out."""
        return {
            "schema_version": SCHEMA_VERSION,
            "plan": self.plan.to_json(),
            "activation_scales": None if self.activation_scales is None else self.activation_scales.to_json(),
            "tensors_before_bytes": self.tensors_before_bytes,
            "tensors_after_bytes": self.tensors_after_bytes,
            "input": self.input.to_json(),
            "output": self.output.to_json(),
            "carried": list(self.companions.carried),
            "left_out": [{"path": path, "reason": reason} for path, reason in self.companions.left_out],
        }


def record(result: QuantizeResult, command_line: Sequence[str]) -> dict[str, Any]:
    """The content of ``quark_eagle.json``. It has no time and no path in it, so the same run writes the same bytes."""
    versions = {
        "quark-eagle": __version__,
        "amd-quark": quark_version(),
        "torch": version("torch"),
        "safetensors": version("safetensors"),
        "python": platform.python_version(),
    }
    return {**result.to_json(), "command_line": list(command_line), "versions": versions}
