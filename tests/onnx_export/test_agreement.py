"""What onnxruntime computes with an export is what the draft computes: every family, every flag, every scheme."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.family import Convention, DraftFamily
from quark_eagle.errors import TraceError
from quark_eagle.onnx_export.agreement import Agreement
from quark_eagle.onnx_export.compare import STARTS_AT_ONCE, compare
from quark_eagle.onnx_export.export import export
from quark_eagle.quantize.scheme import Scheme
from tests.onnx_export.quantized import SchemeName, write_fp8_draft
from tests.parity.test_stored_baseline import projected
from tests.tiny import write_config, write_tiny_draft
from tests.tiny_trace import write_tiny_trace

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "own embedding": {"embed_tokens": True},
    "full vocabulary": {"draft_vocab": None},
    "norm_before_residual": {"norm_before_residual": True},
    "norm_before_fc": {"norm_before_fc": True},
    "fc_norm": {"fc_norm": True},
    "norm_output": {"norm_output": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "one head of keys": {"kv_heads": 1},
    "as many heads of keys": {"kv_heads": 4},
    "wide heads": {"head_dim": 32},
    "wider target, four layers of it": {
        "target_hidden": 96,
        "num_aux": 4,
        "aux_layer_ids": (1, 3, 5, 8),
        "embed_tokens": True,
    },
    "speculators": {"convention": Convention.SPECULATORS, "norm_before_residual": True},
    "two layers": {"num_layers": 2},
    "qwen3": {"family": DraftFamily.QWEN3},
    "qwen3, two layers": {"family": DraftFamily.QWEN3, "num_layers": 2},
    "latent": {"family": DraftFamily.DEEPSEEK_MLA},
    "latent, queries at once": {"family": DraftFamily.DEEPSEEK_MLA, "q_lora_rank": None},
    "latent, two layers": {"family": DraftFamily.DEEPSEEK_MLA, "num_layers": 2},
}


CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rope of Llama 3": (
        {},
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "yarn": ({}, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}),
    "half of a head turned": ({}, {"partial_rotary_factor": 0.5}),
    "a window of four rows": ({}, {"sliding_window": 4, "layer_types": ["sliding_attention"]}),
    "latent, yarn": (
        {"family": DraftFamily.DEEPSEEK_MLA},
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "mscale": 1.0,
                "mscale_all_dim": 0.8,
            }
        },
    ),
}
"""A draft, and what its config.json says besides."""


def exported(directory: Path, draft: Path, trace: Path, **options: Any) -> Agreement:
    export(draft, directory, **options)
    return compare(directory, draft, trace, num_prompts=2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_fp8_draft_proposes_the_same_in_onnxruntime(variant: str, tmp_path: Path) -> None:
    bf16 = write_tiny_draft(tmp_path / "bf16", **VARIANTS[variant])
    trace = write_tiny_trace(tmp_path / "trace", bf16, num_prompts=2, num_generated=12)
    found = exported(tmp_path / "onnx", write_fp8_draft(bf16, tmp_path / "fp8"), trace)
    assert found.ok, found
    assert found.num_proposals == 2 * 3 * (12 - 3 + 1)


@pytest.mark.parametrize("variant", CONFIGS)
def test_what_config_json_says_of_attention_is_in_the_graph(variant: str, tmp_path: Path) -> None:
    changes, config = CONFIGS[variant]
    bf16 = write_tiny_draft(tmp_path / "bf16", **changes)
    plain = write_fp8_draft(bf16, tmp_path / "plain")
    written = json.loads((bf16 / "config.json").read_text())
    write_config(bf16, written | config)
    trace = write_tiny_trace(tmp_path / "trace", bf16, num_prompts=2, num_generated=12)
    fp8 = write_fp8_draft(bf16, tmp_path / "fp8")
    assert exported(tmp_path / "onnx", fp8, trace).ok
    export(plain, tmp_path / "plain-onnx")
    assert not compare(tmp_path / "plain-onnx", fp8, trace, num_prompts=2).ok


@pytest.mark.parametrize("variant", ["plain", "own embedding", "biases", "two layers", "qwen3", "latent"])
def test_a_bf16_draft_computes_the_same_but_for_the_order_of_sums(variant: str, tmp_path: Path) -> None:
    draft = write_tiny_draft(tmp_path / "bf16", **VARIANTS[variant])
    trace = write_tiny_trace(tmp_path / "trace", draft, num_prompts=2, num_generated=12)
    found = exported(tmp_path / "onnx", draft, trace)
    assert found.ok
    assert found.max_difference is not None
    assert found.max_difference < 1e-4


@pytest.mark.parametrize("scheme", ["fp8", "fp8_channel_static"])
def test_static_scales_are_used(scheme: SchemeName, tmp_path: Path) -> None:
    bf16 = write_tiny_draft(tmp_path / "bf16")
    trace = write_tiny_trace(tmp_path / "trace", bf16, num_prompts=2, num_generated=12)
    fp8 = write_fp8_draft(bf16, tmp_path / "fp8", scheme)
    made = export(fp8, tmp_path / "onnx")
    assert made.scheme == Scheme(scheme).value
    assert compare(tmp_path / "onnx", fp8, trace, num_prompts=2).ok


def test_channel_scales_may_be_a_column(tmp_path: Path) -> None:
    bf16 = write_tiny_draft(tmp_path / "bf16")
    trace = write_tiny_trace(tmp_path / "trace", bf16, num_prompts=2, num_generated=12)
    write_fp8_draft(bf16, tmp_path / "row")
    export(write_fp8_draft(bf16, tmp_path / "column", column=True), tmp_path / "onnx")
    assert compare(tmp_path / "onnx", tmp_path / "row", trace, num_prompts=2).ok


def test_over_a_projected_trace_the_step_alone_is_compared(tmp_path: Path) -> None:
    bf16 = write_tiny_draft(tmp_path / "bf16", norm_before_fc=True)
    trace = write_tiny_trace(tmp_path / "trace", bf16, num_prompts=2, num_generated=12)
    fp8 = write_fp8_draft(bf16, tmp_path / "fp8")
    found = exported(tmp_path / "onnx", fp8, projected((bf16, trace), tmp_path / "projected"))
    assert found.ok
    assert not found.has_combine


@pytest.mark.parametrize("num_starts", [1, STARTS_AT_ONCE, STARTS_AT_ONCE + 1])
def test_every_start_is_compared_however_many_there_are(num_starts: int, tmp_path: Path) -> None:
    bf16 = write_tiny_draft(tmp_path / "bf16")
    trace = write_tiny_trace(tmp_path / "trace", bf16, num_prompts=1, num_generated=num_starts + 2)
    found = exported(tmp_path / "onnx", write_fp8_draft(bf16, tmp_path / "fp8"), trace)
    assert found.ok
    assert found.num_proposals == 3 * num_starts


def test_an_answer_shorter_than_a_round_is_refused(tmp_path: Path) -> None:
    bf16 = write_tiny_draft(tmp_path / "bf16")
    trace = write_tiny_trace(tmp_path / "trace", bf16, num_prompts=1, num_generated=2)
    export(bf16, tmp_path / "onnx")
    with pytest.raises(TraceError, match="a round was needed"):
        compare(tmp_path / "onnx", bf16, trace, num_prompts=1)
