"""``--format compressed-tensors``: the other format's spelling of the same payload, held against its own library."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quark_eagle.checkpoint.family import Convention, DraftFamily
from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.quantize.compressed_tensors import compressed_tensors_config, ignore_list
from quark_eagle.quantize.format import Format
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.scheme import Scheme
from tests.quantize.conftest import StandIn, quantize, scales_for
from tests.quantize.test_exclude import planned, runtime_modules
from tests.tiny import write_tiny_draft

__all__ = ["planned"]  # a fixture

PRESETS = {
    Scheme.PTPC_FP8: ("FP8_DYNAMIC", "FP8_DYNAMIC"),
    Scheme.FP8: ("FP8", "FP8"),
    Scheme.FP8_CHANNEL_STATIC: ("FP8_DYNAMIC", "FP8"),
}
"""The library's presets with the same weights, and with the same activations."""
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "sharded, whole vocabulary": {"sharded": True, "embed_tokens": True, "draft_vocab": None},
    "speculators with norms": {"convention": Convention.SPECULATORS, "fc_norm": True, "norm_before_fc": True},
    "two layers": {"convention": Convention.LAYERS, "num_layers": 2, "dtype": "float32"},
    "qwen3": {"family": DraftFamily.QWEN3, "head_dim": 16},
    "mla": {"family": DraftFamily.DEEPSEEK_MLA},
}


def plan_of(directory: Path, scheme: Scheme = Scheme.PTPC_FP8) -> QuantPlan:
    return QuantPlan.of(Eagle3Layout.of(Checkpoint.open(directory)), scheme)


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


def quantization_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())["quantization_config"]
    return found


@pytest.fixture(scope="module")
def saved_by_the_library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """config.json as compressed-tensors writes it for a module that it quantized itself, and what it saved."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, apply_quantization_config
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES

    def save(scheme: Scheme) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        weights, inputs = (PRESET_SCHEMES[name] for name in PRESETS[scheme])
        model = torch.nn.ModuleDict({"down_proj": torch.nn.Linear(8, 4), "fc": torch.nn.Linear(8, 4)})
        parts = {"weights": weights["weights"], "input_activations": inputs["input_activations"]}
        group = QuantizationScheme(targets=["Linear"], **parts)
        config = QuantizationConfig(config_groups={"group_0": group}, ignore=["fc"])
        apply_quantization_config(model, config)
        directory = tmp_path_factory.mktemp("saved")
        (directory / "config.json").write_text("{}")
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        compressor.update_config(str(directory))
        return quantization_of(directory), dict(model["down_proj"].state_dict())

    return save


@pytest.mark.parametrize("scheme", Scheme)
def test_our_config_is_the_librarys_but_for_the_ignore_list(
    tiny_draft: Path, saved_by_the_library: Any, scheme: Scheme
) -> None:
    theirs, _ = saved_by_the_library(scheme)
    ours = compressed_tensors_config(plan_of(tiny_draft, scheme))

    assert theirs.pop("ignore") == ["fc"]
    assert {"fc", "model.fc", r"re:.*\.fc$", "lm_head"} <= {*ours.pop("ignore")}
    assert ours == theirs


@pytest.mark.parametrize("scheme", Scheme)
def test_our_scales_have_the_librarys_names_and_shapes(saved_by_the_library: Any, scheme: Scheme) -> None:
    _, saved = saved_by_the_library(scheme)
    form = Format.COMPRESSED_TENSORS
    ours = {"weight_scale": form.weight_scale_shape(scheme.weight, 4)}
    ours |= {"input_scale": form.shape_of_one} if scheme.needs_calibration else {}

    assert {name: tuple(tensor.shape) for name, tensor in saved.items() if name.endswith("_scale")} == ours


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("kv_cache", [False, True])
def test_the_library_reads_our_config_back_unchanged(tiny_draft: Path, scheme: Scheme, kv_cache: bool) -> None:
    from compressed_tensors.quantization import QuantizationConfig

    ours = compressed_tensors_config(plan_of(tiny_draft, scheme), kv_cache=kv_cache)
    read = QuantizationConfig.model_validate(ours)

    assert json.loads(read.model_dump_json()) == {key: ours[key] for key in type(read).model_fields if key in ours}
    assert read.requires_calibration_data() == (kv_cache or scheme.needs_calibration)
    assert (read.kv_cache_scheme is not None) == kv_cache


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Of its numbers in their order, whatever its shape."""
    return tensor.contiguous().flatten().view(torch.uint8)


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_payload_is_the_same_in_both_formats(
    tmp_path: Path, stand_in: StandIn, variant: str, scheme: Scheme
) -> None:
    source = write_tiny_draft(tmp_path / "bf16", **VARIANTS[variant])
    scales = scales_for(source, kv_cache=variant != "mla") if scheme.needs_calibration else None
    for form in Format:
        quantize(source, tmp_path / form.value, scheme=scheme, activation_scales=scales, format=form)
    quarks, ours = (tensors_of(tmp_path / form.value) for form in Format)

    assert ours.keys() == quarks.keys()
    for name, tensor in quarks.items():
        other = ours[name]
        assert other.dtype == tensor.dtype
        assert torch.equal(bits(other), bits(tensor)), name
        changed = (len(tensor), 1) if name.endswith("weight_scale") and tensor.dim() else (1,)
        assert other.shape == (changed if name.endswith("_scale") else tensor.shape), name


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("variant", VARIANTS)
def test_verify_passes_what_we_write(tmp_path: Path, stand_in: StandIn, variant: str, scheme: Scheme) -> None:
    """By the reader that shares no code with us."""
    from quark_eagle.deploy.verify import verify

    source = write_tiny_draft(tmp_path / "bf16", **VARIANTS[variant])
    scales = scales_for(source, kv_cache=variant != "mla") if scheme.needs_calibration else None
    quantize(source, tmp_path / "fp8", scheme=scheme, activation_scales=scales, format=Format.COMPRESSED_TENSORS)
    report = verify(tmp_path / "fp8", source)

    assert [f"{finding.subject}: {finding.message}" for finding in report.errors] == []
    assert {module.scheme for module in report.modules} == {None, scheme.value}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_librarys_own_dequantizer_gives_our_weights(tmp_path: Path, stand_in: StandIn, variant: str) -> None:
    """It reads our file as it would any, and finds each quantized weight and nothing else."""
    from compressed_tensors.entrypoints.convert.converters import CompressedTensorsDequantizer

    source = write_tiny_draft(tmp_path / "bf16", **VARIANTS[variant])
    plan = quantize(source, tmp_path / "other", format=Format.COMPRESSED_TENSORS).plan
    quantize(source, tmp_path / "quark")
    kept, quarks = tensors_of(source), tensors_of(tmp_path / "quark")
    converter = CompressedTensorsDequantizer(tmp_path / "other", dtype=torch.float32)
    converter.validate(tensors_of(tmp_path / "other"))
    back = converter.process(tensors_of(tmp_path / "other"))

    assert back.keys() == kept.keys()
    for name in plan.quantized:
        assert torch.equal(back[name], quarks[name].float() * quarks[f"{name}_scale"][:, None]), name
    assert all(torch.equal(back[name], kept[name]) for name in plan.kept)


