"""Quark, imported once for all tests of a session, and a stand-in for what does not depend on its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from quark_eagle.checkpoint.layout import Eagle3Layout, Role
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.checkpoint.writer import staged
from quark_eagle.quantize.activation_scales import ActivationScales
from quark_eagle.quantize.format import Format
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.record import QuantizeResult
from quark_eagle.quantize.scheme import Scheme
from quark_eagle.quantize.stage import stage

Quantize = Callable[..., QuantizeResult]


@dataclass
class StandIn:
    """Quantizes by the definition, and remembers how many rows came at once."""

    rows: int = 0
    seen: list[int] = field(default_factory=list)

    def quantize_rows(self, rows: torch.Tensor, amax: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(len(rows))
        scale = (rows.float().abs().amax(dim=1) if amax is None else amax.float()) / 448
        scale = scale.masked_fill(scale == 0, 2.0**-23)
        divisor = scale[:, None] if amax is None else scale
        return (rows.float() / divisor).clamp(-448, 448).to(torch.float8_e4m3fn), scale


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """In place of Quark for the rest of a test: 20 seconds less."""
    quark = StandIn()
    monkeypatch.setattr("quark_eagle.quantize.stage.load_quark", lambda scheme: quark)
    return quark


def quantize(
    source: Path,
    output: Path,
    keep: Sequence[str] = (),
    quantize_fc: bool = False,
    scheme: Scheme = Scheme.PTPC_FP8,
    activation_scales: ActivationScales | None = None,
    format: Format = Format.QUARK,
) -> QuantizeResult:
    """What the command does, without the command."""
    checkpoint = Checkpoint.open(source)
    layout = Eagle3Layout.of(checkpoint)
    plan = QuantPlan.of(layout, scheme, keep, quantize_fc, format)
    with staged(output, source=source, durable=False) as staging:
        return stage(
            checkpoint,
            layout,
            plan,
            staging,
            activation_scales=activation_scales,
            command_line=["quark-eagle", "quantize"],
        )


def scales_for(source: Path, *, kv_cache: bool = False, **changes: float) -> ActivationScales:
    """Activation scales for every linear of a draft's layers, the same for what runs fused.

    Args:
        source: the draft.
        kv_cache: whether the cache has some, too.
        changes: other numbers, by the last part of a module's name.
    """
    layout = Eagle3Layout.of(Checkpoint.open(source))
    slots = [slot for slot in layout.slots.values() if slot.role is Role.LINEAR]
    groups = sorted({slot.fusion_group or slot.canonical for slot in slots})
    inputs = {}
    for slot in slots:
        module = slot.canonical.removesuffix(".weight")
        shared = 2.0**-6 * (1 + groups.index(slot.fusion_group or slot.canonical))
        inputs[module] = changes.get(module.rpartition(".")[2], shared)
    layers = range(layout.geometry.num_layers) if kv_cache else ()
    return ActivationScales(inputs=inputs, keys=dict.fromkeys(layers, 0.125), values=dict.fromkeys(layers, 0.0625))
