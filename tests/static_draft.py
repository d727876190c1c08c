"""A tiny draft with static scales: what its activations reach on a trace, by hand, and the checkpoint that says so."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.model.parts import LinearLayer
from quark_eagle.parity.replay import replay
from quark_eagle.quantize.activation_scales import ActivationScales
from quark_eagle.quantize.scheme import Scheme
from quark_eagle.trace.target_trace import TargetTrace
from tests.quantize.conftest import StandIn, quantize

FUSED = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"})
STEPS = 3


@dataclass
class Watched:
    """A linear layer whose largest input is remembered."""

    layer: LinearLayer
    seen: dict[str, float]
    name: str

    @property
    def out_features(self) -> int:
        return self.layer.out_features

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[self.name] = max(self.seen[self.name], float(x.abs().max()))
        return self.layer(x)

    def argmax(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer.argmax(x)


def observed(draft: Path, trace: Path) -> ActivationScales:
    """Scales of the largest magnitudes that a BF16 draft meets on a trace; the same for what runs fused."""
    checkpoint, opened = Checkpoint.open(draft), TargetTrace.open(trace)
    model = Eagle3Draft.load(checkpoint, Eagle3Layout.of(checkpoint), opened.rows.weights)
    seen: dict[str, float] = defaultdict(float)
    for name in [name for name in model.linears if name.startswith("layers.")]:
        model.linears[name] = Watched(model.linears[name], seen, name)

    def watch(name: str) -> None:
        def stored(x: torch.Tensor) -> torch.Tensor:
            seen[name] = max(seen[name], float(x.abs().max()))
            return x

        model.caches[name] = stored

    for layer in range(model.geometry.num_layers):
        for kind in ("keys", "values"):
            watch(f"layers.{layer}.self_attn.{kind}")
    for traced in opened:
        replay(model, traced, STEPS)
    scales = {name: torch.tensor(largest / 448).item() for name, largest in seen.items()}
    caches = {name: scales.pop(name) for name in list(scales) if name.endswith((".keys", ".values"))}
    return ActivationScales(
        inputs={name: _shared(name, scales) for name in scales},
        keys={int(name.split(".")[1]): scale for name, scale in caches.items() if name.endswith(".keys")},
        values={int(name.split(".")[1]): scale for name, scale in caches.items() if name.endswith(".values")},
    )


def write_static_draft(draft: Path, trace: Path, output: Path, scheme: Scheme) -> Path:
    """The draft in FP8 under the scales that were observed on the trace, by the definition instead of Quark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quark_eagle.quantize.stage.load_quark", lambda scheme: StandIn())
        quantize(draft, output, scheme=scheme, activation_scales=observed(draft, trace))
    return output


def _shared(name: str, scales: dict[str, float]) -> float:
    module, _, last = name.rpartition(".")
    group = next((group for group in FUSED if last in group), {last})
    return max(scales[f"{module}.{part}"] for part in group)
