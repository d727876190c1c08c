from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quark_eagle.checkpoint.family import Convention, DraftFamily
from quark_eagle.cli.app import app
from tests.broken.drafts import DRAFTS
from tests.tiny import TinyDraft, tiny_config, write_config, write_tiny_draft


def inspect(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)], env={"NO_COLOR": "1", "COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    return result.stdout


def document(draft: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(inspect(draft, "--json"))
    return content


def test_every_tensor_has_a_row_with_what_fp8_does(tiny_draft: Path) -> None:
    text = inspect(tiny_draft)
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "quantize: linear weight" in rows["midlayer.self_attn.q_proj.weight"]
    assert "keep: norm" in rows["midlayer.hidden_norm.weight"]
    assert "keep: fc stays" in rows["fc.weight"]
    assert "BF16    64 × 128   16.4 kB   8.45 kB" in rows["midlayer.mlp.down_proj.weight"]
    assert "-33 %" in rows["15"]


def test_sizes_and_switches_are_shown(tmp_path: Path) -> None:
    text = inspect(write_tiny_draft(tmp_path, norm_before_residual=True, fc_norm=True, target_hidden=48))
    assert "hidden size 64, intermediate size 128, 4 heads and 2 KV heads of width 16" in text
    assert "reads 3 aux hidden states of width 48, target layers 2, 5, 8" in text
    assert "proposes from 96 of 256 tokens" in text
    assert "with norm_before_residual, fc_norm" in text
    assert "without embed_tokens.weight: an engine shares the target's" in text


def test_the_json_is_one_object_with_bytes_before_and_after(tiny_draft: Path) -> None:
    content = document(tiny_draft)
    assert content["schema_version"] == 1
    assert (content["family"], content["convention"], content["is_quantized"]) == ("llama", "midlayer", False)
    assert content["num_tensors"] == len(content["tensors"]) == 15
    for key in ("size_bytes", "fp8_size_bytes"):
        assert content[key] == sum(tensor[key] for tensor in content["tensors"])
    assert content["geometry"]["aux_layer_ids"] == [2, 5, 8]
    traffic = content["step_weight_traffic"]
    assert traffic["fp8_every_step_bytes"] < traffic["every_step_bytes"]
    assert traffic["borrowed_from_target"] == ["embed_tokens.weight"]


@pytest.mark.parametrize("convention", Convention)
def test_the_convention_changes_names_and_nothing_else(convention: Convention, tmp_path: Path) -> None:
    ours = document(write_tiny_draft(tmp_path / "a", convention=convention))
    usual = document(write_tiny_draft(tmp_path / "b"))
    assert ours["convention"] == convention.value
    for key in ("family", "geometry", "flags", "size_bytes", "fp8_size_bytes", "step_weight_traffic"):
        assert ours[key] == usual[key]


def test_mla_keeps_kv_b_proj(tmp_path: Path) -> None:
    content = document(write_tiny_draft(tmp_path, family=DraftFamily.DEEPSEEK_MLA, num_layers=2))
    actions = {tensor["tensor"]: tensor["action"] for tensor in content["tensors"]}
    assert actions["midlayer.self_attn.kv_b_proj.weight"] == "keep"
    assert actions["layers.1.self_attn.q_b_proj.weight"] == "quantize"
    assert content["geometry"]["mla"]["kv_lora_rank"] == 16


def test_it_says_whether_an_engine_loads_a_draft_and_whether_it_can_be_replayed(tmp_path: Path) -> None:
    text = inspect(write_tiny_draft(tmp_path / "good"))
    assert re.search(r"^vllm-\S+ loads it, by its headers\.$", text, re.MULTILINE)
    assert "It can be replayed." in text
    bad = write_tiny_draft(tmp_path / "bad", convention=Convention.MODEL_LAYERS, extra={"logit_scale": 2.0})
    text = inspect(bad)
    assert re.search(r"^vllm-\S+ refuses it:$", text, re.MULTILINE)
    assert "vLLM puts another before it" in " ".join(text.split())
    assert "It cannot be replayed, so its acceptance has to be served:" in text
    assert "logit_scale is 2.0, but replay knows logits as the head gives them." in text
    support = document(bad)["support"]
    assert support["load"]["stops"]
    assert len(support["replay"]["reasons"]) == 1


def test_it_is_honest_where_head_and_embedding_dominate(tmp_path: Path) -> None:
    big = inspect(write_tiny_draft(tmp_path / "big", vocab=4096, draft_vocab=None, embed_tokens=True))
    assert "No engine takes them in FP8" in big
    assert "Measure before you expect a faster draft" in big
    small = inspect(write_tiny_draft(tmp_path / "small"))
    assert "No engine takes them" not in small


def test_a_quantized_draft_is_recognized(tmp_path: Path) -> None:
    draft = DRAFTS["fp8_input"].write(tmp_path)
    assert "already quantized (quark, ptpc_fp8, F8_E4M3): `quantize` would refuse it" in inspect(draft)
    content = document(draft)
    assert content["is_quantized"]
    assert content["quantization"] == "quark, ptpc_fp8, F8_E4M3"
    assert content["size_bytes"] == content["fp8_size_bytes"]


def test_a_6_gb_draft_is_inspected_in_under_a_second(tmp_path: Path) -> None:
    """The published Kimi-K2.5 shape as a sparse file: only its header can have been read."""
    sizes = {"hidden": 7168, "intermediate": 12288, "heads": 64, "kv_heads": 64, "head_dim": 128, "vocab": 163840}
    draft = TinyDraft(**sizes, draft_vocab=None, embed_tokens=True)  # type: ignore[arg-type]
    write_config(tmp_path, tiny_config(draft))
    write_sparse(tmp_path / "model.safetensors", draft)
    inspect(tmp_path)  # imports are paid for once
    start = time.perf_counter()
    text = inspect(tmp_path)
    assert time.perf_counter() - start < 1
    assert "6.36 GB" in text
    assert "5.68 GB" in text


def write_sparse(path: Path, draft: TinyDraft) -> None:
    """A file of that draft's shapes, zeros that take no room on the disk."""
    from tests.tiny import tiny_shapes

    entries, position = {}, 0
    for name, shape in tiny_shapes(draft).items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + position)


def test_inspect_imports_neither_torch_nor_quark(tiny_draft: Path) -> None:
    code = (
        "import sys; from quark_eagle.cli.inspect import inspect;"
        f"inspect({str(tiny_draft)!r}, json_=False);"
        "print([m for m in ('torch', 'quark', 'transformers', 'vllm') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", ["not_a_draft", "pickle_only", "truncated_shard", "config_without_needed_keys"])
def test_a_broken_draft_is_one_message_and_exit_code_5(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(DRAFTS[name].write(tmp_path))])
    assert result.exit_code == 5
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: {tmp_path}")
    assert "Traceback" not in result.stderr
