"""Static schemes: Quark's own bytes, its own config, and what vLLM makes of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from quark_eagle.checkpoint.family import Convention, DraftFamily
from quark_eagle.errors import QuantizationError
from quark_eagle.fp8 import quantize_per_tensor
from quark_eagle.quantize.quantization_config import quantization_config
from quark_eagle.quantize.quark_backend import load_quark
from quark_eagle.quantize.scheme import Scheme
from tests.quantize.conftest import quantize, scales_for
from tests.quantize.test_quark_backend import same_bytes, tensors_of
from tests.tiny import TinyDraft, tiny_tensors, write_sharded, write_tensors, write_tiny_draft

pytestmark = [pytest.mark.quark, pytest.mark.usefixtures("real_quark")]

VARIANTS: dict[str, TinyDraft] = {
    "bfloat16": TinyDraft(),
    "float32": TinyDraft(dtype="float32", convention=Convention.LAYERS, num_layers=2),
    "float16": TinyDraft(dtype="float16", family=DraftFamily.QWEN3, head_dim=16),
    "mla": TinyDraft(family=DraftFamily.DEEPSEEK_MLA),
    "odd": TinyDraft(intermediate=33, vocab=255, draft_vocab=95, embed_tokens=True, sharded=True),
}
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("q_a_proj", "kv_a_proj_with_mqa"))


def write_demanding_draft(directory: Path, draft: TinyDraft) -> Path:
    """A tiny draft with zeros, an outlier, numbers near a rounding edge and rows of very different sizes."""
    write_tiny_draft(directory, draft)
    tensors = tiny_tensors(draft)
    for i, (name, tensor) in enumerate(sorted(tensors.items())):
        if name.endswith("_proj.weight") or "kv_a_proj" in name:
            tensor[0] = 0
            tensor[1, 3] = 3 + i
            tensor[2] = torch.linspace(-2, 2, tensor.shape[1])
            tensor[3:8] *= torch.logspace(-3, 0, 5, dtype=tensor.dtype)[:, None]
    (write_sharded if draft.sharded else write_tensors)(directory, tensors)
    return directory


def fused_parts(names: list[str]) -> list[list[str]]:
    """The weights that run as one module, each group in the order of its rows."""
    return [
        [name.replace(f"{parts[0]}.", f"{part}.") for part in parts]
        for parts in FUSED
        for name in names
        if name.endswith(f".{parts[0]}.weight")
    ]


def quarks_own(weights: dict[str, torch.Tensor], directory: Path) -> dict[str, torch.Tensor]:
    """What Quark's public call makes of some weights under its scheme fp8."""
    from quark.torch import LLMTemplate, ModelQuantizer

    directory.mkdir()
    write_tensors(directory, weights)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "torch_dtype": "bfloat16"}))
    config = LLMTemplate.get("llama").get_config(scheme="fp8", exclude_layers=[])
    ModelQuantizer(config).direct_quantize_checkpoint(
        pretrained_model_path=str(directory), save_path=str(directory / "quark"), device="cpu"
    )
    return tensors_of(directory / "quark")


