"""The counted distribution is the distribution."""

from __future__ import annotations

import pytest
import torch

from quark_eagle.errors import QuantizationError
from quark_eagle.fp8 import FP8_MAX
from quark_eagle.quantize.calibration.magnitudes import CLIPPED_FROM, Magnitudes, Place


def place(rows: int, prompt: str = "p", step: int = 1) -> Place:
    return Place(prompt=prompt, step=step, positions=torch.arange(rows) + 10)


@pytest.fixture(scope="module")
def activations() -> torch.Tensor:
    """[300, 64] bfloat16 over nine decades, with zeros."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 64, generator=generator) * 10 ** (9 * torch.rand(300, 64, generator=generator) - 6)
    x[::7, ::5] = 0
    return x.bfloat16()


@pytest.fixture(scope="module")
def counted(activations: torch.Tensor) -> Magnitudes:
    magnitudes = Magnitudes()
    magnitudes.see("m", activations, place(300))
    return magnitudes


def test_every_percentile_is_that_of_the_sorted_values(activations: torch.Tensor, counted: Magnitudes) -> None:
    ordered = activations.float().abs().flatten().sort().values
    for percent in (0, 1, 50, 99, 99.99, 100):
        rank = max(1, -(-len(ordered) * percent // 100))
        assert counted.percentile(percent) == ordered[int(rank) - 1].item()
    assert counted.absmax == ordered[-1].item()
    assert counted.num_values == len(ordered)


def test_clipped_and_flushed_are_what_a_cast_does(activations: torch.Tensor, counted: Magnitudes) -> None:
    magnitudes = activations.double().abs()
    for scale in (1e-3, 0.25, 1.0, 3.0):
        cast = (magnitudes / scale).clamp(max=FP8_MAX).to(torch.float8_e4m3fn).double() * scale
        assert counted.num_flushed(scale) == int(((cast == 0) & (magnitudes != 0)).sum()) > 0
        assert counted.num_clipped(scale) == int((magnitudes / scale > CLIPPED_FROM).sum()) > 0


def test_neither_order_nor_batches_matter(activations: torch.Tensor, counted: Magnitudes) -> None:
    in_parts = Magnitudes()
    for part in activations.flip(0).split(37):
        in_parts.see("m", part, place(len(part)))
    assert torch.equal(in_parts.counts, counted.counts)


def test_a_peak_says_where_the_largest_magnitude_was(activations: torch.Tensor) -> None:
    magnitudes = Magnitudes()
    small = activations * 0
    magnitudes.see("m", small, place(300, "first"))
    spiked = small.clone()
    spiked[41, 13] = -777
    magnitudes.see("m", spiked, place(300, "second"))
    magnitudes.see("m", spiked, place(300, "third"))  # as large: the first stays
    magnitudes.see("m", spiked / 2, place(300, "third", step=2))
    first, second = magnitudes.peaks
    assert (first.absmax, first.prompt, first.position, first.channel) == (776, "second", 51, 13)
    assert (second.step, second.absmax, second.prompt) == (2, 388, "third")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_by_its_place(activations: torch.Tensor, wrong: float) -> None:
    spiked = activations.clone()
    spiked[5, 7] = wrong
    with pytest.raises(QuantizationError, match=r"m: .* \(prompt p, position 15, step 1, channel 7\)"):
        Magnitudes().see("m", spiked, place(300))


def test_keys_of_several_heads_are_counted_as_one_row() -> None:
    magnitudes = Magnitudes()
    keys = torch.zeros(2, 3, 4, dtype=torch.bfloat16)
    keys[1, 2, 1] = 5
    magnitudes.see("keys", keys, place(2))
    assert magnitudes.peaks[0].channel == 2 * 4 + 1
    assert magnitudes.num_values == 24
