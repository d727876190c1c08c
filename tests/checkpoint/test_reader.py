from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import CheckpointError, MissingTensorError
from tests.broken.drafts import DRAFTS
from tests.tiny import TinyDraft, tiny_config, tiny_tensors, write_config, write_tiny_draft

KIMI = {"embed_tokens.weight": (163840, 7168), "fc.weight": (7168, 21504), "lm_head.weight": (163840, 7168)}


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """A safetensors file of BF16 zeros that takes no room on the disk; returns its length."""
    entries, position = {}, 0
    for name, (rows, columns) in shapes.items():
        end = position + 2 * rows * columns
        entries[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [position, end]}
        position = end
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + position)
    return 8 + len(header) + position


@pytest.mark.parametrize("sharded", [False, True])
def test_values_and_bytes_are_those_that_were_written(sharded: bool, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_tiny_draft(tmp_path, sharded=sharded))
    written = tiny_tensors(TinyDraft())
    assert list(checkpoint.tensors) == sorted(written)
    for name, tensor in written.items():
        info = checkpoint.info(name)
        assert info.shape == tuple(tensor.shape)
        assert torch.equal(checkpoint.tensor(name), tensor)
        assert checkpoint.read_bytes(info) == bytes(tensor.contiguous().view(torch.uint8).flatten().tolist())


def test_streamed_pieces_make_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_tiny_draft(tmp_path))
    info = checkpoint.info("fc.weight")
    pieces = list(checkpoint.stream(info, chunk=1000))
    assert max(map(len, pieces)) <= 1000
    assert b"".join(pieces) == checkpoint.read_bytes(info)
    assert checkpoint.read_bytes(info, 10, 30) == checkpoint.read_bytes(info)[10:30]


def test_offsets_are_absolute_places_in_the_file(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_tiny_draft(tmp_path))
    content = (tmp_path / "model.safetensors").read_bytes()
    for info in checkpoint.tensors.values():
        assert content[info.offset : info.offset + info.size_bytes] == checkpoint.read_bytes(info)


def test_a_draft_of_6_gb_is_opened_in_under_a_second(tmp_path: Path) -> None:
    write_config(tmp_path, tiny_config(TinyDraft()))
    assert write_sparse(tmp_path / "model.safetensors", KIMI | {"more": (675_000_000, 1)}) > 6_000_000_000
    start = time.perf_counter()
    checkpoint = Checkpoint.open(tmp_path)
    assert time.perf_counter() - start < 1
    assert checkpoint.size_bytes > 6_000_000_000


def test_describing_a_draft_imports_no_torch(tmp_path: Path) -> None:
    write_tiny_draft(tmp_path)
    code = (
        "import sys; from quark_eagle.checkpoint.reader import Checkpoint;"
        "from quark_eagle.checkpoint.layout import Eagle3Layout, check_vocab_map;"
        f"c = Checkpoint.open({str(tmp_path)!r}); check_vocab_map(c, Eagle3Layout.of(c));"
        "assert 'torch' not in sys.modules and 'safetensors' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_config_is_kept_as_it_is_written(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_tiny_draft(tmp_path))
    assert checkpoint.config == tiny_config(TinyDraft())


def test_a_bf16_draft_is_not_quantized_and_an_fp8_one_is(tmp_path: Path) -> None:
    assert not Checkpoint.open(write_tiny_draft(tmp_path / "bf16")).is_quantized
    (tmp_path / "fp8").mkdir()
    assert Checkpoint.open(DRAFTS["fp8_input"].write(tmp_path / "fp8")).is_quantized


def test_fp8_tensors_without_any_config_are_quantized_all_the_same(tmp_path: Path) -> None:
    directory = DRAFTS["fp8_input"].write(tmp_path)
    write_config(directory, tiny_config(TinyDraft()))
    checkpoint = Checkpoint.open(directory)
    assert checkpoint.quantization_config is None
    assert checkpoint.is_quantized


def test_a_nested_quantization_config_is_found(tmp_path: Path) -> None:
    from quark_eagle.checkpoint.family import Convention

    write_tiny_draft(tmp_path, convention=Convention.SPECULATORS)
    config = json.loads((tmp_path / "config.json").read_text())
    config["transformer_layer_config"]["quantization_config"] = {"quant_method": "quark"}
    write_config(tmp_path, config)
    assert Checkpoint.open(tmp_path).quantization_config == {"quant_method": "quark"}


def test_files_that_the_index_does_not_name_are_not_read(tmp_path: Path) -> None:
    write_tiny_draft(tmp_path, sharded=True)
    (tmp_path / "leftover.safetensors").write_bytes(b"garbage")
    assert len(Checkpoint.open(tmp_path).shards) == 2


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_tiny_draft(tmp_path))
    with pytest.raises(MissingTensorError, match=r"has no tensor nobody\.weight"):
        checkpoint.tensor("nobody.weight")


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_tiny_draft(tmp_path))
    info = max(checkpoint.tensors.values(), key=lambda info: info.offset)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(info.offset + 1)
    with pytest.raises(CheckpointError, match=r"ended \d+ bytes before the end of"):
        checkpoint.read_bytes(info)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ('{"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 2]}}', "needs 4 bytes, but the header gives 2"),
        ('{"x": {"dtype": "BF17", "shape": [2], "data_offsets": [0, 4]}}', "has dtype BF17, which safetensors"),
        ('{"x": {"dtype": "BF16", "shape": [2]}}', "its header does not describe x"),
        ('{"x": {"dtype": "BF16", "shape": [-2, -1], "data_offsets": [0, 4]}}', "needs 4 bytes, but the header"),
        ('{"x": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}', "x leaves a gap before it"),
        (
            '{"x": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},'
            ' "y": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}',
            "y overlaps the tensor before it",
        ),
        (
            '{"x": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},'
            ' "x": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}',
            "x occurs twice",
        ),
        (f'{{"x": {{"dtype": "U8", "shape": [{10**4000}], "data_offsets": [0, 4]}}}}', "does not describe x"),
        ('{"x": {"dtype": "U8", "shape": [4], "data_offsets": [0, 1e999]}}', "does not describe x"),
        ('{"x": ' + "[" * 60_000, "its header cannot be read"),
        ("[]", "its header is not a JSON object"),
        ("nonsense", "its header cannot be read"),
    ],
)  # fmt: skip
def test_a_header_that_contradicts_itself_is_refused(entries: str, match: str, tmp_path: Path) -> None:
    write_config(tmp_path, tiny_config(TinyDraft()))
    header = entries.encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(CheckpointError, match=match):
        Checkpoint.open(tmp_path)