@pytest.mark.parametrize("variant", VARIANTS)
def test_per_tensor_weights_are_quarks_own(tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit what its public call makes; what runs fused is what it makes of the parts joined to one weight."""
    monkeypatch.setattr("quark_eagle.quantize.stage.BLOCK_ELEMENTS", 64 * 7)
    source = write_demanding_draft(tmp_path / "source", VARIANTS[variant])
    result = quantize(source, tmp_path / "ours", scheme=Scheme.FP8, activation_scales=scales_for(source))
    ours, originals = tensors_of(tmp_path / "ours"), tensors_of(source)
    groups = fused_parts(list(result.plan.quantized))
    alone = [[name] for name in result.plan.quantized if not any(name in group for group in groups)]
    joined = {
        f"layer{i}.weight": torch.cat([originals[name] for name in group]) for i, group in enumerate(groups + alone)
    }
    quarks = quarks_own(joined, tmp_path / "joined")
    for i, group in enumerate(groups + alone):
        assert same_bytes(torch.cat([ours[name] for name in group]), quarks[f"layer{i}.weight"])
        assert all(torch.equal(ours[f"{name}_scale"], quarks[f"layer{i}.weight_scale"]) for name in group)


def test_one_scale_for_a_weight_has_two_roads() -> None:
    """Quark's arithmetic and ours."""
    quark = load_quark(Scheme.FP8)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
        weight[3] = 0
        ours = quantize_per_tensor(weight)
        payload, scale = quark.quantize_rows(weight[:7], weight.abs().amax())
        assert same_bytes(payload, ours.q[:7])
        assert torch.equal(scale, ours.scale)


@pytest.mark.parametrize("scheme", [Scheme.FP8, Scheme.FP8_CHANNEL_STATIC, Scheme.PTPC_FP8])
@pytest.mark.parametrize("kv_cache", [False, True])
def test_our_config_is_what_quark_writes_for_the_scheme(scheme: Scheme, kv_cache: bool) -> None:
    """Its own object's dictionary, and as ``export`` its own exporter's; the exclude list apart."""
    from quark.torch import LLMTemplate
    from quark.torch.export.config.config import JsonExporterConfig
    from quark.torch.quantization.config.config import FP8E4M3PerTensorSpec

    template = LLMTemplate.get("llama")
    cache = "fp8" if kv_cache else None
    named = "ptpc_fp8" if scheme is Scheme.FP8_CHANNEL_STATIC else scheme.value
    config = template.get_config(scheme=named, exclude_layers=[], kv_cache_scheme=cache)
    if scheme is Scheme.FP8_CHANNEL_STATIC:
        # Quark has no name for it, only the parts: its per-channel weights, and its scheme fp8's inputs.
        static = FP8E4M3PerTensorSpec(observer_method="min_max", scale_type="float", is_dynamic=False)
        for layer in (
            config.global_quant_config,
            *config.layer_quant_config.values(),
            *config.kv_cache_quant_config.values(),
        ):
            layer.input_tensors = static.to_quantization_spec()
    groups = [["*gate_proj", "*up_proj"]]
    ours = quantization_config(scheme, [], weight_merge_groups=groups, kv_cache=kv_cache)
    exported = JsonExporterConfig(weight_merge_groups=groups, kv_cache_group=["*k_proj", "*v_proj"] if kv_cache else [])
    assert ours.pop("export") == asdict(exported)
    assert ours == config.to_dict()


def test_quark_freezes_scales_of_the_same_names_and_shapes() -> None:
    """An observed linear, frozen and exported by Quark itself: what its checkpoint holds is what ours holds."""
    from quark.torch import ModelQuantizer
    from quark.torch.export.nn.modules.qparamslinear import QParamsLinear
    from quark.torch.quantization.config.config import FP8E4M3PerTensorSpec, QConfig, QLayerConfig

    static = FP8E4M3PerTensorSpec(observer_method="min_max", scale_type="float32", is_dynamic=False)
    spec = static.to_quantization_spec()
    model = torch.nn.Sequential(torch.nn.Linear(32, 16, bias=False)).bfloat16()
    x = torch.randn(8, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    quantizer = ModelQuantizer(QConfig(global_quant_config=QLayerConfig(weight=spec, input_tensors=spec), exclude=[]))
    frozen = quantizer.freeze(quantizer.quantize_model(model, [x]))
    exported = QParamsLinear.from_module(frozen[0], custom_mode="quark", pack_method="reorder")
    state = {name: tensor for name, tensor in exported.state_dict().items() if "zero_point" not in name}
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
    assert shapes["weight"] == (torch.float8_e4m3fn, (16, 32))
    scales = {name: shape for name, shape in shapes.items() if name != "weight"}
    assert {dtype for dtype, _ in scales.values()} == {torch.float32}
    assert all(shape in ((), (1,)) for _, shape in scales.values())
    assert len(scales) == 2


def test_a_weight_that_vllm_would_change_is_refused(tmp_path: Path) -> None:
    source = write_tiny_draft(tmp_path / "source")
    tensors = tiny_tensors(TinyDraft())
    tensors["midlayer.mlp.down_proj.weight"].fill_(0.01)
    write_tensors(source, tensors)
    scales = scales_for(source)
    with pytest.raises(QuantizationError, match=r"down_proj.weight has weights of at most 0.01, but.* reach 0.0137"):
        quantize(source, tmp_path / "ours", scheme=Scheme.FP8, activation_scales=scales)
    quantize(source, tmp_path / "ours", scheme=Scheme.FP8_CHANNEL_STATIC, activation_scales=scales)


@pytest.mark.parametrize("scheme", [Scheme.FP8, Scheme.FP8_CHANNEL_STATIC])
@pytest.mark.parametrize("variant", ["bfloat16", "float32", "mla", "odd"])
def test_verify_passes_what_we_write(tmp_path: Path, variant: str, scheme: Scheme) -> None:
    """Every payload bit for bit Quark's, by the reader that shares no code with us."""
    from quark_eagle.deploy.verify import verify

    source = write_demanding_draft(tmp_path / "source", VARIANTS[variant])
    scales = scales_for(source, kv_cache=variant != "mla")
    quantize(source, tmp_path / "ours", scheme=scheme, activation_scales=scales)
    report = verify(tmp_path / "ours", source)
    assert [f"{finding.subject}: {finding.message}" for finding in report.errors] == []
    assert not any("bit for bit" in finding.message for finding in report.warnings)
    assert {module.scheme for module in report.modules} == {None, scheme.value}


def vllms_load(parts: list[torch.Tensor], scales: list[float], monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """vLLM's own function for a fused module; its CPU build lacks the operator, for which its native forward stands."""
    from vllm.model_executor.layers.quantization.utils import w8a8_utils

    def native(x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (x.float() * scale.reciprocal()).clamp(-448, 448).to(torch.float8_e4m3fn), scale

    monkeypatch.setattr(w8a8_utils.ops, "scaled_fp8_quant", native)
    widths = [len(part) for part in parts]
    largest, weight = w8a8_utils.requantize_with_max_scale(torch.cat(parts), torch.tensor(scales), widths)
    assert largest == torch.tensor(scales).max()
    return weight.float()


@pytest.mark.vllm
def test_vllm_runs_what_was_written_if_the_parts_share_a_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every FP8 number, at the smallest scale that is written and others; with scales apart it would not."""
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    finite = numbers[numbers.float().isfinite()].reshape(2, -1)
    parts = [finite[:1], finite[1:]]
    for scale in (2.0**-15, 3.1e-5, 1e-4, 0.0123, 1.0, 65504 / 448):
        assert torch.equal(vllms_load(parts, [scale, scale], monkeypatch), finite.float())
    for apart in ([0.01, 0.013], [2.0**-19, 2.0**-19]):
        assert not torch.equal(vllms_load(parts, apart, monkeypatch), finite.float())
