"""Which product a device computes FP8 with, held against torch's own rules and vLLM's own conversion."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from quark_eagle.fp8 import quantize_per_channel, quantize_per_token
from quark_eagle.model import linear
from quark_eagle.model.fp8_product import Fp8Product, as_fnuz, fp8_product, gpu_arch
from quark_eagle.model.linear import Linear

OUT, IN, TOKENS = 96, 64, 7
EVERY_BIT_PATTERN = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("arch", "product"),
    [
        ("gfx950", Fp8Product.SCALED_MM),
        ("gfx942", Fp8Product.SCALED_MM_FNUZ),
        ("gfx1201", Fp8Product.SCALED_MM),
        ("gfx90a", Fp8Product.WIDENED),
        ("sm_89", Fp8Product.SCALED_MM),
        ("sm_90", Fp8Product.SCALED_MM),
        ("sm_120", Fp8Product.SCALED_MM),
        ("sm_80", Fp8Product.WIDENED),
        (None, Fp8Product.WIDENED),
    ],
)
def test_an_architecture_has_the_product_that_torch_lets_it_have(arch: str | None, product: Fp8Product) -> None:
    assert fp8_product(arch, 7168, 12288, torch.bfloat16) is product


@pytest.mark.parametrize(
    ("out_features", "in_features", "dtype"),
    [(7168, 12280, torch.bfloat16), (7160, 12288, torch.bfloat16), (7168, 12288, torch.float32)],
)
def test_a_shape_or_dtype_that_the_product_does_not_take_is_widened(
    out_features: int, in_features: int, dtype: torch.dtype
) -> None:
    assert fp8_product("gfx950", out_features, in_features, dtype) is Fp8Product.WIDENED


@pytest.mark.parametrize(
    ("properties", "arch"),
    [
        (SimpleNamespace(gcnArchName="gfx950:sramecc+:xnack-", major=9, minor=5), "gfx950"),
        (SimpleNamespace(major=9, minor=0), "sm_90"),
    ],
)
def test_a_gpu_is_called_by_its_architecture(
    properties: SimpleNamespace, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert gpu_arch.__wrapped__(torch.device("cuda", 0)) == arch
    assert gpu_arch(torch.device("cpu")) is None


def test_fnuz_numbers_are_the_same_numbers() -> None:
    q = EVERY_BIT_PATTERN[EVERY_BIT_PATTERN.float().isfinite()]
    converted, scale = as_fnuz(q, torch.tensor([0.25]))
    assert torch.equal(converted.float() * scale, q.float() * 0.25)
    assert converted.dtype == torch.float8_e4m3fnuz


def test_activations_in_fnuz_are_those_that_vllm_quantizes_to_224() -> None:
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).bfloat16() * 8
    q, scale = as_fnuz(*quantize_per_token(x))
    theirs = (x.abs().amax(dim=-1, keepdim=True).float() / 224.0).clamp(min=1.0 / (224.0 * 512.0))
    assert torch.equal(scale, theirs)
    assert torch.equal(q.float(), (x.float() * theirs.reciprocal()).to(torch.float8_e4m3fnuz).float())


@pytest.mark.vllm
def test_our_fnuz_is_vllms() -> None:
    from vllm.model_executor.layers.quantization.utils.w8a8_utils import normalize_e4m3fn_to_e4m3fnuz

    scale = torch.tensor([0.25])
    q, doubled = as_fnuz(EVERY_BIT_PATTERN, scale)
    theirs, their_scale, _ = normalize_e4m3fn_to_e4m3fnuz(EVERY_BIT_PATTERN.clone(), scale)
    assert torch.equal(q.view(torch.uint8), theirs.view(torch.uint8))
    assert torch.equal(doubled, their_scale)


@pytest.fixture
def fp8_layer() -> Linear:
    quantized = quantize_per_channel(torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0)).bfloat16())
    return Linear(quantized.q, quantized.scale)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(TOKENS, IN, generator=torch.Generator().manual_seed(1)).bfloat16()


def pretend(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "gpu_arch", lambda device: arch)


def test_the_devices_product_gives_the_widened_ones_numbers(fp8_layer: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU has `_scaled_mm` too: what a GPU would be called with is computed here by another road."""
    x = torch.randn(512, IN, generator=torch.Generator().manual_seed(2)).bfloat16()
    widened = fp8_layer(x)
    pretend("gfx950", monkeypatch)
    calls = count_calls(monkeypatch)
    assert (fp8_layer(x) != widened).float().mean() < 0.01
    assert calls == [torch.float8_e4m3fn]


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The operands' dtype of each `_scaled_mm`; fnuz ones are computed in float64, as no CPU multiplies them."""
    calls, genuine = [], torch._scaled_mm

    def counted(q: torch.Tensor, w: torch.Tensor, **rest: Any) -> torch.Tensor:
        assert q.dtype == w.dtype
        calls.append(q.dtype)
        if q.dtype == torch.float8_e4m3fnuz:
            return ((q.double() @ w.double()) * rest["scale_a"] * rest["scale_b"]).bfloat16()
        return genuine(q, w, **rest)

    monkeypatch.setattr(torch, "_scaled_mm", counted)
    return calls


def test_the_fnuz_product_gives_the_same_numbers(
    fp8_layer: Linear, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    widened = fp8_layer(x)
    pretend("gfx942", monkeypatch)
    calls = count_calls(monkeypatch)
    assert (fp8_layer(x) != widened).float().mean() < 0.01
    assert calls == [torch.float8_e4m3fnuz]


@pytest.mark.parametrize("arch", ["gfx950", "gfx942", "sm_90"])
@pytest.mark.parametrize("tokens", [1, TOKENS, 0])
@pytest.mark.parametrize("scale_shape", [(OUT,), (OUT, 1)])
def test_torchs_rules_for_gpus_accept_what_we_pass(
    arch: str, tokens: int, scale_shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake tensors of a GPU are checked by torch's own rules for its `_scaled_mm`, without a GPU."""
    pretend(arch, monkeypatch)
    with FakeTensorMode():
        weight = torch.empty(OUT, IN, device="cuda").to(torch.float8_e4m3fn)
        layer = Linear(weight, torch.empty(scale_shape, device="cuda", dtype=torch.bfloat16))
        y = layer(torch.empty(tokens, IN, device="cuda", dtype=torch.bfloat16))
    assert (tuple(y.shape), y.dtype, y.device.type) == ((tokens, OUT), torch.bfloat16, "cuda")
