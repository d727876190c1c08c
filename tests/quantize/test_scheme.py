from __future__ import annotations

from pathlib import Path

import pytest

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import UsageError
from quark_eagle.quantize.scheme import REFUSED, Scheme


def test_each_scheme_says_where_it_runs_and_where_not() -> None:
    for scheme in Scheme:
        assert any(where.runs for where in scheme.engines)
        assert all(where.how for where in scheme.engines)
    static = [where for scheme in Scheme for where in scheme.engines if scheme.needs_calibration]
    assert not any(where.runs for where in static if where.device == "CPU")


def test_what_no_engine_runs_is_refused_with_the_reason() -> None:
    with pytest.raises(
        UsageError,
        match=r"--scheme mx9: .*vLLM has no class for it and stops\. What engines run.*ptpc_fp8, fp8, fp8_ch",
    ):
        Scheme.named("mx9")
    with pytest.raises(UsageError, match="--scheme fp9: is not known"):
        Scheme.named("fp9")


def test_a_checkpoint_is_told_by_its_scales(tmp_path: Path) -> None:
    from tests.deploy.export import Export
    from tests.deploy.static import make_static
    from tests.tiny import TinyDraft, write_tiny_draft

    export = Export(TinyDraft())
    assert Scheme.of(Checkpoint.open(export.write(tmp_path / "dynamic")).tensors) is Scheme.PTPC_FP8
    make_static(export, "per_channel")
    assert Scheme.of(Checkpoint.open(export.write(tmp_path / "channel")).tensors) is Scheme.FP8_CHANNEL_STATIC
    make_static(export)
    assert Scheme.of(Checkpoint.open(export.write(tmp_path / "tensor")).tensors) is Scheme.FP8
    assert Scheme.of(Checkpoint.open(write_tiny_draft(tmp_path / "bf16")).tensors) is None


@pytest.mark.quark
@pytest.mark.vllm
@pytest.mark.usefixtures("real_quark")
def test_every_name_of_quarks_is_made_or_refused_for_vllms_reason() -> None:
    """Asked of both: Quark for its names and configs, vLLM for the class that it would build."""
    from quark.torch import LLMTemplate
    from vllm.model_executor.layers.quantization.quark.quark import QuarkConfig

    template = LLMTemplate.get("llama")
    names = set(template._SCHEME_COLLECTION.get_supported_schemes())
    assert names == ({scheme.value for scheme in Scheme} | set(REFUSED)) - {"fp8_channel_static", "fp8_weight_only"}
    for name in sorted(names & set(REFUSED)):
        config = template.get_config(scheme=name).to_dict() | {
            "export": {"kv_cache_group": [], "pack_method": "reorder"}
        }
        try:
            QuarkConfig.from_config(config)._get_scheme_cls_from_config(config["global_quant_config"])
            has_class = True
        except (NotImplementedError, ValueError):
            has_class = False
        assert has_class == ("but not of FP8" in REFUSED[name]), name
