from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.family import Convention, DraftFamily, canonical_name, disk_name
from quark_eagle.checkpoint.layout import Eagle3Layout, Role, check_vocab_map
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import CheckpointError
from tests.tiny import write_config, write_tiny_draft

VARIANTS: dict[str, dict[str, Any]] = {
    "pruned vocabulary": {},
    "full vocabulary": {"draft_vocab": None, "embed_tokens": True},
    "no head": {"draft_vocab": None, "lm_head": False},
    "no t2d": {"t2d": False},
    "two layers": {"num_layers": 2},
    "norms": {"fc_norm": True, "norm_before_residual": True, "norm_output": True},
    "norm before fc": {"norm_before_fc": True},
    "another target width": {"target_hidden": 48},
    "four aux layers": {"num_aux": 4, "aux_layer_ids": (1, 2, 5, 8)},
    "no aux layer ids": {"aux_layer_ids": None},
    "shards": {"sharded": True},
}
FAMILIES = [
    (convention, family)
    for convention in Convention
    for family in DraftFamily
    # speculators has no MLA draft, and vLLM 0.32 refuses its model_type there.
    if (convention, family) != (Convention.SPECULATORS, DraftFamily.DEEPSEEK_MLA)
]


def layout_of(directory: Path, **changes: Any) -> Eagle3Layout:
    checkpoint = Checkpoint.open(write_tiny_draft(directory, **changes))
    layout = Eagle3Layout.of(checkpoint)
    check_vocab_map(checkpoint, layout)
    return layout


@pytest.mark.parametrize(("convention", "family"), FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_family_and_convention_are_told_by_tensors_and_config(
    variant: str, convention: Convention, family: DraftFamily, tmp_path: Path
) -> None:
    layout = layout_of(tmp_path / "llama-midlayer", convention=convention, family=family, **VARIANTS[variant])
    assert (layout.convention, layout.family) == (convention, family)
    assert all(slot.role is not Role.OTHER for slot in layout.slots.values())


def test_every_tensor_has_exactly_one_slot(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    tensors = Checkpoint.open(tmp_path).tensors
    assert list(layout.slots) == list(tensors)
    assert sorted(layout.by_canonical.values()) == list(tensors)
    assert all(layout.by_canonical[slot.canonical] == name for name, slot in layout.slots.items())


@pytest.mark.parametrize("convention", Convention)
def test_canonical_names_do_not_depend_on_the_convention(convention: Convention, tmp_path: Path) -> None:
    layout = layout_of(tmp_path, convention=convention, num_layers=2, embed_tokens=True)
    expected = layout_of(tmp_path / "other", convention=Convention.LAYERS, num_layers=2, embed_tokens=True)
    assert layout.by_canonical.keys() == expected.by_canonical.keys()
    assert all(canonical_name(disk_name(name, convention)) == name for name in expected.by_canonical)


def test_what_runs_fused_is_one_group(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    groups: dict[str | None, set[str]] = {}
    for slot in layout.slots.values():
        groups.setdefault(slot.fusion_group, set()).add(slot.canonical.removesuffix(".weight").rpartition(".")[2])
    assert groups["layers.0.self_attn.qkv_proj"] == {"q_proj", "k_proj", "v_proj"}
    assert groups["layers.0.mlp.gate_up_proj"] == {"gate_proj", "up_proj"}
    assert groups.keys() == {"layers.0.self_attn.qkv_proj", "layers.0.mlp.gate_up_proj", None}


def test_mla_fuses_its_two_bottlenecks_and_keeps_kv_b_apart(tmp_path: Path) -> None:
    layout = layout_of(tmp_path, family=DraftFamily.DEEPSEEK_MLA)
    prefix = "midlayer.self_attn"
    fused = "layers.0.self_attn.fused_qkv_a_proj"
    assert layout.slots[f"{prefix}.q_a_proj.weight"].fusion_group == fused
    assert layout.slots[f"{prefix}.kv_a_proj_with_mqa.weight"].fusion_group == fused
    assert layout.slots[f"{prefix}.kv_b_proj.weight"].role is Role.KV_B
    assert layout.slots[f"{prefix}.q_b_proj.weight"].fusion_group is None
    assert layout.geometry.head_dim == 24


def test_mla_without_a_query_bottleneck_fuses_nothing_in_attention(tmp_path: Path) -> None:
    layout = layout_of(tmp_path, family=DraftFamily.DEEPSEEK_MLA, q_lora_rank=None)
    assert {slot.fusion_group for slot in layout.slots.values()} == {None, "layers.0.mlp.gate_up_proj"}


@pytest.mark.parametrize("family", [DraftFamily.LLAMA, DraftFamily.QWEN3])
def test_biases_follow_the_config(family: DraftFamily, tmp_path: Path) -> None:
    layout = layout_of(tmp_path, family=family, attention_bias=True, mlp_bias=family is DraftFamily.LLAMA)
    biases = {slot.canonical.split(".")[-2] for slot in layout.slots.values() if slot.role is Role.BIAS}
    llama_only = {"o_proj", "gate_proj", "up_proj", "down_proj"} if family is DraftFamily.LLAMA else set()
    assert biases == {"q_proj", "k_proj", "v_proj"} | llama_only
    assert layout.flags.attention_bias


@pytest.mark.parametrize("nested", [False, True])
def test_aux_layer_ids_are_read_from_both_places_and_sorted(nested: bool, tmp_path: Path) -> None:
    layout = layout_of(tmp_path, aux_layer_ids=(8, 2, 5), aux_ids_in_eagle_config=nested)
    assert layout.geometry.aux_layer_ids == (2, 5, 8)


def test_a_head_may_be_wider_than_hidden_size_over_heads(tmp_path: Path) -> None:
    layout = layout_of(tmp_path, head_dim=32)
    assert layout.geometry.head_dim == 32


def changed(directory: Path, **changes: Any) -> Eagle3Layout:
    config = json.loads((directory / "config.json").read_text()) | changes
    write_config(directory, {key: value for key, value in config.items() if value is not None})
    return Eagle3Layout.of(Checkpoint.open(directory))


def test_what_the_format_makes_optional_is_filled_in_as_engines_do(tmp_path: Path) -> None:
    write_tiny_draft(tmp_path, kv_heads=4, draft_vocab=None)
    geometry = changed(tmp_path, num_key_value_heads=None, head_dim=None, rope_theta=None).geometry
    assert (geometry.num_key_value_heads, geometry.head_dim) == (4, 16)
    assert (geometry.draft_vocab_size, geometry.target_hidden_size, geometry.num_aux_hidden_states) == (256, 64, 3)
    assert geometry.rope == {"rope_type": "default", "rope_theta": 10000.0}


def test_qwen3_needs_what_its_class_would_guess(tmp_path: Path) -> None:
    write_tiny_draft(tmp_path, family=DraftFamily.QWEN3)
    with pytest.raises(CheckpointError, match=r"head_dim is missing, and a size is never guessed"):
        changed(tmp_path, head_dim=None)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 5e4, "rope_scaling": {"type": "yarn", "factor": 64.0}},
        {"rope_theta": 5e4, "rope_scaling": {"rope_type": "yarn", "factor": 64.0}},
        {"rope_theta": None, "rope_parameters": {"rope_type": "yarn", "factor": 64.0, "rope_theta": 5e4}},
    ],
)
def test_rope_reads_the_same_in_every_spelling(spelling: dict[str, Any], tmp_path: Path) -> None:
    write_tiny_draft(tmp_path)
    rope = changed(tmp_path, **spelling).geometry.rope
    assert rope == {"rope_type": "yarn", "factor": 64.0, "rope_theta": 5e4}


