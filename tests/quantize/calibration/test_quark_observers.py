"""Scales are Quark's: its own run over the module, and its observers fed by hand, give the same bits."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from quark_eagle.quantize.calibration.observed_draft import ObservedDraft
from quark_eagle.quantize.calibration.observer import Observer, ObserverChoice
from quark_eagle.quantize.calibration.run import CalibrationOptions, CalibrationRun
from tests.quantize.calibration.conftest import OpenRun

pytestmark = [pytest.mark.quark, pytest.mark.usefixtures("real_quark")]

CHOICES = [
    ObserverChoice(),
    ObserverChoice(observer=Observer.PERCENTILE),
    ObserverChoice(observer=Observer.PERCENTILE, percentile=99.0),
    ObserverChoice(observer=Observer.MSE),
    ObserverChoice(observer=Observer.HISTOGRAM),
]


def options(choice: ObserverChoice) -> CalibrationOptions:
    """Of three prompts for MSE, which tries every bin and is slow where the first batch was small."""
    max_tokens = 3 * 15 if choice.observer is Observer.MSE else None
    return CalibrationOptions(choice=choice, kv_cache_scales=True, max_tokens=max_tokens)


def seen_by(run: CalibrationRun) -> dict[str, list[torch.Tensor]]:
    """Every activation of a run, by name, in order: plain torch, without Quark."""
    seen: dict[str, list[torch.Tensor]] = defaultdict(list)
    module: ObservedDraft = run.module
    for name in (*module.linears, *module.caches):
        child = module.get_submodule(name)
        child.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0].clone()))
    for place in run.prompts.places:
        module(run.trace.prompt(place))
    return seen


def observer_of(choice: ObserverChoice) -> Any:
    """Quark's observer, made by hand."""
    from quark.torch.quantization.config.config import FP8E4M3PerTensorSpec, Int8PerTensorSpec

    spec = Int8PerTensorSpec if choice.observer is Observer.HISTOGRAM else FP8E4M3PerTensorSpec
    made = spec(observer_method=choice.observer.quark_name, scale_type="float32").to_quantization_spec()
    observer = made.observer_cls(made)
    assert type(observer).__name__ == choice.observer.quark_class
    if choice.percentile is not None:
        observer.percentile = choice.percentile
    return observer


def test_min_max_is_the_largest_magnitude_over_448(open_run: OpenRun) -> None:
    seen = seen_by(open_run())
    scales = open_run(options(ObserverChoice())).run().document.scales
    assert {it.module for it in scales} == set(seen)
    for it in scales:
        amax = torch.tensor(max(x.float().abs().max().item() for x in seen[it.module]))
        assert it.scale == (amax / 448).item(), it.module
        assert it.absmax == amax.item()
        assert it.num_clipped == 0


@pytest.mark.parametrize("choice", CHOICES, ids=lambda it: f"{it.observer.value}-{it.percentile}")
def test_a_scale_is_that_of_quarks_observer_fed_by_hand(open_run: OpenRun, choice: ObserverChoice) -> None:
    seen = seen_by(open_run(options(choice)))
    for it in open_run(options(choice)).run().document.scales:
        observer = observer_of(choice)
        for x in seen[it.module]:
            observer(x)
        scale = float(observer._calculate_qparams()[0])
        if choice.observer is Observer.HISTOGRAM:  # of 255 integers from -127.5 to 127.5, the same range
            assert it.scale == pytest.approx(scale * 127.5 / 448, rel=1e-6), it.module
        else:
            assert it.scale == scale, it.module


@pytest.mark.parametrize("choice", [CHOICES[0], CHOICES[1], CHOICES[3]], ids=lambda it: it.observer.value)
def test_making_scales_when_asked_for_changes_no_bit_of_them(open_run: OpenRun, choice: ObserverChoice) -> None:
    """Against Quark's own run with nothing arranged around it: a plain list of prompts, a scale after each batch."""
    from quark.torch import ModelQuantizer
    from quark.torch.quantization.config.config import FP8E4M3PerTensorSpec, QConfig, QLayerConfig

    run = open_run(options(choice))
    spec = FP8E4M3PerTensorSpec(observer_method=choice.observer.quark_name, scale_type="float32", is_dynamic=False)
    config = QConfig(global_quant_config=QLayerConfig(input_tensors=spec.to_quantization_spec()))
    ModelQuantizer(config).quantize_model(run.module, [run.trace.prompt(place) for place in run.prompts.places])
    plain = {name: float(run.module.get_submodule(name)._input_quantizer.scale) for name in run.module.linears}
    assert plain == dict(open_run(options(choice)).run().scales.inputs)


def test_a_percentile_is_the_exact_one_to_a_bin_of_the_histogram(open_run: OpenRun) -> None:
    choice = ObserverChoice(observer=Observer.PERCENTILE, percentile=99.0)
    seen = seen_by(open_run())
    for it in open_run(options(choice)).run().document.scales:
        values = torch.cat([x.float().abs().flatten() for x in seen[it.module]])
        exact = values[values != 0].quantile(0.99).item()
        bin_width = seen[it.module][0].float().abs().max().item() / 4200
        assert it.scale * 448 == pytest.approx(exact, abs=2 * bin_width), it.module
        assert 0.005 < it.num_clipped / it.num_values < 0.02


