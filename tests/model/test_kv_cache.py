"""What an FP8 KV cache gives back: the definition, vLLM's kernels' arithmetic, and a draft that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quark_eagle.checkpoint.family import DraftFamily
from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.model.kv_cache import Fp8Cache, has_cache_scales, store_in
from tests.tiny import TinyDraft, tiny_config, tiny_tensors, write_config, write_tensors, write_tiny_draft


def loaded(directory: Path) -> Eagle3Draft:
    checkpoint = Checkpoint.open(directory)
    return Eagle3Draft.load(
        checkpoint, Eagle3Layout.of(checkpoint), {"embed_ids": torch.arange(1), "embed_rows": torch.ones(1, 64)}
    )


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(40, 2, 16, generator=torch.Generator().manual_seed(0)).bfloat16() * 20


def test_a_cache_divides_by_its_scale_cuts_off_and_multiplies_back(x: torch.Tensor) -> None:
    scale = torch.tensor(0.1)
    stored = (x.double() / 0.1).clamp(-448, 448).to(torch.float8_e4m3fn)
    assert x.abs().max() > 44.8
    torch.testing.assert_close(Fp8Cache(scale)(x), (stored.float() * scale).bfloat16())


def test_without_a_scale_small_values_vanish() -> None:
    assert Fp8Cache(torch.tensor(1.0))(torch.tensor([2.0**-11, 2.0**-9])).tolist() == [0.0, 2.0**-9]


@pytest.mark.parametrize("rounds_scales", [True, False])
def test_only_where_the_parameter_has_the_models_dtype_is_a_scale_rounded(tmp_path: Path, rounds_scales: bool) -> None:
    source = write_tiny_draft(tmp_path)
    scale = torch.tensor(0.1)
    write_tensors(source, tiny_tensors(TinyDraft()) | {"midlayer.self_attn.k_scale": scale})
    draft = loaded(source)
    store_in(draft, "fp8", rounds_scales=rounds_scales)
    cache = draft.caches["layers.0.self_attn.keys"]
    assert isinstance(cache, Fp8Cache)
    assert scale.bfloat16().float() != scale
    assert cache.scale == (scale.bfloat16().float() if rounds_scales else scale)


def test_a_latent_cache_has_scale_1_whatever_lies_on_disk(tmp_path: Path) -> None:
    mla = TinyDraft(family=DraftFamily.DEEPSEEK_MLA)
    source = write_tiny_draft(tmp_path, mla)
    write_tensors(source, tiny_tensors(mla) | {f"midlayer.self_attn.{kind}_scale": torch.tensor(0.1) for kind in "kv"})
    draft = loaded(source)
    assert not has_cache_scales(draft)
    x, positions = torch.randn(9, 128, generator=torch.Generator().manual_seed(0)).bfloat16() * 4, torch.arange(9)
    attention = draft.layers[0].attention
    plain, _ = attention.keys_values(x, positions)
    store_in(draft, "fp8")
    keys, latents = attention.keys_values(x, positions)
    assert torch.equal(keys, Fp8Cache(torch.tensor(1.0))(plain))
    assert not torch.equal(keys, plain)
    assert torch.equal(latents, keys[..., : latents.shape[-1]])


@pytest.mark.parametrize("with_scales", [True, False])
def test_a_draft_stores_turned_keys_and_values_under_its_own_scales(tmp_path: Path, with_scales: bool) -> None:
    """The checkpoint's where it has them, and the 1 that vLLM takes where it has none."""
    source = write_tiny_draft(tmp_path)
    scales = {"k_proj": 0.25, "v_proj": 0.5} if with_scales else {}
    tensors = tiny_tensors(TinyDraft()) | {
        f"midlayer.self_attn.{part[0]}_scale": torch.tensor(scale) for part, scale in scales.items()
    }
    write_tensors(source, tensors)
    write_config(source, tiny_config(TinyDraft()))
    draft = loaded(source)
    x, positions = torch.randn(9, 128, generator=torch.Generator().manual_seed(0)).bfloat16() * 4, torch.arange(9)
    attention = draft.layers[0].attention
    plain_keys, plain_values = attention.keys_values(x, positions)
    store_in(draft, "fp8")
    keys, values = attention.keys_values(x, positions)
    assert has_cache_scales(draft) is with_scales
    assert torch.equal(keys, Fp8Cache(torch.tensor(scales.get("k_proj", 1.0)))(plain_keys))
    assert torch.equal(values, Fp8Cache(torch.tensor(scales.get("v_proj", 1.0)))(plain_values))
    assert not torch.equal(keys, plain_keys)
    store_in(draft, "auto")
    assert torch.equal(attention.keys_values(x, positions)[0], plain_keys)
