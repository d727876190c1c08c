from __future__ import annotations

import json
from pathlib import Path

import pytest

from quark_eagle.checkpoint.family import Convention, DraftFamily
from quark_eagle.deploy.findings import FP8
from quark_eagle.deploy.verify import VerifyReport, verify
from quark_eagle.errors import CheckpointError, UsageError, VerificationError
from tests.deploy.export import GOOD_EXCLUDE, NAIVE_EXCLUDE, Export
from tests.tiny import TinyDraft, write_config, write_tiny_draft

LOADABLE = [Convention.MIDLAYER, Convention.LAYERS, Convention.SPECULATORS]


def verify_export(tmp_path: Path, export: Export, **options: object) -> VerifyReport:
    return verify(export.write(tmp_path / "out"), **options)  # type: ignore[arg-type]


def messages(report: VerifyReport) -> str:
    return "\n".join(f"{finding.subject}: {finding.message}" for finding in report.errors)


@pytest.mark.parametrize("convention", LOADABLE)
@pytest.mark.parametrize("family", DraftFamily)
def test_a_draft_exported_as_it_should_be_passes_beside_its_source(
    tmp_path: Path, family: DraftFamily, convention: Convention
) -> None:
    if family is DraftFamily.DEEPSEEK_MLA and convention is Convention.SPECULATORS:
        pytest.skip("speculators has no MLA draft")
    draft = TinyDraft(family=family, convention=convention, q_lora_rank=32)
    source = write_tiny_draft(tmp_path / "source", draft)

    report = verify_export(tmp_path, Export(draft), source=source)

    assert report.ok, messages(report)
    # The MLA draft is so tiny that its latent rows are no multiple of 16.
    assert all("multiples of 16" in warning.message for warning in report.warnings)
    assert report.num_quantized == (5 if family is DraftFamily.DEEPSEEK_MLA else 4)


@pytest.mark.parametrize("family", DraftFamily)
def test_a_bf16_draft_passes_and_nothing_is_built_in_fp8(tmp_path: Path, family: DraftFamily) -> None:
    report = verify(write_tiny_draft(tmp_path / "draft", family=family))

    assert report.ok, messages(report)
    assert report.num_quantized == 0
    assert {module.dtype for module in report.modules} == {"BF16", "I64"}


def test_fused_parts_are_one_module_with_one_scale_per_row(tmp_path: Path) -> None:
    report = verify_export(tmp_path, Export(TinyDraft()), num_target_layers=61)

    qkv = next(module for module in report.modules if module.name.endswith("qkv_proj"))
    assert qkv.name == "model.layers.0.self_attn.qkv_proj"
    assert qkv.lookup == "model.layers.61.self_attn.qkv_proj"
    assert qkv.parts == ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    assert (qkv.dtype, qkv.scheme, qkv.shape, qkv.scale_shape) == (FP8, "ptpc_fp8", (128, 128), (128,))
    assert qkv.sources[0] == "midlayer.self_attn.q_proj.weight"
    assert "midlayer.self_attn.v_proj.weight_scale" in qkv.sources


def test_quarks_own_export_is_broken_and_the_reason_says_all_of_it(tmp_path: Path) -> None:
    report = verify_export(tmp_path, Export(TinyDraft(), NAIVE_EXCLUDE))

    assert not report.ok
    (finding,) = report.errors
    assert finding.subject == "model.fc"
    for said in (
        "fc.weight is BF16",
        "vLLM builds an FP8 parameter",
        "exclude has 'fc'",
        "the name 'model.fc'",
        "every proposal is rejected",
        "the text stays right",
        "Add 'model.fc' to quantization_config.exclude",
    ):
        assert said in finding.message
    assert [module.name for module in report.modules if module.status == "error"] == ["model.fc"]


def test_qwen3_looks_its_qkv_proj_up_without_self_attn(tmp_path: Path) -> None:
    def keep_attention(*entries: str) -> Export:
        export = Export(TinyDraft(family=DraftFamily.QWEN3))
        for part in "qkv":
            export.restore(f"{part}_proj.weight")
        export.quant["exclude"] = [*GOOD_EXCLUDE, *entries]
        return export

    by_full_name = verify(keep_attention(r"re:.*self_attn\.qkv_proj$").write(tmp_path / "full"))
    by_module = verify(keep_attention(r"re:.*\.qkv_proj$").write(tmp_path / "module"))

    assert "model.layers.<N>.qkv_proj" in {module.lookup for module in by_module.modules}
    assert by_module.ok, messages(by_module)
    assert not by_full_name.ok


@pytest.mark.parametrize("family", [DraftFamily.LLAMA, DraftFamily.QWEN3])
def test_names_beginning_with_model_do_not_load(tmp_path: Path, family: DraftFamily) -> None:
    report = verify(write_tiny_draft(tmp_path / "draft", family=family, convention=Convention.MODEL_LAYERS))

    assert "vLLM puts another before it" in messages(report)


def test_fc_in_fp8_passes_where_nothing_excludes_it(tmp_path: Path) -> None:
    export = Export(TinyDraft(), ["lm_head"])
    export.quantize("fc.weight")

    report = verify_export(tmp_path, export)

    assert report.ok, messages(report)
    assert next(module for module in report.modules if module.name == "model.fc").scale_shape == (64,)


