"""A linear layer under static scales: the definition, torch's product, vLLM's quantizer and Quark's own layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from quark_eagle.fp8 import Fp8Weight, quantize_per_channel, quantize_per_tensor, quantize_static
from quark_eagle.model import linear
from quark_eagle.model.linear import Linear

OUT, IN = 96, 64
INPUT_SCALE = torch.tensor(0.00731)
"""So small that the largest of 500 × 64 normal activations are cut off; a round number would make ties."""


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(500, IN, generator=torch.Generator().manual_seed(1)).bfloat16()


@pytest.fixture(params=["per tensor", "per channel"])
def weight(request: pytest.FixtureRequest) -> Fp8Weight:
    drawn = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0)).bfloat16()
    return quantize_per_tensor(drawn) if request.param == "per tensor" else quantize_per_channel(drawn)


def exact(weight: Fp8Weight, x: torch.Tensor) -> torch.Tensor:
    """From the definition, in float64."""
    q = (x.double() / INPUT_SCALE.double()).clamp(-448, 448).to(torch.float8_e4m3fn).double()
    scale = weight.scale.double() if weight.scale.dim() else weight.scale.double().expand(OUT)
    return ((q @ weight.q.double().t()) * INPUT_SCALE.double() * scale).bfloat16()


def test_a_static_product_equals_the_definition(weight: Fp8Weight, x: torch.Tensor) -> None:
    assert (Linear(weight.q, weight.scale, None, INPUT_SCALE)(x) != exact(weight, x)).float().mean() < 0.01
    assert x.abs().max() > 448 * INPUT_SCALE


def test_a_scale_of_one_element_is_a_scale(x: torch.Tensor) -> None:
    weight = quantize_per_tensor(torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0)).bfloat16())
    one = Linear(weight.q, weight.scale, None, INPUT_SCALE)(x)
    assert torch.equal(one, Linear(weight.q, weight.scale.reshape(1), None, INPUT_SCALE.reshape(1))(x))


def test_a_scale_per_row_lies_in_one_axis_or_two(x: torch.Tensor) -> None:
    weight = quantize_per_channel(torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0)).bfloat16())
    assert torch.equal(Linear(weight.q, weight.scale)(x), Linear(weight.q, weight.scale[:, None])(x))


@pytest.mark.parametrize("arch", ["gfx950", "sm_90"])
def test_the_devices_product_gives_the_widened_ones_numbers(
    weight: Fp8Weight, x: torch.Tensor, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU has `_scaled_mm` too: what a GPU would be called with is computed here by another road."""
    layer = Linear(weight.q, weight.scale, None, INPUT_SCALE)
    widened, shapes, genuine = layer(x), [], torch._scaled_mm

    def counted(q: torch.Tensor, w: torch.Tensor, **rest: Any) -> torch.Tensor:
        shapes.append((tuple(rest["scale_a"].shape), tuple(rest["scale_b"].shape)))
        return genuine(q, w, **rest)

    monkeypatch.setattr(linear, "gpu_arch", lambda device: arch)
    monkeypatch.setattr(torch, "_scaled_mm", counted)
    assert (layer(x) != widened).float().mean() < 0.01
    assert shapes == [((500, 1), (1, OUT)) if weight.scale.dim() else ((), ())]


@pytest.mark.parametrize("arch", ["gfx950", "gfx942", "sm_90"])
@pytest.mark.parametrize("tokens", [1, 7, 0])
@pytest.mark.parametrize("scale_shape", [(), (1,), (OUT,)])
def test_torchs_rules_for_gpus_accept_what_we_pass(
    arch: str, tokens: int, scale_shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake tensors of a GPU are checked by torch's own rules for its `_scaled_mm`, without a GPU."""
    monkeypatch.setattr(linear, "gpu_arch", lambda device: arch)
    with FakeTensorMode():
        weight = torch.empty(OUT, IN, device="cuda").to(torch.float8_e4m3fn)
        layer = Linear(weight, torch.empty(scale_shape, device="cuda"), None, torch.empty((), device="cuda"))
        y = layer(torch.empty(tokens, IN, device="cuda", dtype=torch.bfloat16))
    assert (tuple(y.shape), y.dtype, y.device.type) == ((tokens, OUT), torch.bfloat16, "cuda")


@pytest.mark.vllm
def test_activations_are_quantized_as_vllm_quantizes_them(x: torch.Tensor) -> None:
    """Its `QuantFP8`, in the native form that its CUDA kernel stands beside."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.quantization.input_quant_fp8 import QuantFP8
    from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape

    with set_current_vllm_config(VllmConfig()):
        theirs, _ = QuantFP8(static=True, group_shape=GroupShape.PER_TENSOR).forward_native(x, INPUT_SCALE)
    assert torch.equal(theirs.view(torch.uint8), quantize_static(x, INPUT_SCALE).view(torch.uint8))


@pytest.mark.quark
@pytest.mark.usefixtures("real_quark")
def test_quarks_own_layer_computes_the_same(x: torch.Tensor) -> None:
    """The second road: calibrated, frozen and run by Quark; its weights and its scale, taken out of it, by us."""
    from quark.torch import ModelQuantizer
    from quark.torch.quantization.config.config import FP8E4M3PerTensorSpec, QConfig, QLayerConfig

    spec = FP8E4M3PerTensorSpec(
        observer_method="min_max", scale_type="float32", is_dynamic=False
    ).to_quantization_spec()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(IN, OUT, bias=False))
    quantizer = ModelQuantizer(QConfig(global_quant_config=QLayerConfig(weight=spec, input_tensors=spec), exclude=[]))
    calibration = x[:50].float()
    theirs = quantizer.freeze(quantizer.quantize_model(model, [calibration]))
    state = theirs.state_dict()
    (input_scale,) = (value for name, value in state.items() if name.endswith("input_quantizer.scale"))
    assert torch.equal(input_scale.reshape(()), calibration.abs().max() / 448)
    ours = quantize_per_tensor(model[0].weight.detach())
    layer = Linear(ours.q, ours.scale, None, input_scale)
    difference = (layer(x.float()) - theirs(x.float()).detach()).abs()
    assert difference.max() < 1e-5 * theirs(x.float()).abs().max()


def test_an_input_scale_without_an_fp8_weight_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="for an FP8 weight only"):
        Linear(torch.ones(4, 4), None, None, INPUT_SCALE)