def test_projections_of_one_input_share_a_scale(open_run: OpenRun) -> None:
    for choice in CHOICES:
        inputs = open_run(options(choice)).run().scales.inputs
        assert inputs["layers.0.self_attn.q_proj"] == inputs["layers.0.self_attn.k_proj"]
        assert inputs["layers.0.self_attn.q_proj"] == inputs["layers.0.self_attn.v_proj"]
        assert inputs["layers.0.mlp.gate_proj"] == inputs["layers.0.mlp.up_proj"]
        assert len(set(inputs.values())) == 5  # fc, qkv, o, gate and up, down


def best_range_of_integers(values: np.ndarray) -> tuple[float, float]:
    """By torch's documented search, in float64 and plain loops: cut off 0.001 % at a time while the error falls.

    Values are taken as spread evenly over their bin, and each goes to the nearest of 256 equal steps of the range.
    """
    counts, edges = np.histogram(values, bins=256)
    below, width = counts.cumsum() / counts.sum(), edges[1] - edges[0]

    def error(first: int, last: int) -> float:
        step, total = width * (last - first + 1) / 256, 0.0
        for place, count in enumerate(counts):
            for at in ((place - first) * width + width * (i + 0.5) / 64 for i in range(64)):
                to = min(max(math.floor(at / step), 0), 255)
                total += count / 64 * (at - (to + 0.5) * step) ** 2
        return total

    first, last, low, high, least = 0, 255, 0.0, 1.0, math.inf
    while low < high:
        left, right = first, last
        while left < last and below[left] < low + 1e-5:
            left += 1
        while right > first and below[right] > high - 1e-5:
            right -= 1
        if left - first > last - right:
            low, tried = low + 1e-5, (left, last)
        else:
            high, tried = high - 1e-5, (first, right)
        if tried == (first, last):
            continue
        if (found := error(*tried)) > least:
            break
        (first, last), least = tried, found
    return float(edges[first]), float(edges[last + 1])


def test_a_histograms_scale_is_that_of_the_range_found_by_a_plain_search(open_run: OpenRun) -> None:
    choice = ObserverChoice(observer=Observer.HISTOGRAM)
    one_batch = CalibrationOptions(choice=choice, max_tokens=15, num_speculative_tokens=1, kv_cache_scales=True)
    seen = seen_by(open_run(one_batch))
    whole = open_run(replace(one_batch, choice=ObserverChoice())).run().document.scales
    for it, full in zip(open_run(one_batch).run().document.scales, whole, strict=True):
        (x,) = seen[it.module]
        low, high = best_range_of_integers(x.double().numpy().ravel())
        assert it.scale * 448 == pytest.approx(max(-low, high), rel=1e-5), it.module
        assert it.scale <= full.scale * (1 + 1e-6)


def test_quarks_integer_histograms_give_no_fp8_scale_by_themselves() -> None:
    """Why `histogram` is Quark's histogrampro with a spec of int8: should a newer Quark mend either, this fails."""
    from quark.torch.quantization.config.config import FP8E4M3PerTensorSpec

    made = FP8E4M3PerTensorSpec(observer_method="histogram", scale_type="float32").to_quantization_spec()
    observer = made.observer_cls(made)
    observer(torch.randn(8, 8))
    assert float(observer._calculate_qparams()[0]) == torch.finfo(torch.float32).eps
    refused = FP8E4M3PerTensorSpec(observer_method="histogrampro", scale_type="float32").to_quantization_spec()
    with pytest.raises(ValueError, match="only supports 4bit and 8bit"):
        refused.observer_cls(refused)


def test_the_rarest_of_many_values_count_for_nothing_in_quarks_percentile() -> None:
    """What `Observer.PERCENTILE` says of float32: one value of 30 million is not seen at 99.99999999 %."""
    observer = observer_of(ObserverChoice(observer=Observer.PERCENTILE))
    observer.device = torch.device("cpu")
    edges = torch.linspace(0, 100, 11)
    rare = torch.tensor([0.0] * 5 + [3e7] + [0.0] * 3 + [1.0])
    assert observer.get_min_max_by_percentile(rare, edges, 99.99999999)[1] == 50
    few = torch.tensor([0.0] * 5 + [3e5] + [0.0] * 3 + [1.0])
    assert observer.get_min_max_by_percentile(few, edges, 99.99999999)[1] == 90


def test_a_run_leaves_quark_as_it_was(open_run: OpenRun) -> None:
    from quark.torch.quantization import api

    before = api.tqdm.__init__, api.QUARK_COUNT_OBSERVED_SAMPLES
    open_run().run()
    assert (api.tqdm.__init__, api.QUARK_COUNT_OBSERVED_SAMPLES) == before
