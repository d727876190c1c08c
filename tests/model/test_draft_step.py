"""What `benchmarks/draft_step.py` times is one computation in two precisions, in the published shape."""

from __future__ import annotations

import pytest
import torch

from benchmarks.draft_step import Draft, Shape, Times, measure, table

CPU = torch.device("cpu")


def test_the_shape_is_that_of_kimis_draft() -> None:
    sizes = Shape().layers()
    assert sum(rows * columns for rows, columns in sizes.values()) == 675_282_944  # what AMD's recipe quantizes
    assert sizes["qkv"] == (3 * 64 * 128, 2 * 7168)


@torch.inference_mode()
def test_both_precisions_compute_the_same_state() -> None:
    bf16, fp8 = Draft.random(Shape().scaled(1 / 32), CPU)
    generator = torch.Generator().manual_seed(1)
    x, hidden = torch.randn(2, 4, bf16.shape.hidden, generator=generator).bfloat16()
    cache = torch.randn(2, 4, bf16.shape.heads, 16, bf16.shape.head_dim, generator=generator).bfloat16()
    states = [draft.layer(x, hidden, *cache.clone()).float() for draft in (bf16, fp8)]
    assert torch.nn.functional.cosine_similarity(*states).min() > 0.995
    assert not torch.equal(*states)


def test_only_the_layers_products_are_fp8() -> None:
    bf16, fp8 = Draft.random(Shape().scaled(1 / 32), CPU)
    assert {it.weight.dtype for it in fp8.layers.values()} == {torch.float8_e4m3fn}
    assert fp8.head is bf16.head
    assert 0.5 < fp8.step_bytes / bf16.step_bytes < 1


def test_a_batch_is_timed_and_is_a_line_of_the_table() -> None:
    with torch.inference_mode():
        found = measure(Draft.random(Shape().scaled(1 / 64), CPU), batch=2, context=8, rounds=2, device=CPU)
    assert min(found.bf16, found.fp8, found.head, found.fc) > 0
    assert len(table([found, found]).splitlines()) == 3


def test_the_heads_share_is_of_the_whole_step() -> None:
    line = table([Times(batch=1, bf16=4.0, fp8=2.0, head=1.0, fc=0.1)]).splitlines()[1]
    assert line.split()[4:7] == ["1.000", "25%", "50%"]
    assert float(line.split()[3]) == pytest.approx(0.5)
