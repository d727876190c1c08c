from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.family import Convention, DraftFamily
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import QuantizationError
from quark_eagle.quantize.activation_scales import ActivationScales
from quark_eagle.quantize.scheme import Scheme
from tests.quantize.conftest import StandIn, quantize, scales_for
from tests.tiny import write_tiny_draft

STATIC = [Scheme.FP8, Scheme.FP8_CHANNEL_STATIC]
DRAFTS: list[dict[str, Any]] = [
    {},
    {"convention": Convention.LAYERS, "num_layers": 2, "sharded": True},
    {"family": DraftFamily.QWEN3, "convention": Convention.SPECULATORS},
    {"family": DraftFamily.DEEPSEEK_MLA, "vocab": 255, "draft_vocab": 95},
]


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("scheme", STATIC)
def test_every_quantized_module_gets_its_scale_beside_its_weight(
    tmp_path: Path, stand_in: StandIn, scheme: Scheme, draft: dict[str, Any]
) -> None:
    source = write_tiny_draft(tmp_path / "bf16", **draft)
    has_cache = draft.get("family") is not DraftFamily.DEEPSEEK_MLA
    scales = scales_for(source, kv_cache=has_cache)
    result = quantize(source, tmp_path / "fp8", scheme=scheme, activation_scales=scales)
    written, original = Checkpoint.open(tmp_path / "fp8"), Checkpoint.open(source)
    modules = {name.removesuffix(".weight") for name in result.plan.quantized}
    keys_values = [module for module in modules if has_cache and module.endswith(("k_proj", "v_proj"))]
    cached = {f"{module.removesuffix('_proj')}_scale" for module in keys_values}
    per_module = {f"{module}.{end}" for module in modules for end in ("weight_scale", "input_scale")}
    assert written.tensors.keys() - original.tensors.keys() == per_module | cached
    for name in {f"{module}.input_scale" for module in modules} | cached:
        info = written.tensors[name]
        assert (info.dtype, info.shape) == ("F32", ())
    for module in modules:
        rows = written.tensors[f"{module}.weight"].shape[:1]
        assert written.tensors[f"{module}.weight_scale"].shape == (() if scheme is Scheme.FP8 else rows)
    read = {written.tensor(f"{module}.input_scale").item() for module in modules}
    assert read == set(scales.inputs.values())


def test_the_record_tells_the_scales(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16")
    scales = scales_for(source, kv_cache=True)
    quantize(source, tmp_path / "fp8", scheme=Scheme.FP8, activation_scales=scales)
    told = json.loads((tmp_path / "fp8" / "quark_eagle.json").read_text())["activation_scales"]
    assert told["inputs"] == scales.inputs
    assert (told["keys"], told["values"]) == ({"0": 0.125}, {"0": 0.0625})


@pytest.mark.parametrize("scheme", STATIC)
def test_a_static_scheme_without_scales_writes_nothing(tmp_path: Path, stand_in: StandIn, scheme: Scheme) -> None:
    source = write_tiny_draft(tmp_path / "bf16")
    with pytest.raises(QuantizationError, match=rf"scheme {scheme.value}: .*none were given\. Calibrate"):
        quantize(source, tmp_path / "fp8", scheme=scheme)
    assert not (tmp_path / "fp8").exists()
    assert stand_in.seen == []


def test_everything_wrong_with_the_scales_is_told_at_once(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16")
    scales = scales_for(source, kv_cache=True, q_proj=0.5, down_proj=float("nan"), o_proj=-1.0, gate_proj=0.1)
    inputs = dict(scales.inputs) | {"fc": 1.0}
    del inputs["layers.0.self_attn.v_proj"]
    spoilt = replace(scales, inputs=inputs, keys={0: 0.0, 7: 1.0}, values={})
    with pytest.raises(QuantizationError) as caught:
        quantize(source, tmp_path / "fp8", scheme=Scheme.FP8, activation_scales=spoilt)
    message = str(caught.value)
    assert "activation scales: 10 problems" in message
    for problem in (
        "layers.0.self_attn.v_proj has none.",
        "fc has one, but is not quantized.",
        "layers.0.mlp.down_proj has nan, but a scale is a finite positive number of float32.",
        "layers.0.self_attn.o_proj has -1.0",
        "layers.0.mlp.gate_proj has 0.1, but",
        "layers.0.self_attn.qkv_proj runs as one module with one input, but its parts have k_proj",
        "layers.0.mlp.gate_up_proj runs as one module",
        "the keys of layer 7 have one, but there is no such layer.",
        "keys of layer 0 has 0.0",
        "the values of layer 0 have none.",
    ):
        assert problem in message
    assert not (tmp_path / "fp8").exists()


def test_a_dynamic_scheme_takes_scales_of_the_cache_only(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16")
    of_cache = replace(scales_for(source, kv_cache=True), inputs={})
    quantize(source, tmp_path / "fp8", activation_scales=of_cache)
    names = Checkpoint.open(tmp_path / "fp8").tensors
    assert {name for name in names if name.endswith((".k_scale", ".v_scale", "input_scale"))} == {
        "midlayer.self_attn.k_scale",
        "midlayer.self_attn.v_scale",
    }
    with pytest.raises(QuantizationError, match="is scaled as it comes under ptpc_fp8"):
        quantize(source, tmp_path / "other", activation_scales=scales_for(source))


def test_an_mla_draft_has_no_cache_scales(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16", family=DraftFamily.DEEPSEEK_MLA)
    with pytest.raises(QuantizationError, match="the KV cache of an MLA draft has some, but no vLLM has a parameter"):
        quantize(
            source, tmp_path / "fp8", activation_scales=ActivationScales(inputs={}, keys={0: 1.0}, values={0: 1.0})
        )


def test_fc_needs_a_scale_where_it_is_quantized(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16")
    scales = scales_for(source)
    with pytest.raises(QuantizationError, match="activation scales: fc has none"):
        quantize(source, tmp_path / "none", quantize_fc=True, scheme=Scheme.FP8, activation_scales=scales)
    with_fc = replace(scales, inputs={**scales.inputs, "fc": 64.0})
    quantize(source, tmp_path / "fp8", quantize_fc=True, scheme=Scheme.FP8, activation_scales=with_fc)
    assert Checkpoint.open(tmp_path / "fp8").tensor("fc.input_scale").item() == 64.0