def test_the_config_says_its_format_and_the_record_too(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16", convention=Convention.SPECULATORS)
    for form in Format:
        result = quantize(source, tmp_path / form.value, format=form)
        record = json.loads((tmp_path / form.value / "quark_eagle.json").read_text())

        assert quantization_of(tmp_path / form.value)["quant_method"] == form.value
        assert record["plan"]["format"] == form.value
        assert result.output.files["model.safetensors"].size_bytes > 0


@pytest.mark.vllm
def test_the_installed_vllm_reads_the_list_as_we_say(planned: tuple[Eagle3Layout, QuantPlan]) -> None:
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig

    layout, plan = planned
    config = CompressedTensorsConfig.from_config(compressed_tensors_config(plan))
    linear, head = (type(name, (torch.nn.Module,), {})() for name in ("ReplicatedLinear", "ParallelLMHead"))
    for module, parts in runtime_modules(layout).items():
        kept = layout.by_canonical[f"{parts[0]}.weight"] in plan.kept
        assert (config.get_scheme_dict(linear, module) is None) == kept, module
    assert config.get_scheme_dict(head, "lm_head") is None


def test_the_library_matches_exactly_the_quantized_weights(planned: tuple[Eagle3Layout, QuantPlan]) -> None:
    from compressed_tensors.utils.match import match_quantizable_tensors

    layout, plan = planned
    matched = match_quantizable_tensors(dict.fromkeys(layout.slots), ignore_list(plan), targets=["Linear"])

    assert sorted(name for _, name in matched) == sorted(plan.quantized)


def test_every_entry_of_the_exclude_list_is_ignored_too(planned: tuple[Eagle3Layout, QuantPlan]) -> None:
    _, plan = planned
    more = {*ignore_list(plan)} - {*plan.exclude}

    assert {*plan.exclude} <= {*ignore_list(plan)}
    assert all(re.fullmatch(r"(model\.)?embed_tokens|fc_norm\.\d+", entry) for entry in more), more
