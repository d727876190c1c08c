from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from quark_eagle.checkpoint.family import canonical_name
from quark_eagle.checkpoint.layout import Eagle3Layout, Role
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.checkpoint.traffic import EVERY_STEP, Footprint, ReadIn
from tests.published import PUBLISHED
from tests.tiny import TinyDraft, tiny_tensors, write_tiny_draft


def footprint_of(directory: Path, **changes: Any) -> Footprint:
    checkpoint = Checkpoint.open(write_tiny_draft(directory, **changes))
    layout = Eagle3Layout.of(checkpoint)
    linears = [name for name, slot in layout.slots.items() if slot.role is Role.LINEAR]
    return Footprint.of(checkpoint, layout, linears)


def nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def test_a_step_reads_layers_head_and_one_row_of_the_embedding(tmp_path: Path) -> None:
    draft = TinyDraft(embed_tokens=True)
    tensors = tiny_tensors(draft)
    layers = sum(nbytes(t) for n, t in tensors.items() if n.startswith("midlayer.") or n == "norm.weight")
    head = nbytes(tensors["lm_head.weight"]) + nbytes(tensors["d2t"])
    footprint = footprint_of(tmp_path, embed_tokens=True)
    assert footprint.step(*EVERY_STEP) == layers + head + 2 * draft.hidden
    assert footprint.step(ReadIn.FIRST_STEP) == nbytes(tensors["fc.weight"])
    assert footprint.size_bytes == sum(map(nbytes, tensors.values()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_step_of_every_family_reads_all_its_layers(name: str, tmp_path: Path) -> None:
    """Every layer, the bottlenecks of MLA and the absorbed kv_b_proj among them, and never what `combine` reads."""
    draft = PUBLISHED[name]
    tensors = {canonical_name(name): tensor for name, tensor in tiny_tensors(draft).items()}
    row = 2 * draft.hidden  # of its own embedding or of the target's
    first = sum(nbytes(t) for n, t in tensors.items() if n.startswith(("fc.", "fc_norm.", "input_norm.")))
    other = sum(nbytes(tensors[n]) for n in ("embed_tokens.weight", "t2d") if n in tensors)
    checkpoint = Checkpoint.open(write_tiny_draft(tmp_path, draft))
    footprint = Footprint.of(checkpoint, Eagle3Layout.of(checkpoint), [])
    assert footprint.step(ReadIn.FIRST_STEP) == first
    assert footprint.step(*EVERY_STEP) == sum(map(nbytes, tensors.values())) - first - other + row


def test_fp8_takes_one_byte_an_element_and_four_a_channel(tmp_path: Path) -> None:
    tensors = tiny_tensors(TinyDraft())
    linears = [tensor for name, tensor in tensors.items() if name.endswith("_proj.weight")]
    saved = sum(nbytes(tensor) - tensor.numel() - 4 * tensor.shape[0] for tensor in linears)
    footprint = footprint_of(tmp_path)
    assert footprint.size_bytes - footprint.fp8_size_bytes == saved
    assert footprint.step(*EVERY_STEP) - footprint.fp8_step(*EVERY_STEP) == saved


def test_what_the_draft_borrows_is_read_all_the_same(tmp_path: Path) -> None:
    own = footprint_of(tmp_path / "own", draft_vocab=None, embed_tokens=True)
    borrowing = footprint_of(tmp_path / "borrowing", draft_vocab=None, lm_head=False)
    assert [weight.tensor for weight in borrowing.borrowed] == ["lm_head.weight", "embed_tokens.weight"]
    assert borrowing.step(*EVERY_STEP) == own.step(*EVERY_STEP)
    assert borrowing.size_bytes < own.size_bytes


def test_kimis_published_sizes_come_out() -> None:
    """3178 M parameters, 6.36 GB; AMD's seven quantized linears make it 5.68 GB, a step lighter by a fifth."""
    from quark_eagle.checkpoint.blueprint import blueprint
    from quark_eagle.checkpoint.family import Convention, DraftFamily
    from quark_eagle.checkpoint.geometry import read_flags, read_geometry
    from quark_eagle.checkpoint.layout import Slot
    from quark_eagle.checkpoint.reader import TensorInfo

    config = {"hidden_size": 7168, "intermediate_size": 12288, "num_attention_heads": 64, "num_hidden_layers": 1}
    config |= {"head_dim": 128, "vocab_size": 163840, "rms_norm_eps": 1e-6}
    geometry, problems = read_geometry(config, DraftFamily.LLAMA)
    assert geometry is not None, problems
    flags = read_flags(config)
    optional = ("embed_tokens.weight", "lm_head.weight")
    items = [i for i in blueprint(DraftFamily.LLAMA, geometry, flags) if i.needed or i.canonical in optional]
    slots, tensors = {}, {}
    for item in items:
        name, elements = item.canonical, torch.Size(item.sizes).numel()
        slots[name] = Slot(tensor=name, canonical=name, role=item.role, fusion_group=item.fusion_group)
        tensors[name] = TensorInfo(
            name=name, dtype="BF16", shape=item.sizes, shard="x", offset=0, size_bytes=2 * elements
        )
    layout = Eagle3Layout(
        family=DraftFamily.LLAMA, convention=Convention.MIDLAYER, geometry=geometry, flags=flags, slots=slots,
        by_canonical={name: name for name in slots},
    )  # fmt: skip
    checkpoint = Checkpoint(directory=Path(), config=config, tensors=tensors, shards=("x",), index=None)
    footprint = Footprint.of(checkpoint, layout, [i.canonical for i in items if i.role is Role.LINEAR])
    assert round(footprint.size_bytes / 1e9, 2) == 6.36
    assert round(footprint.fp8_size_bytes / 1e9, 2) == 5.68
    assert round(footprint.step(*EVERY_STEP, ReadIn.FIRST_STEP) / 1e9, 1) == 4.0
    assert round(footprint.fp8_step(*EVERY_STEP, ReadIn.FIRST_STEP) / 1e9, 1) == 3.3
