"""Static scales by the rules: good ones pass, and every mistake in them is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from quark_eagle.checkpoint.family import DraftFamily
from quark_eagle.deploy.verify import VerifyReport, verify
from tests.deploy.export import GOOD_EXCLUDE, Export
from tests.deploy.static import make_static, scale_cache
from tests.tiny import TinyDraft, write_tiny_draft

LOWEST = torch.finfo(torch.float32).min


def static_draft(weight: str = "per_tensor", family: DraftFamily = DraftFamily.LLAMA) -> Export:
    export = Export(TinyDraft(family=family))
    make_static(export, "per_channel" if weight == "per_channel" else "per_tensor")
    if family is not DraftFamily.DEEPSEEK_MLA:
        scale_cache(export)
    return export


def told(report: VerifyReport) -> str:
    return "\n".join(f"{finding.subject}: {finding.message}" for finding in report.errors)


def put(end: str, value: object) -> Callable[[Export], None]:
    """Put a number, or a tensor, in the place of a scale."""
    tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    return lambda export: export.change(end, lambda old: tensor)


def without(*ends: str) -> Callable[[Export], None]:
    def change(export: Export) -> None:
        for end in ends:
            export.drop(end)

    return change


def caches_in(spec: dict[str, str]) -> Callable[[Export], None]:
    def change(export: Export) -> None:
        for config in export.quant["layer_quant_config"].values():
            config["output_tensors"] = spec

    return change


@pytest.mark.parametrize("family", DraftFamily)
@pytest.mark.parametrize(
    ("weight", "scheme", "devices"),
    [("per_tensor", "fp8", {"CPU"}), ("per_channel", "fp8_channel_static", {"CPU", "ROCm"})],
)
def test_a_good_static_draft_passes(
    tmp_path: Path, weight: str, scheme: str, devices: set[str], family: DraftFamily
) -> None:
    report = verify(static_draft(weight, family).write(tmp_path))
    assert told(report) == ""
    quantized = [module for module in report.modules if module.scheme]
    assert {module.scheme for module in quantized} == {scheme}
    for module in quantized:
        (inputs,) = (each for each in module.parameters if each.name.endswith(".input_scale"))
        assert inputs.shape == (len(inputs.sources),)
    failing = [finding.message for finding in report.warnings if "cannot run on" in finding.message]
    assert {message.partition("cannot run on ")[2].partition(":")[0] for message in failing} == devices


def test_the_cache_has_a_place_for_its_scales(tmp_path: Path) -> None:
    report = verify(static_draft().write(tmp_path))
    (cache,) = (module for module in report.modules if module.name.endswith(".attn"))
    assert {parameter.name: parameter.sources for parameter in cache.parameters} == {
        "model.layers.0.self_attn.attn.k_scale": ("midlayer.self_attn.k_scale",),
        "model.layers.0.self_attn.attn.v_scale": ("midlayer.self_attn.v_scale",),
    }


MISTAKES: dict[str, tuple[Callable[[Export], None], str]] = {
    "no input scale": (
        without("o_proj.input_scale"),
        r"nothing on disk fills model.layers.0.self_attn.o_proj.input_scale, which stays at the lowest float32",
    ),
    "NaN": (put("down_proj.input_scale", float("nan")), r"down_proj.input_scale: 1 of 1 numbers are NaN or infinite"),
    "infinite": (put("q_proj.input_scale", float("inf")), r"q_proj.input_scale: 1 of 1 numbers are NaN or infinite"),
    "zero": (put("down_proj.input_scale", 0.0), r"down_proj.input_scale: its smallest scale is 0 but a scale"),
    "negative": (put("down_proj.input_scale", -0.02), r"down_proj.input_scale: its smallest scale is -0.02 but"),
    "what vLLM begins with": (
        put("o_proj.input_scale", LOWEST),
        r"o_proj.input_scale: its smallest scale is -3.40282e\+38, the number that an engine begins with",
    ),
    "inputs that differ": (
        put("k_proj.input_scale", 0.03),
        r"qkv_proj: its parts run with one input, but have .*k_proj.input_scale 0.03.* vLLM takes the largest, 0.03",
    ),
    "weight scales that differ": (
        put("up_proj.weight_scale", 0.5),
        r"gate_up_proj: its parts run under one weight scale, but .* rounded twice",
    ),
    "a weight scale that FP16 cannot carry": (
        put("o_proj.weight_scale", 1e-6),
        r"o_proj: .*o_proj.weight_scale is 1e-06, outside of 3.05e-05 … 146.2: vLLM takes the weight through FP16",
    ),
    "an input scale per channel": (
        put("o_proj.input_scale", torch.full((64,), 0.02)),
        r"o_proj.input_scale has shape \[64\], but vLLM builds \[\] from config.json and stops",
    ),
    "a weight scale per channel": (
        put("o_proj.weight_scale", torch.full((64,), 0.02)),
        r"o_proj.weight_scale has shape \[64\], but vLLM builds \[\] from config.json and stops",
    ),
    "no cache scales": (
        without("self_attn.k_scale", "self_attn.v_scale"),
        r"nothing on disk fills .*k_scale and .*v_scale: an FP8 cache is stored with scale 1",
    ),
    "keys without values": (
        without("self_attn.v_scale"),
        r"nothing on disk fills .*self_attn.v_scale: an FP8 cache is stored with scale 1",
    ),
    "a cache scale of zero": (put("self_attn.k_scale", 0.0), r"k_scale: its smallest scale is 0"),
    "a cache scale per head": (
        put("self_attn.k_scale", torch.ones(2)),
        r"k_scale has shape \[2\], but a cache has one scale: vLLM stops",
    ),
    "a cache scale as Quark calls it": (
        lambda export: export.rename("self_attn.k_scale", "midlayer.self_attn.k_proj.output_scale"),
        r"k_proj.output_scale: is taken for a part of qkv_proj, which has no such parameter: vLLM stops",
    ),
    "a query scale as Quark calls it": (
        lambda export: export.tensors.update({"midlayer.self_attn.q_proj.output_scale": torch.tensor(0.25)}),
        r"q_proj.output_scale: is taken for a part of qkv_proj, which has no such parameter: vLLM stops",
    ),
    "attention excluded whole": (
        lambda export: export.quant["exclude"].append(r"re:.*self_attn\.attn$"),
        r"k_scale: is dropped without a word: 're:.*' means the attention too, and an FP8 cache is",
    ),
    "a cache that the layers do not mention": (
        lambda export: export.quant.update(layer_quant_config={}),
        r"kv_cache_group names \*k_proj, \*v_proj, but layer_quant_config has none of them: vLLM stops",
    ),
    "a cache of two kinds": (
        lambda export: export.quant["layer_quant_config"]["*v_proj"].update(output_tensors={"dtype": "int8"}),
        r"quantizes keys and values of the cache differently: vLLM stops",
    ),
    "a cache in another format": (
        caches_in({"dtype": "int8", "qscheme": "per_tensor"}),
        r"asks for a cache in int8 per_tensor, but vLLM has fp8_e4m3 per_tensor only and stops",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_scales_is_told(tmp_path: Path, mistake: str) -> None:
    change, message = MISTAKES[mistake]
    export = static_draft()
    change(export)
    report = verify(export.write(tmp_path))
    assert not report.ok
    assert re.search(message, told(report)), told(report)


def test_excludes_of_the_linears_leave_the_cache_its_scales(tmp_path: Path) -> None:
    export = static_draft()
    for part in "qkv":
        export.restore(f"{part}_proj.weight")
        export.drop(f"{part}_proj.input_scale")
    export.quant["exclude"] = [*GOOD_EXCLUDE, r"re:.*\.qkv_proj$"]
    assert told(verify(export.write(tmp_path))) == ""


def test_a_scale_that_is_not_the_sources_largest_is_told(tmp_path: Path) -> None:
    """All modules of the exporter share a scale: that of the largest weight of all is too large for the others."""
    source = write_tiny_draft(tmp_path / "source")
    report = verify(static_draft().write(tmp_path / "own"), source)
    assert "which is not the largest weight of the source's module divided by 448" in told(report)
