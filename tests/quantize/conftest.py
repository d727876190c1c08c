"""Quark, imported once for all tests of a session, and a stand-in for what does not depend on its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.checkpoint.writer import staged
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.record import QuantizeResult
from quark_eagle.quantize.scheme import Scheme
from quark_eagle.quantize.stage import stage

Quantize = Callable[..., QuantizeResult]


@dataclass
class StandIn:
    """Quantizes by the definition of PTPC; `after` rows it calls `then`."""

    rows: int = 0
    seen: list[int] = field(default_factory=list)

    def quantize_rows(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(len(rows))
        scale = rows.float().abs().amax(dim=1) / 448
        scale = scale.masked_fill(scale == 0, 2.0**-23)
        return (rows.float() / scale[:, None]).clamp(-448, 448).to(torch.float8_e4m3fn), scale


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """In place of Quark for the rest of a test: 20 seconds less."""
    quark = StandIn()
    monkeypatch.setattr("quark_eagle.quantize.stage.load_quark", lambda scheme: quark)
    return quark


def quantize(source: Path, output: Path, keep: Sequence[str] = (), quantize_fc: bool = False) -> QuantizeResult:
    """What the command does, without the command."""
    checkpoint = Checkpoint.open(source)
    layout = Eagle3Layout.of(checkpoint)
    plan = QuantPlan.of(layout, Scheme.PTPC_FP8, keep, quantize_fc)
    with staged(output, source=source, durable=False) as staging:
        return stage(checkpoint, layout, plan, staging, command_line=["quark-eagle", "quantize"])