SLIDES = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 6}


@pytest.mark.parametrize(
    ("family", "extra", "windows"),
    [
        (DraftFamily.LLAMA, {}, (None, None)),
        (DraftFamily.LLAMA, {"sliding_window": 6}, (None, None)),
        (DraftFamily.LLAMA, SLIDES, (None, 6)),
        (DraftFamily.QWEN3, SLIDES, (None, None)),
        (DraftFamily.QWEN3, SLIDES | {"use_sliding_window": True}, (None, 6)),
        (DraftFamily.QWEN3, {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}, (None, 6)),
        (DraftFamily.DEEPSEEK_MLA, SLIDES, (None, None)),
    ],
)
def test_a_layer_slides_where_its_class_reads_that_it_does(
    family: DraftFamily, extra: dict[str, Any], windows: tuple[int | None, ...], tmp_path: Path
) -> None:
    write_tiny_draft(tmp_path, family=family, num_layers=2)
    assert changed(tmp_path, **extra).geometry.sliding_windows == windows


def test_a_layer_that_slides_needs_its_window(tmp_path: Path) -> None:
    write_tiny_draft(tmp_path)
    with pytest.raises(CheckpointError, match=r"sliding_window is missing, and a size is never guessed"):
        changed(tmp_path, layer_types=["sliding_attention"])


def test_speculators_norm_before_residual_is_on_unless_it_is_off(tmp_path: Path) -> None:
    """vLLM 0.32 reads a missing key as True there, and as False in a plain config."""
    write_tiny_draft(tmp_path / "nested", convention=Convention.SPECULATORS)
    write_tiny_draft(tmp_path / "plain")
    assert changed(tmp_path / "nested", norm_before_residual=None).flags.norm_before_residual
    assert not changed(tmp_path / "plain", norm_before_residual=None).flags.norm_before_residual


def test_unknown_tensors_are_carried_along(tmp_path: Path) -> None:
    from tests.tiny import TinyDraft, tiny_config, tiny_tensors, write_tensors

    tensors = tiny_tensors(TinyDraft())
    write_config(tmp_path, tiny_config(TinyDraft()))
    write_tensors(tmp_path, tensors | {"mask_hidden": tensors["norm.weight"].clone()})
    assert Eagle3Layout.of(Checkpoint.open(tmp_path)).slots["mask_hidden"].role is Role.OTHER


@pytest.mark.vllm
def test_the_architectures_are_those_of_vllms_registry() -> None:
    """Its source is read, not imported, which takes half a minute."""
    import re
    from importlib.util import find_spec

    from quark_eagle.checkpoint.family import ARCHITECTURES

    package = find_spec("vllm")
    assert package is not None
    assert package.origin is not None
    registry = (Path(package.origin).parent / "model_executor" / "models" / "registry.py").read_text()
    theirs = dict(re.findall(r'"(\w+)": \("(\w+_eagle3)", "Eagle3\w+"\)', registry))
    family = {
        "llama_eagle3": DraftFamily.LLAMA,
        "qwen3_eagle3": DraftFamily.QWEN3,
        "deepseek_eagle3": DraftFamily.DEEPSEEK_MLA,
    }
    assert len(theirs) >= 9
    assert {
        name: family[module] for name, module in theirs.items() if module in family
    }.items() <= ARCHITECTURES.items()
