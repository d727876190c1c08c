"""The published tables are typed as they were published."""

from __future__ import annotations

import pytest

from quark_eagle.documents.throughput import ArmName
from quark_eagle.throughput.published import PUBLISHED, published_for

# The speed-ups over no speculation that stand beside the figures in the same sources.
SPEEDUPS: dict[tuple[str, ArmName], tuple[float, ...]] = {
    ("amd/Kimi-K2.5-MXFP4", "baseline"): (1.90, 1.89, 1.81, 1.83, 1.69),
    ("amd/Kimi-K2.5-MXFP4", "candidate"): (2.00, 1.90, 1.87, 1.85, 1.76),
    ("MiniMaxAI/MiniMax-M2.5", "baseline"): (1.79, 1.71, 1.55, 1.57, 1.38),
}


@pytest.mark.parametrize(("target", "arm"), SPEEDUPS)
def test_figures_and_published_speed_ups_agree(target: str, arm: ArmName) -> None:
    table = next(table for table in PUBLISHED if table.target == target)
    by_cell = {(cell.arm, cell.concurrency): cell.tokens_per_second_per_gpu for cell in table.cells}
    found = [round(by_cell[arm, streams] / by_cell["none", streams], 2) for streams in (4, 8, 16, 32, 64)]
    assert found == pytest.approx(SPEEDUPS[target, arm], abs=0.011)


@pytest.mark.parametrize(
    ("target", "arch", "lengths", "num_gpus", "is_shown"),
    [
        ("amd/Kimi-K2.5-MXFP4", "gfx950", (1024, 1024), 4, True),
        ("/data/minimax-m2.5/", "gfx950", (1024, 1024), 4, True),
        ("amd/Kimi-K2.6-MXFP4", "gfx950", (1024, 1024), 4, False),
        ("amd/Kimi-K2.5-MXFP4", "gfx942", (1024, 1024), 4, False),
        ("amd/Kimi-K2.5-MXFP4", "gfx950", (8192, 1024), 4, False),
        ("amd/Kimi-K2.5-MXFP4", "gfx950", (1024, 1024), 8, False),
    ],
)
def test_a_table_is_shown_beside_its_own_measurement_only(
    target: str, arch: str, lengths: tuple[int, int], num_gpus: int, is_shown: bool
) -> None:
    assert (published_for(target, arch, *lengths, num_gpus) is not None) is is_shown
