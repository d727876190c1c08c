"""Every difference between the versions, told on a draft that is judged otherwise before and after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from quark_eagle import deploy
from quark_eagle.checkpoint.family import Convention, DraftFamily
from quark_eagle.deploy.verify import VerifyReport, verify
from quark_eagle.deploy.vllm_versions import DIFFERENCES, READ, installed_version, rules_for
from quark_eagle.errors import UsageError
from tests.deploy.compressed import also, compressed, head_too
from tests.deploy.export import GOOD_EXCLUDE, INPUT, WEIGHT, Export
from tests.deploy.static import scale_cache
from tests.tiny import TinyDraft

MLA = TinyDraft(family=DraftFamily.DEEPSEEK_MLA, q_lora_rank=32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A draft that two versions judge differently.

    `before` and `after` are words of an error, and empty where there is none; whether loading stops is part of it.
    """

    draft: TinyDraft
    change: Callable[[Export], None]
    before: str
    after: str = ""


def as_is(export: Export) -> None:
    pass


def kept_qkv(export: Export) -> None:
    for part in "qkvo":
        export.restore(f"{part}_proj.weight")
    export.quant["exclude"] = [*GOOD_EXCLUDE, r"re:.*\.self_attn\..*"]


def stray(name: str) -> Callable[[Export], None]:
    def change(export: Export) -> None:
        export.tensors[name] = export.tensors["norm.weight"].clone()

    return change