def test_whole_fused_modules_kept_by_their_fused_names_pass(tmp_path: Path) -> None:
    export = Export(TinyDraft(), [*GOOD_EXCLUDE, r"re:.*\.gate_up_proj$"])
    export.restore("gate_proj.weight")
    export.restore("up_proj.weight")

    report = verify_export(tmp_path, export)

    assert report.ok, messages(report)
    assert report.num_quantized == 3


LLAMA_VARIANTS = {
    "layers": TinyDraft(num_layers=2, convention=Convention.LAYERS),
    "biases": TinyDraft(attention_bias=True, mlp_bias=True),
    "norms": TinyDraft(fc_norm=True, norm_before_fc=True, norm_output=True),
    "target_hidden_size": TinyDraft(target_hidden=128, embed_tokens=True),
    "aux": TinyDraft(num_aux=4, aux_layer_ids=(1, 3, 5, 7)),
    "all-shared": TinyDraft(draft_vocab=None, lm_head=False),
    "own-tables": TinyDraft(draft_vocab=None, embed_tokens=True),
    "no-t2d": TinyDraft(t2d=False),
    "head_dim": TinyDraft(head_dim=32, aux_ids_in_eagle_config=True),
}


@pytest.mark.parametrize("draft", LLAMA_VARIANTS.values(), ids=LLAMA_VARIANTS)
def test_every_variant_of_a_llama_draft_passes(tmp_path: Path, draft: TinyDraft) -> None:
    report = verify_export(tmp_path, Export(draft), source=write_tiny_draft(tmp_path / "source", draft))

    assert report.ok, messages(report)


def test_the_second_layer_is_looked_up_one_further(tmp_path: Path) -> None:
    draft = TinyDraft(num_layers=2, convention=Convention.LAYERS)

    names = [module.lookup for module in verify_export(tmp_path, Export(draft), num_target_layers=61).modules]

    assert "model.layers.61.mlp.down_proj" in names
    assert "model.layers.62.mlp.down_proj" in names


def test_an_entry_for_one_number_of_target_layers_holds_for_that_target_only(tmp_path: Path) -> None:
    export = Export(TinyDraft(), [*GOOD_EXCLUDE, "model.layers.61.mlp.down_proj"])
    export.restore("down_proj.weight")
    out = export.write(tmp_path / "out")

    assert verify(out, num_target_layers=61).ok
    assert not verify(out, num_target_layers=30).ok
    anywhere = verify(out)
    assert anywhere.ok
    assert "for targets with 61 layers" in anywhere.warnings[0].message


def test_a_rounded_scale_is_a_warning_without_the_source_and_an_error_with_it(tmp_path: Path) -> None:
    import torch

    source = write_tiny_draft(tmp_path / "source")
    export = Export(TinyDraft())
    scale = export.find("down_proj.weight_scale")
    export.tensors[scale] = export.tensors[scale].to(torch.bfloat16)
    out = export.write(tmp_path / "out")

    assert verify(out).ok
    assert "the scale is rounded" in verify(out).warnings[0].message
    assert "scales are not the largest weight" in messages(verify(out, source))


def test_sizes_that_gpu_kernels_cannot_take_are_a_warning(tmp_path: Path) -> None:
    report = verify_export(tmp_path, Export(TinyDraft(intermediate=120)))

    assert report.ok
    assert "multiples of 16" in report.warnings[0].message


def test_a_method_without_rules_is_not_judged(tmp_path: Path) -> None:
    export = Export(TinyDraft())
    export.quant["quant_method"] = "gptq"

    with pytest.raises(VerificationError, match="only 'quark' and 'compressed-tensors' are known here"):
        verify_export(tmp_path, export)


def test_what_is_no_version_is_refused(tiny_draft: Path) -> None:
    with pytest.raises(UsageError, match="'newest': is no version of vLLM"):
        verify(tiny_draft, engine_version="newest")


def test_what_cannot_be_read_is_not_called_broken(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="config"):
        verify(tmp_path)


def test_the_report_is_json_with_every_module_and_finding(tmp_path: Path) -> None:
    report = verify_export(tmp_path, Export(TinyDraft(), NAIVE_EXCLUDE))
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))

    assert document["schema_version"] == 1
    assert document["verdict"] == "broken"
    assert document["num_errors"] == 1
    assert [module["status"] for module in document["modules"]].count("error") == 1
    assert document["findings"][0]["severity"] == "error"


@pytest.mark.parametrize("value", [None, 0, -1, 1.5, "x", [], [None], {}, {"a": 1}, True], ids=repr)
def test_no_value_of_a_config_field_is_a_traceback(tmp_path: Path, value: object) -> None:
    """Broken or fine, but always an answer: for every field, of the draft and of its quantization_config."""
    export = Export(TinyDraft(family=DraftFamily.DEEPSEEK_MLA, q_lora_rank=32))
    out = export.write(tmp_path / "out")
    extra = (
        "eagle_config",
        "draft_vocab_size",
        "target_hidden_size",
        "num_aux_hidden_states",
        "head_dim",
        "q_lora_rank",
    )
    for path in [(key,) for key in (*export.config, *extra)] + [
        ("quantization_config", key) for key in sorted(export.quant.keys() - {"quant_method"})
    ]:
        config = json.loads(json.dumps(export.config))
        field = config if len(path) == 1 else config[path[0]]
        field[path[-1]] = value
        write_config(out, config)
        verify(out)
