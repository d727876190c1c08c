"""Drafts in compressed-tensors' format: what vLLM makes of them, one mistake at a time, and what is not covered."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.family import Convention, DraftFamily
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.findings import FP8
from quark_eagle.deploy.miscast import miscast_weights
from quark_eagle.deploy.verify import VerifyReport, verify
from quark_eagle.errors import VerificationError
from tests.deploy.compressed import (
    GOOD_IGNORE,
    INPUTS,
    KV_CACHE,
    NAIVE_IGNORE,
    WEIGHTS,
    also,
    channel_static,
    compressed,
    fc_too,
    group,
    head_too,
    kv_cache,
    per_tensor,
)
from tests.deploy.export import Export
from tests.tiny import TinyDraft, write_config, write_tiny_draft

MLA = TinyDraft(family=DraftFamily.DEEPSEEK_MLA, q_lora_rank=32)
LOADABLE = [Convention.MIDLAYER, Convention.LAYERS, Convention.SPECULATORS]


def verified(tmp_path: Path, change: Callable[[Export], None], draft: TinyDraft | None = None) -> VerifyReport:
    export = Export(draft or TinyDraft())
    change(export)
    return verify(export.write(tmp_path / "out"))


def messages(report: VerifyReport) -> str:
    return "\n".join(f"{finding.subject}: {finding.message}" for finding in report.errors)


@pytest.mark.parametrize("convention", LOADABLE)
@pytest.mark.parametrize("family", DraftFamily)
def test_a_draft_of_this_format_passes_beside_its_source(
    tmp_path: Path, family: DraftFamily, convention: Convention
) -> None:
    if family is DraftFamily.DEEPSEEK_MLA and convention is Convention.SPECULATORS:
        pytest.skip("speculators has no MLA draft")
    draft = TinyDraft(family=family, convention=convention, q_lora_rank=32)
    export = Export(draft)
    compressed(export)

    report = verify(export.write(tmp_path / "out"), write_tiny_draft(tmp_path / "source", draft))

    assert report.ok, messages(report)
    assert report.num_quantized == (5 if family is DraftFamily.DEEPSEEK_MLA else 4)
    assert {module.scheme for module in report.modules if module.dtype == FP8} == {"ptpc_fp8"}
    assert {module.scale_shape[1:] for module in report.modules if module.scale_shape} == {(1,)}


def test_a_wrong_weight_is_found_beside_the_source(tmp_path: Path) -> None:
    export = Export(TinyDraft())
    compressed(export)
    export.tensors[export.find("down_proj.weight")][40, 7] = 448.0
    export.tensors[export.find("o_proj.weight_scale")][3] *= 1.1

    report = verify(export.write(tmp_path / "out"), write_tiny_draft(tmp_path / "source"))

    assert "1 of 8192 weights are further" in messages(report)
    assert "1 of 64 scales are not the largest weight" in messages(report)


def published(export: Export) -> None:
    """As the card of k-l-lambda/kimi-k2.6-eagle3-mla-fp8 says: fc in FP8; kv_b_proj, head and embedding kept."""
    export.quantize("fc.weight")
    compressed(export)
    export.quant["ignore"] = ["lm_head", "embed_tokens", r"re:.*kv_b_proj.*"]


def by_class(export: Export) -> None:
    """Every linear but fc, by the class that vLLM makes of it."""
    compressed(export)
    kinds = ["DeepSeekV2FusedQkvAProjLinear", "ColumnParallelLinear", "RowParallelLinear"]
    export.quant["config_groups"] = {"group_0": group(targets=kinds)}
    export.quant["ignore"] = [r"re:.*kv_b_proj.*"]


GOOD_MLA: dict[str, Callable[[Export], None]] = {
    "compressed-tensors as published for Kimi": published,
    "compressed-tensors by the classes of an MLA draft": by_class,
}


@pytest.mark.parametrize(("name", "num_quantized"), [*zip(GOOD_MLA, (6, 5), strict=True)])
def test_an_mla_draft_passes(tmp_path: Path, name: str, num_quantized: int) -> None:
    report = verified(tmp_path, GOOD_MLA[name], MLA)

    assert report.ok, messages(report)
    assert report.num_quantized == num_quantized


GOOD: dict[str, Callable[[Export], None]] = {
    "compressed-tensors static per tensor": also(per_tensor),
    "compressed-tensors static beside channels": also(channel_static),
    "compressed-tensors with a KV cache": also(kv_cache),
    "compressed-tensors, method spelled with _": also(lambda e: e.quant.update(quant_method="Compressed_Tensors")),
    "compressed-tensors by two groups": also(
        lambda e: e.quant.update(
            config_groups={
                "a": group(targets=[r"re:.*\.down_proj$", r"re:.*\.o_proj$"], format="float-quantized"),
                "b": group(targets=["QKVParallelLinear", "MergedColumn"], format="float-quantized"),
            },
            format="mixed-precision",
        )
    ),
    "compressed-tensors without an ignore list": also(fc_too),
    "compressed-tensors with the head": also(head_too),
    "compressed-tensors with an attention group": also(
        lambda e: e.quant["config_groups"].update(attention={"targets": ["LlamaAttention"], "weights": None})
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_spelling_of_a_sound_draft_passes(tmp_path: Path, name: str) -> None:
    report = verified(tmp_path, GOOD[name])

    assert report.ok, messages(report)
    assert report.num_quantized >= 4


def ignoring(*entries: str) -> Callable[[Export], None]:
    return also(lambda export: export.quant.update(ignore=list(entries)))


def keeping(part: str, *entries: str) -> Callable[[Export], None]:
    """An exporter that kept one matrix in BF16 and thought that the entries say so."""

    def bug(export: Export) -> None:
        export.restore(f"{part}.weight")
        compressed(export)
        export.quant["ignore"] = [*GOOD_IGNORE, *entries]

    return bug


def grouped(**changes: Any) -> Callable[[Export], None]:
    return also(lambda export: export.quant["config_groups"]["group_0"].update(changes))


def scaled(change: Callable[[Any], Any]) -> Callable[[Export], None]:
    return also(lambda export: export.change("down_proj.weight_scale", change))


BUGS: dict[str, tuple[Callable[[Export], None], str]] = {
    # ignore: what is kept must be kept under the name that the engine asks with
    "fc by its name on disk": (
        ignoring(*NAIVE_IGNORE),
        r"model.fc: fc.weight is BF16.*ignore has 'fc', which does not match.*Add 'model.fc' to quantization_config.i",
    ),
    "fc as an unanchored expression": (ignoring("re:fc"), "ignore has 're:fc', which does not match"),
    "nothing ignored": (ignoring(), "no entry of ignore matches the name 'model.fc'"),
    "ignore is null": (also(lambda e: e.quant.update(ignore=None)), "ignore is None, but must be a list.*TypeError"),
    "not an expression": (ignoring("model.fc", "re:*fc"), "quantization_config.ignore has 're:.fc', no regular expr"),
    "o_proj by its name on disk": (keeping("o_proj", "midlayer.self_attn.o_proj"), "o_proj', which does not match"),
    "q_proj alone": (keeping("q_proj", r"re:.*\.q_proj$"), "qkv_proj: its parts disagree"),
    "quantized, but ignored": (
        ignoring(*GOOD_IGNORE, r"re:.*\.down_proj$"),
        r"down_proj.weight is F8_E4M3, but vLLM builds a parameter in the model's dtype.*Take it out of ignore",
    ),
    # targets: what is quantized must be meant by one
    "a target by its name on disk": (
        grouped(targets=["midlayer.mlp.down_proj"]),
        "down_proj.weight is F8_E4M3, but vLLM builds .*no target of config_groups means it",
    ),
    "targets of parts of fused modules": (
        grouped(targets=[r"re:.*\.(q|k|v|o|gate|up|down)_proj$"]),
        "q_proj.weight is F8_E4M3, but vLLM builds a parameter in the model's dtype",
    ),
    "one class only": (grouped(targets=["RowParallelLinear"]), "gate_proj.weight is F8_E4M3, but vLLM builds a param"),
    "targets that mean the head": (
        also(lambda e: e.quant.update(config_groups={"g": group(targets=["re:.*"])}, ignore=["model.fc"])),
        r"lm_head: lm_head.weight is BF16, but vLLM builds an FP8 parameter.*Add 'lm_head' to quantization_config.i",
    ),
    "no targets": (grouped(targets=None), "group_0 has no targets, a list of strings: vLLM stops"),
    "no groups": (also(lambda e: e.quant.update(config_groups={})), "down_proj.weight is F8_E4M3.*config_groups is em"),
    "groups is null": (also(lambda e: e.quant.update(config_groups=None)), "config_groups is no object"),
    # specs
    "no weights": (grouped(weights=None), "group_0.weights is None, but must be an object: vLLM stops with Validation"),
    "an unknown key": (grouped(weights=WEIGHTS | {"scale": 1}), "has 'scale', which the library does not know"),
    "per-token weights": (grouped(weights=WEIGHTS | {"strategy": "token"}), "says strategy 'token' without dynamic"),
    "dynamic weights per channel": (grouped(weights=WEIGHTS | {"dynamic": True}), "is dynamic with strategy 'channel'"),
    "asymmetric weights": (grouped(weights=WEIGHTS | {"symmetric": False}), "not symmetric or per token: vLLM stops"),
    "static per-token activations": (grouped(input_activations=INPUTS | {"dynamic": False}), "'token' without dynamic"),
    "weights only": (grouped(input_activations=None), "activations in high precision: vLLM has a kernel .* CUDA only"),
    "a format without activations": (
        also(lambda e: e.quant.update(format="pack-quantized")),
        "is written as format 'pack-quantized', for which vLLM has no FP8 scheme",
    ),
    "no format": (also(lambda e: e.quant.pop("format")), "is written as format None"),
    "per-tensor config over per-channel scales": (
        grouped(weights=WEIGHTS | {"strategy": "tensor"}),
        r"down_proj.weight_scale has shape \[64, 1\], but vLLM builds \[\]",
    ),
    "static config without input_scale": (
        grouped(input_activations=INPUTS | {"strategy": "tensor", "dynamic": False}),
        "down_proj.input_scale, which stays at the lowest",
    ),
    "no scales of the KV cache": (
        also(lambda e: e.quant.update(kv_cache_scheme=KV_CACHE)),
        r"k_scale and \S+v_scale: an FP8 cache is stored with scale 1",
    ),
    "a KV cache of integers": (
        also(lambda e: e.quant.update(kv_cache_scheme=KV_CACHE | {"type": "int"})),
        "kv_cache_scheme is no symmetric FP8 scheme",
    ),
    # scales
    "scale as a row": (scaled(lambda s: s[:, 0]), r"weight_scale has shape \[64\], but vLLM builds \[64, 1\]"),
    "scale laid on its side": (scaled(lambda s: s.T.contiguous()), r"weight_scale has shape \[1, 64\], but vLLM"),
    "a negative scale": (scaled(lambda s: -s), "must be positive"),
    "no scale of one part": (
        also(lambda e: e.drop("k_proj.weight_scale")),
        "nothing on disk fills model.layers.0.self_attn.k_proj.we",
    ),
    "Quark's scales": (
        also(lambda e: e.tensors.update({n: e.tensors[n][:, 0] for n in e.tensors if n.endswith("weight_scale")})),
        r"q_proj.weight_scale has shape \[64\], but vLLM builds \[64, 1\] from config.json and stops",
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_called_broken_with_its_reason(tmp_path: Path, bug: str) -> None:
    seed, reason = BUGS[bug]

    report = verified(tmp_path, seed)

    assert not report.ok
    assert re.search(reason, messages(report)), messages(report)


def test_replay_casts_what_vllm_would_cast_under_this_config(tmp_path: Path) -> None:
    export = Export(TinyDraft())
    ignoring(*NAIVE_IGNORE)(export)

    assert miscast_weights(Checkpoint.open(export.write(tmp_path / "out"))) == ("fc.weight",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            grouped(weights=WEIGHTS | {"type": "int"}),
            r"group_0 asks for weights in 8-bit int per channel, which is not",
        ),
        (grouped(weights=WEIGHTS | {"num_bits": 4}), "weights in 4-bit float per channel, which is not covered"),
        (grouped(weights={"strategy": "channel"}), "8-bit int per channel"),
        (
            grouped(weights=WEIGHTS | {"strategy": "block", "block_structure": [128, 128]}),
            "8-bit float per block, which is not covered",
        ),
        (grouped(input_activations=INPUTS | {"type": "int"}), "input_activations in 8-bit int per token"),
        (grouped(output_activations=INPUTS), "quantizes output_activations, which is not covered"),
        (also(lambda e: e.quant.update(sparsity_config={"format": "sparse-24-bitmask"})), "sparsity_config is set"),
        (also(lambda e: e.quant.update(transform_config={"config_groups": {}})), "transform_config is set"),
        (
            also(lambda e: e.quant.update(kv_cache_scheme=KV_CACHE | {"strategy": "attn_head"})),
            "kv_cache_scheme has a scale per head, which is not covered",
        ),
        (lambda e: e.quant.update(quant_method="gptq"), "is 'gptq', but only 'quark' and 'compressed-tensors'"),
        (lambda e: e.config.update(compression_config=e.config.pop("quantization_config")), "its compression_config"),
    ],
)
def test_what_no_rule_covers_is_said_to_be_so_and_not_passed(
    tmp_path: Path, change: Callable[[Export], None], said: str
) -> None:
    with pytest.raises(VerificationError, match=said):
        verified(tmp_path, change)


def test_several_things_that_no_rule_covers_are_all_named(tmp_path: Path) -> None:
    both = also(lambda e: e.quant.update(sparsity_config={"a": 1}, transform_config={"b": 2}))

    with pytest.raises(VerificationError, match=r"(?s)2 problems.*sparsity_config.*transform_config.*Nothing can be"):
        verified(tmp_path, both)


def test_the_scales_of_a_kv_cache_fill_the_attention(tmp_path: Path) -> None:
    report = verified(tmp_path, GOOD["compressed-tensors with a KV cache"])

    (cache,) = (module for module in report.modules if module.name.endswith(".attn"))
    assert cache.sources == ("midlayer.self_attn.k_scale", "midlayer.self_attn.v_scale")
    assert cache.decided_by == "kv_cache_scheme"


def test_a_kv_cache_scheme_is_a_warning(tmp_path: Path) -> None:
    report = verified(tmp_path, GOOD["compressed-tensors with a KV cache"])

    assert any("keeps keys and values in FP8" in warning.message for warning in report.warnings)


@pytest.mark.parametrize("value", [None, 0, -1, 1.5, "x", [], [None], {}, {"a": 1}, True], ids=repr)
def test_no_value_of_a_config_field_is_a_traceback(tmp_path: Path, value: object) -> None:
    """Broken, fine or not covered, but always an answer: for every field, whatever it holds."""
    export = Export(TinyDraft())
    also(kv_cache)(export)
    out = export.write(tmp_path / "out")
    fields: list[tuple[str, ...]] = [(key,) for key in sorted(export.quant.keys() - {"quant_method"})]
    fields += [("config_groups", "group_0")]
    fields += [("config_groups", "group_0", key) for key in (*group(), "format")]
    fields += [("config_groups", "group_0", "weights", key) for key in (*WEIGHTS, "another")]
    for path in fields:
        write_config(out, _with(export.config, ("quantization_config", *path), value))
        with suppress(VerificationError):
            verify(out)


def _with(config: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    """A copy with something else at a path."""
    key, *rest = path
    return config | {key: _with(config[key], tuple(rest), value) if rest else value}