def in_blocks(export: Export) -> None:
    import torch

    export.quant["global_quant_config"] |= {
        "weight": WEIGHT | {"qscheme": "per_block", "block_size": [128, 128]},
        "input_tensors": INPUT | {"qscheme": "per_group", "group_size": 128},
    }
    for name in [name for name in export.tensors if name.endswith("weight_scale")]:
        rows, columns = export.tensors[name.removesuffix("_scale")].shape
        export.tensors[name] = torch.full((-(-rows // 128), -(-columns // 128)), 0.01)


def config(**changes: object) -> Callable[[Export], None]:
    return lambda export: export.config.update(changes)


def meaning_all_but_fc(export: Export) -> None:
    """Targets that leave ``fc`` out, in place of an entry of ``ignore``."""
    export.quant["config_groups"]["group_0"]["targets"] = ["QKVParallel", "Merged", "RowParallel"]
    export.quant["ignore"] = []


def whole_vocabulary_with_map(export: Export) -> None:
    import torch

    export.tensors["d2t"] = torch.zeros(256, dtype=torch.int64)


def norm_before_fc_in_eagle_config(export: Export) -> None:
    import torch

    export.config["eagle_config"] = {"norm_before_fc": True}
    export.tensors["input_norm.weight"] = torch.ones(192, dtype=torch.bfloat16)


def cache_as_quark_calls_it(export: Export) -> None:
    scale_cache(export)
    for letter in "kv":
        export.rename(f"self_attn.{letter}_scale", f"midlayer.self_attn.{letter}_proj.output_scale")


TOLD: dict[tuple[str, str], Told] = {
    ("0.30", "FP8 in blocks"): Told(draft=TinyDraft(), change=in_blocks, before="no FP8 scheme for and stops"),
    ("0.30", "weight and input_tensors"): Told(
        draft=TinyDraft(),
        change=lambda export: export.quant.update(global_quant_config={"weight": [WEIGHT], "input_tensors": [INPUT]}),
        before="has weight or input_tensors in a list: vllm-0.29 stops",
    ),
    ("0.30", "The map of"): Told(
        draft=TinyDraft(draft_vocab=None), change=whole_vocabulary_with_map, before="", after="no parameter to go to"
    ),
    ("0.29", "quantization_config must"): Told(
        draft=TinyDraft(), change=lambda export: export.quant.pop("layer_quant_config"), before="AttributeError"
    ),
    ("0.26", "qkv_proj of a Llama"): Told(
        draft=TinyDraft(), change=kept_qkv, before="does not match the name 'model.layers.<N>.qkv_proj'"
    ),
    ("0.25", "A bias"): Told(
        draft=TinyDraft(),
        change=stray("midlayer.self_attn.o_proj.bias"),
        before="no parameter to go to",
        after="dropped without a word",
    ),
    ("0.25", "A tensor"): Told(
        draft=MLA, change=stray("midlayer.extra.weight"), before="dropped without a word", after="no parameter to go to"
    ),
    ("0.25", "fc_norm and norm_output"): Told(
        draft=TinyDraft(convention=Convention.SPECULATORS, fc_norm=True), change=as_is, before="no parameter to go to"
    ),
    ("0.24", "There are no Qwen3"): Told(
        draft=TinyDraft(family=DraftFamily.QWEN3), change=as_is, before="has no Eagle3 draft class Eagle3Qwen3"
    ),
    ("0.23", "Scales of a KV cache"): Told(
        draft=TinyDraft(), change=cache_as_quark_calls_it, before="", after="is taken for a part of qkv_proj"
    ),
    ("0.23", "The fc_norm of an MLA"): Told(
        draft=TinyDraft(family=DraftFamily.DEEPSEEK_MLA, q_lora_rank=32, fc_norm=True),
        change=as_is,
        before="fc_norm, which vllm-0.22 does not know: it is loaded, but never applied",
    ),
    ("0.22", "fc takes exactly"): Told(
        draft=TinyDraft(num_aux=4, aux_layer_ids=(1, 3, 5, 7)), change=as_is, before=r"vLLM builds [64, 192]"
    ),
    ("0.22", "norm_before_fc"): Told(
        draft=TinyDraft(), change=norm_before_fc_in_eagle_config, before="it reads the flag at the top level only"
    ),
    ("0.22", "There are no P-Eagle"): Told(
        draft=TinyDraft(convention=Convention.SPECULATORS),
        change=config(speculators_model_type="peagle"),
        before="says speculators_model_type 'peagle', but an Eagle3 draft says eagle3",
    ),
    ("0.21", "A module that no target"): Told(
        draft=TinyDraft(),
        change=also(meaning_all_but_fc),
        before="no target of config_groups means 'model.fc': vllm-0.20 stops with ValueError",
    ),
    ("0.20", "The LM head"): Told(
        draft=TinyDraft(), change=also(head_too), before="lm_head: cannot be quantized: vLLM builds it in the model's"
    ),
    ("0.20", "There is no class"): Told(
        draft=TinyDraft(),
        change=config(architectures=["Eagle3MiniMaxM2ForCausalLM"]),
        before="has no Eagle3 draft class Eagle3MiniMaxM2",
    ),
}


def errors_of(report: VerifyReport) -> str:
    return "\n".join(f"{finding.subject}: {finding.message}" for finding in report.errors)


def version_before(minor: str) -> str:
    return f"0.{int(minor.partition('.')[2]) - 1}"


@pytest.mark.parametrize(("minor", "about"), TOLD, ids=[f"before {minor}: {about}" for minor, about in TOLD])
def test_a_version_is_judged_by_its_own_rules(tmp_path: Path, minor: str, about: str) -> None:
    told = TOLD[minor, about]
    export = Export(told.draft)
    told.change(export)
    directory = export.write(tmp_path / "draft")

    for version, said in ((version_before(minor), told.before), (minor, told.after)):
        report = verify(directory, engine_version=version)
        assert report.engine == f"vllm-{version}"
        assert report.ok == (not said), errors_of(report)
        assert said in errors_of(report)


def test_every_difference_is_told_on_a_draft() -> None:
    assert len(TOLD) == len(DIFFERENCES)
    for difference in DIFFERENCES:
        assert [about for minor, about in TOLD if minor == difference.before and difference.says.startswith(about)]


def test_norm_output_is_an_error_where_it_is_not_known(tmp_path: Path) -> None:
    directory = Export(TinyDraft(norm_output=True)).write(tmp_path / "draft")

    assert "says norm_output, which vllm-0.21 does not know" in errors_of(verify(directory, engine_version="0.21"))
    assert verify(directory, engine_version="0.22").ok


@pytest.mark.parametrize("version", [version for version in READ if version < "0.23"])
def test_quarks_own_names_fill_the_cache_where_they_are_taken(tmp_path: Path, version: str) -> None:
    export = Export(TinyDraft())
    cache_as_quark_calls_it(export)
    report = verify(export.write(tmp_path / "draft"), engine_version=version)
    (cache,) = (module for module in report.modules if module.name.endswith(".attn"))
    assert {parameter.name: parameter.sources for parameter in cache.parameters} == {
        "model.layers.0.self_attn.attn.k_scale": ("midlayer.self_attn.k_proj.output_scale",),
        "model.layers.0.self_attn.attn.v_scale": ("midlayer.self_attn.v_proj.output_scale",),
    }


def test_quarks_own_names_are_no_names_of_compressed_tensors(tmp_path: Path) -> None:
    """Its config has no `get_cache_scale` of its own in any version."""
    export = Export(TinyDraft())
    compressed(export)
    export.tensors["midlayer.self_attn.k_proj.output_scale"] = torch.tensor(0.25)
    assert "is taken for a part of qkv_proj" in errors_of(verify(export.write(tmp_path / "d"), engine_version="0.22"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Export(TinyDraft()).write(tmp_path_factory.mktemp("good") / "draft")


@pytest.mark.parametrize("version", READ)
def test_a_good_llama_draft_is_good_in_every_version_that_was_read(good: Path, version: str) -> None:
    report = verify(good, engine_version=version)

    assert report.ok
    assert not report.warnings
    assert report.engine == f"vllm-{version.rpartition('.')[0]}"


@pytest.mark.parametrize(
    ("version", "applied"),
    [("0.33.0", "0.32"), ("0.18.1", "0.19"), ("0.28.1", "0.28"), ("0.26.0rc2", "0.26"), ("0.32.1.dev4+g1234", "0.32")],
)
def test_an_unread_version_says_so_and_takes_the_nearest(good: Path, version: str, applied: str) -> None:
    report = verify(good, engine_version=version)

    (warning,) = report.warnings
    assert warning.subject == f"vLLM {version}"
    assert f"were not read (read were 0.19.0 to 0.32.0): the rules of {applied} are applied" in warning.message
    assert json.loads(json.dumps(report.to_json()))["engine_version"] == version


@pytest.mark.parametrize("version", ["0.19.1+rocm700", "0.32", "0.32.0+cpu"])
def test_a_build_of_a_read_version_is_that_version(version: str) -> None:
    assert rules_for(version).note == ""


def test_without_a_version_the_installed_one_is_meant() -> None:
    assert rules_for().version == installed_version()


@pytest.mark.parametrize("version", ["newest", "", "0", "1.x"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(UsageError, match="is no version of vLLM"):
        rules_for(version)


def test_the_readme_of_deploy_holds_the_table_of_differences() -> None:
    readme = (Path(deploy.__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = [f"| {each.before} | {each.says} | `{each.source}` |" for each in DIFFERENCES]

    assert "\n".join(["| before | what was otherwise | read in |", "| --- | --- | --- |", *rows]) in readme
    assert ", ".join(READ) in " ".join(readme.split())
