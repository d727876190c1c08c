"""What replay is opened with: a draft that the engine would not run as it is meant is known before it is replayed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.manifest import RECORD_NAME
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.verify import verify
from quark_eagle.errors import VerificationError
from quark_eagle.model.kv_cache import Fp8Cache, KvCacheDtype
from quark_eagle.opening import open_comparison
from quark_eagle.parity.gate import gate
from quark_eagle.parity.verdict import Rules, judge
from quark_eagle.quantize.compressed_tensors import compressed_tensors_config
from quark_eagle.quantize.format import Format
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.quantization_config import quantization_config
from quark_eagle.quantize.scheme import PTPC_FP8, Scheme
from tests.static_draft import write_static_draft
from tests.tiny import write_config, write_tensors, write_tiny_draft
from tests.tiny_trace import write_tiny_trace

Tensors = dict[str, torch.Tensor]
K_INPUT = "midlayer.self_attn.k_proj.input_scale"
K_WEIGHT = "midlayer.self_attn.k_proj.weight_scale"
QKV = "model.layers.0.self_attn.qkv_proj"
O_INPUT = "midlayer.self_attn.o_proj.input_scale"
O_PROJ = "model.layers.0.self_attn.o_proj"
EXCLUDE = ("fc", "model.fc", "lm_head")


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_draft(tmp_path_factory.mktemp("opening") / "bf16", draft_vocab=8)


@pytest.fixture(scope="module")
def trace(draft: Path) -> Path:
    return write_tiny_trace(draft.parent / "trace", draft, num_prompts=64, num_generated=8, obeys=0.9)


@pytest.fixture(scope="module")
def static(draft: Path, trace: Path) -> Path:
    return write_static_draft(draft, trace, draft.parent / "static", Scheme.FP8)


def edited(
    source: Path,
    directory: Path,
    tensors: Callable[[Tensors], Mapping[str, torch.Tensor]] = dict,
    quantization: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Path:
    """A draft with other tensors, or told to be quantized in another way, and no record of how it was made."""
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns(RECORD_NAME))
    write_tensors(directory, dict(tensors(load_file(source / "model.safetensors"))))
    config = json.loads((source / "config.json").read_text())
    write_config(directory, config | {"quantization_config": quantization(config["quantization_config"])})
    return directory


def without_input_scales(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("input_scale")}


def times(name: str, factor: float) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: tensors[name] * factor}


def with_everything_excluded(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"exclude": ["re:.*"]}


def with_dynamic_inputs(config: dict[str, Any]) -> dict[str, Any]:
    def dynamic(layer: dict[str, Any]) -> dict[str, Any]:
        return layer | {"input_tensors": layer["input_tensors"] | {"is_dynamic": True}}

    layers = {name: dynamic(layer) for name, layer in config["layer_quant_config"].items()}  # of the KV cache
    return config | {"global_quant_config": dynamic(config["global_quant_config"]), "layer_quant_config": layers}


def told_ptpc(config: dict[str, Any]) -> dict[str, Any]:
    return quantization_config(PTPC_FP8, EXCLUDE)


MISREAD: dict[str, tuple[dict[str, Any], str]] = {
    "no input_scale at all": ({"tensors": without_input_scales}, O_PROJ),
    "one part's input_scale × 64": ({"tensors": times(K_INPUT, 64)}, QKV),
    "one part's weight_scale × 2": ({"tensors": times(K_WEIGHT, 2)}, QKV),
    "everything excluded": ({"quantization": with_everything_excluded}, O_PROJ),
    "dynamic inputs, and an input_scale for each": ({"quantization": with_dynamic_inputs}, O_INPUT),
    "PTPC over tensors of a static scheme": ({"quantization": told_ptpc}, O_PROJ),
}


@pytest.mark.parametrize("fault", MISREAD)
def test_what_an_engine_reads_otherwise_never_passes_and_is_named(
    draft: Path, static: Path, trace: Path, tmp_path: Path, fault: str
) -> None:
    edit, module = MISREAD[fault]
    broken = edited(static, tmp_path / "broken", **edit)
    assert not verify(broken, draft).ok
    report = open_comparison(draft, broken, trace, walk_only=True).run()
    assert module in report.candidate.misread
    verdict = gate(report, Rules(margin=0.5, num_resamples=999), parity=tmp_path / "parity.json")
    assert (verdict.outcome, verdict.exit_code) == ("fail", 3)
    assert verdict.rule in ("verification", "collapse")
    assert verdict.rule == "collapse" or module in verdict.reason


def test_a_static_draft_that_is_read_as_it_is_meant_passes_and_its_report_is_what_it_was(
    draft: Path, static: Path, trace: Path
) -> None:
    report = open_comparison(draft, static, trace, walk_only=True).run()
    assert judge(report, Rules(margin=0.2, num_resamples=999)).outcome == "pass"
    assert "misread" not in report.to_json()


def test_activations_scaled_by_the_whole_batch_are_not_replayed(
    draft: Path, static: Path, trace: Path, tmp_path: Path
) -> None:
    """Without a stray input_scale an engine loads it as it is meant, but replay would scale each token alone."""
    dynamic = edited(static, tmp_path / "dynamic", without_input_scales, with_dynamic_inputs)
    assert verify(dynamic).errors == ()
    with pytest.raises(VerificationError, match="fp8, dynamic, but replay scales activations per token"):
        open_comparison(draft, dynamic, trace)


def with_a_cache_scheme(config: dict[str, Any], plan: QuantPlan) -> dict[str, Any]:
    return compressed_tensors_config(plan, kv_cache=True)


def test_auto_is_the_cache_that_the_candidates_own_config_asks_for(
    draft: Path, static: Path, trace: Path, tmp_path: Path
) -> None:
    """compressed-tensors' kv_cache_scheme makes it FP8, with float32 scales; Quark's config leaves it to serving."""
    plan = QuantPlan.of(Eagle3Layout.of(Checkpoint.open(draft)), scheme=Scheme.FP8, format=Format.COMPRESSED_TENSORS)
    compressed = edited(static, tmp_path / "compressed", quantization=lambda config: with_a_cache_scheme(config, plan))
    stored = load_file(static / "model.safetensors")["midlayer.self_attn.k_scale"]
    cases: tuple[tuple[Path, KvCacheDtype, KvCacheDtype, torch.Tensor | None], ...] = (
        (static, "auto", "auto", None),
        (static, "fp8", "fp8", stored.bfloat16().float()),
        (compressed, "auto", "fp8", stored.float()),
    )
    for candidate, asked, found, scale in cases:
        comparison = open_comparison(draft, candidate, trace, walk_only=True, kv_cache_dtype=asked)
        assert comparison.measurement.settings.kv_cache_dtype == found
        cache = comparison.drafts[1].caches.get("layers.0.self_attn.keys")
        assert (cache.scale if isinstance(cache, Fp8Cache) else None) == scale


def test_what_no_rule_covers_is_not_evaluated(draft: Path, static: Path, trace: Path, tmp_path: Path) -> None:
    other = edited(static, tmp_path / "other", quantization=lambda config: config | {"quant_method": "awq"})
    with pytest.raises(VerificationError, match="'awq'") as told:
        open_comparison(draft, other, trace)
    assert told.value.exit_code == 5
