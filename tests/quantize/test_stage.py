from __future__ import annotations

import hashlib
import json
import resource
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from quark_eagle import errors
from quark_eagle.checkpoint.family import Convention, DraftFamily
from quark_eagle.checkpoint.manifest import Manifest
from quark_eagle.checkpoint.reader import Checkpoint, TensorInfo
from quark_eagle.checkpoint.shard_writer import TensorSpec
from quark_eagle.errors import CheckpointError, NonFiniteWeightError, QuantizationError, StorageError
from quark_eagle.quantize import streaming
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.shards import output_specs
from tests.broken.drafts import DRAFTS
from tests.quantize.conftest import StandIn, quantize
from tests.tiny import TinyDraft, tiny_tensors, write_tensors, write_tiny_draft

VARIANTS: list[dict[str, Any]] = [
    {},
    {"sharded": True, "embed_tokens": True, "draft_vocab": None},
    {"convention": Convention.SPECULATORS, "fc_norm": True},
    {"family": DraftFamily.DEEPSEEK_MLA, "dtype": "float32"},
    {"vocab": 255, "draft_vocab": 95},
]


def raw(directory: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor as it lies on disk."""
    checkpoint = Checkpoint.open(directory)
    return {name: (info.dtype, info.shape, checkpoint.read_bytes(info)) for name, info in checkpoint.tensors.items()}


def beside(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_kept_tensors_are_byte_identical(tmp_path: Path, stand_in: StandIn, variant: dict[str, Any]) -> None:
    source = write_tiny_draft(tmp_path / "bf16", **variant)
    result = quantize(source, tmp_path / "fp8", keep=["*.down_proj"])
    before, after = raw(source), raw(tmp_path / "fp8")
    assert {name: after[name] for name in result.plan.kept} == {name: before[name] for name in result.plan.kept}
    scales = {f"{name}_scale" for name in result.plan.quantized}
    assert {*after} == {*before} | scales
    for name in result.plan.quantized:
        assert after[name][:2] == ("F8_E4M3", before[name][1])
        assert after[f"{name}_scale"][:2] == ("F32", before[name][1][:1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_libraries_read_what_was_written(tmp_path: Path, stand_in: StandIn, variant: dict[str, Any]) -> None:
    source = write_tiny_draft(tmp_path / "bf16", **variant)
    quantize(source, tmp_path / "fp8")
    for path in (tmp_path / "fp8").glob("*.safetensors"):
        original = load_file(source / path.name)
        read = load_file(path)
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
        for name, tensor in original.items():
            scale = read.get(f"{name}_scale")
            back = read[name] if scale is None else read[name].float() * scale[:, None]
            torch.testing.assert_close(back.float(), tensor.float(), rtol=1 / 15, atol=1e-3)


def test_every_field_of_the_config_survives(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16", convention=Convention.SPECULATORS)
    before = json.loads((source / "config.json").read_text())
    before |= {"_torchspec_version": "1.2", "eagle_config": {"a": [1, {"b": None}]}, "rope_theta": 5e6, "ü": "ß"}
    (source / "config.json").write_text(json.dumps(before))
    result = quantize(source, tmp_path / "fp8")
    after = json.loads((tmp_path / "fp8" / "config.json").read_text())
    quantization = after.pop("quantization_config")
    assert after == before
    assert list(after) == list(before)
    assert quantization["exclude"] == list(result.plan.exclude)
    assert quantization["quant_method"] == "quark"


@pytest.mark.vllm
@pytest.mark.parametrize("convention", [Convention.MIDLAYER, Convention.SPECULATORS])
def test_the_installed_vllm_finds_our_quantization_config(
    tmp_path: Path, stand_in: StandIn, convention: Convention
) -> None:
    from vllm.transformers_utils.config import get_config

    quantize(write_tiny_draft(tmp_path / "bf16", convention=convention), tmp_path / "fp8")
    written = json.loads((tmp_path / "fp8" / "config.json").read_text())["quantization_config"]
    assert get_config(str(tmp_path / "fp8"), trust_remote_code=False).quantization_config == written


def test_the_index_names_every_tensor_and_their_bytes(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16", sharded=True)
    quantize(source, tmp_path / "fp8")
    index = json.loads((tmp_path / "fp8" / "model.safetensors.index.json").read_text())
    checkpoint = Checkpoint.open(tmp_path / "fp8")
    assert index["weight_map"] == {name: info.shard for name, info in checkpoint.tensors.items()}
    assert index["metadata"]["total_size"] == checkpoint.size_bytes
    old = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    for name, shard in old.items():
        assert index["weight_map"][name] == shard
        assert index["weight_map"].get(f"{name}_scale", shard) == shard


def test_no_index_appears_where_there_was_none(tmp_path: Path, stand_in: StandIn) -> None:
    quantize(write_tiny_draft(tmp_path / "bf16"), tmp_path / "fp8")
    assert beside(tmp_path / "fp8") == {"config.json", "model.safetensors", "quark_eagle.json"}


def test_small_files_are_carried_and_code_and_pickles_are_not(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16")
    for name in ("tokenizer.json", "README.md", "extra.py", "optimizer.pt", "pytorch_model.bin", "x.pkl", ".hidden"):
        (source / name).write_bytes(name.encode())
    (source / "more").mkdir()
    (source / "more" / "chat_template.jinja").write_text("{{ messages }}")
    (source / "linked.txt").symlink_to(source / "tokenizer.json")
    result = quantize(source, tmp_path / "fp8")
    carried = {"tokenizer.json", "linked.txt", "more/chat_template.jinja"}
    assert {*result.companions.carried} == carried
    assert {path for path, _ in result.companions.left_out} == {
        "README.md",
        "extra.py",
        "optimizer.pt",
        "pytorch_model.bin",
        "x.pkl",
    }
    for name in carried:
        assert (tmp_path / "fp8" / name).read_bytes() == (source / name).read_bytes()
        assert not (tmp_path / "fp8" / name).is_symlink()
    assert not (tmp_path / "fp8" / "extra.py").exists()
    assert not (tmp_path / "fp8" / ".hidden").exists()


def test_recorded_hashes_are_those_of_the_files(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16", sharded=True, vocab=255, draft_vocab=95)
    (source / "tokenizer.json").write_text("{}")
    quantize(source, tmp_path / "fp8")
    record = json.loads((tmp_path / "fp8" / "quark_eagle.json").read_text())
    assert Manifest.from_json(record["output"]) == Manifest.of(
        tmp_path / "fp8", exclude=frozenset({"quark_eagle.json"})
    )
    assert Manifest.from_json(record["input"]) == Manifest.of(source)
    by_hand = hashlib.sha256((source / "config.json").read_bytes()).hexdigest()
    assert record["input"]["config.json"]["sha256"] == by_hand
    assert record["command_line"] == ["quark-eagle", "quantize"]
    assert {*record["versions"]} >= {"quark-eagle", "amd-quark", "torch", "safetensors", "python"}
    assert [decision["tensor"] for decision in record["plan"]["decisions"]] == sorted(Checkpoint.open(source).tensors)


def test_the_same_run_writes_the_same_bytes(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16")
    quantize(source, tmp_path / "one")
    quantize(source, tmp_path / "two")
    assert Manifest.of(tmp_path / "one") == Manifest.of(tmp_path / "two")


def test_the_input_is_left_as_it_was(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16")
    before = Manifest.of(source)
    quantize(source, tmp_path / "fp8")
    assert Manifest.of(source) == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_infinite_weight_is_refused(tmp_path: Path, stand_in: StandIn, bad: float) -> None:
    source = tmp_path / "bf16"
    write_tiny_draft(source)
    tensors = tiny_tensors(TinyDraft())
    tensors["midlayer.mlp.down_proj.weight"][17, 90] = bad
    tensors["midlayer.mlp.down_proj.weight"][20, :] = bad
    tensors["midlayer.self_attn.v_proj.weight"][0, 0] = bad
    write_tensors(source, tensors)
    message = (
        r"2 problems\.\n"
        rf".*down_proj\.weight: 129 of 8192 elements are not finite \(first at row 17, column 90: {bad}\)\.\n"
        rf".*v_proj\.weight: 1 of 4096 elements are not finite \(first at row 0, column 0: {bad}\)\.\nFP8 has no inf"
    )
    with pytest.raises(NonFiniteWeightError, match=message):
        quantize(source, tmp_path / "fp8")
    assert beside(tmp_path) == {"bf16"}


def test_a_broken_weight_that_is_kept_is_none_of_our_business(tmp_path: Path, stand_in: StandIn) -> None:
    source = DRAFTS["nan_weight"].write(write_tiny_draft(tmp_path / "bf16"))
    quantize(source, tmp_path / "fp8", keep=["*.down_proj"])
    assert load_file(tmp_path / "fp8" / "model.safetensors")["midlayer.mlp.down_proj.weight"].isnan().any()


def test_rows_that_vanish_in_float16_are_refused(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "f16", dtype="float16")
    tensors = tiny_tensors(TinyDraft(dtype="float16"))
    tensors["midlayer.self_attn.o_proj.weight"][5] *= 1e-4
    write_tensors(source, tensors)
    with pytest.raises(QuantizationError, match=r"o_proj\.weight has weights too small for F16 \(row 5: at most .*F32"):
        quantize(source, tmp_path / "fp8")


@pytest.mark.parametrize("name", [n for n, d in DRAFTS.items() if d.found_by in ("vocab_map", "weights", "quantized")])
def test_a_draft_that_is_broken_inside_is_refused(tmp_path: Path, stand_in: StandIn, name: str) -> None:
    source = tmp_path / "draft"
    source.mkdir()
    draft = DRAFTS[name]
    with pytest.raises(getattr(errors, draft.error), match=draft.match):
        quantize(draft.write(source), tmp_path / "fp8")
    assert beside(tmp_path) == {"draft"}


def test_a_plan_for_another_draft_is_refused(tmp_path: Path, stand_in: StandIn) -> None:
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.quantize.stage import stage

    one = Checkpoint.open(write_tiny_draft(tmp_path / "one"))
    two = Checkpoint.open(write_tiny_draft(tmp_path / "two", embed_tokens=True))
    layout = Eagle3Layout.of(two)
    with pytest.raises(CheckpointError, match="other tensors than the plan was made for"):
        stage(one, layout, QuantPlan.of(layout), tmp_path)


def test_a_full_disk_leaves_nothing_and_says_where(tmp_path: Path, stand_in: StandIn) -> None:
    source = write_tiny_draft(tmp_path / "bf16", embed_tokens=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(StorageError, match=r"model\.safetensors: could not be written: File too large"):
            quantize(source, tmp_path / "fp8")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert beside(tmp_path) == {"bf16"}


def test_a_failure_while_copying_goes_on_stops_the_copying(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C arrives in the main thread, wherever the other one is."""
    source = write_tiny_draft(tmp_path / "bf16")
    stopped = threading.Event()

    def endless(*arguments: Any) -> Iterator[memoryview]:
        while True:
            yield memoryview(b"")

    def interrupt(scheme: object) -> StandIn:
        raise KeyboardInterrupt

    class Watched(streaming.Copier):
        def run(self) -> Any:
            try:
                return super().run()
            finally:
                stopped.set()

    monkeypatch.setattr(streaming, "read_pieces", endless)
    monkeypatch.setattr("quark_eagle.quantize.stage.Copier", Watched)
    monkeypatch.setattr("quark_eagle.quantize.stage.load_quark", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quantize(source, tmp_path / "fp8")
    assert stopped.wait(5)
    assert beside(tmp_path) == {"bf16"}


def test_a_weight_is_read_in_blocks_of_whole_rows(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_tiny_draft(tmp_path / "draft"))
    whole = load_file(checkpoint.directory / "model.safetensors")["midlayer.mlp.gate_proj.weight"]
    info = checkpoint.tensors["midlayer.mlp.gate_proj.weight"]
    for block_elements in (1, 63, 64 * 5, 64 * 128, 10**9):
        blocks = [(first, rows.clone()) for first, rows in streaming.row_blocks(checkpoint, info, block_elements)]
        assert torch.equal(torch.cat([rows for _, rows in blocks]), whole)
        assert all(rows.numel() <= max(64, block_elements) for _, rows in blocks)
        assert [first for first, _ in blocks] == [len(blocks[0][1]) * i for i in range(len(blocks))]


def test_a_file_that_shrinks_meanwhile_is_noticed(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_tiny_draft(tmp_path / "draft"))
    info = max(checkpoint.tensors.values(), key=lambda info: info.offset if len(info.shape) == 2 else 0)
    with (checkpoint.directory / info.shard).open("r+b") as file:
        file.truncate(info.offset + 10)
    with pytest.raises(CheckpointError, match="was longer when it was opened"):
        list(streaming.row_blocks(checkpoint, info, 1 << 20))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_output_tensor_begins_at_a_multiple_of_its_size(data: st.DataObject) -> None:
    sizes = st.integers(min_value=1, max_value=9)
    dtypes = st.sampled_from(["BF16", "F32", "I64", "BOOL"])
    kept = data.draw(st.lists(st.tuples(dtypes, sizes), max_size=5))
    weights = data.draw(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4))
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {f"kept{i}": (dtype, (n,)) for i, (dtype, n) in enumerate(kept)}
    tensors |= {f"w{i}.weight": ("BF16", shape) for i, shape in enumerate(weights)}
    checkpoint = _Headers(tensors)
    specs = output_specs(checkpoint, _Plan([name for name in tensors if name[0] == "w"]), "s")  # type: ignore[arg-type]
    assert {spec.name for spec in specs} == {*tensors} | {f"w{i}.weight_scale" for i in range(len(weights))}
    position = 0
    for spec in specs:
        assert position % _width(spec) == 0
        position += spec.size_bytes


def _width(spec: TensorSpec) -> int:
    return {"BF16": 2, "F32": 4, "I64": 8, "BOOL": 1, "F8_E4M3": 1}[spec.dtype]


class _Headers:
    def __init__(self, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
        self.tensors = {
            name: TensorInfo(name=name, dtype=dtype, shape=shape, shard="s", offset=0, size_bytes=0)
            for name, (dtype, shape) in tensors.items()
        }


class _Plan:
    def __init__(self, quantized: list[str]) -> None:
        from quark_eagle.quantize.format import Format
        from quark_eagle.quantize.scheme import PTPC_FP8

        self.quantized, self.scheme, self.format = quantized, PTPC_FP8, Format.QUARK


def test_a_header_is_padded_so_that_data_begins_aligned(tmp_path: Path, stand_in: StandIn) -> None:
    quantize(write_tiny_draft(tmp_path / "bf16"), tmp_path / "fp8")
    with (tmp_path / "fp8" / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
    assert length % 8 == 0
