from __future__ import annotations

import json
from pathlib import Path

import pytest

from quark_eagle.deploy import against_source
from quark_eagle.deploy.verify import VerifyReport, verify
from quark_eagle.errors import UsageError
from tests.deploy.export import Export
from tests.tiny import (
    TinyDraft,
    tiny_config,
    tiny_tensors,
    write_config,
    write_sharded,
    write_tensors,
    write_tiny_draft,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tiny_draft(tmp_path / "source")


def against(tmp_path: Path, export: Export, source: Path) -> VerifyReport:
    return verify(export.write(tmp_path / "out"), source)


def told(report: VerifyReport) -> str:
    return "\n".join(f"{finding.subject}: {finding.message}" for finding in report.errors)


def test_shards_and_their_number_do_not_matter(tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    write_config(sharded, tiny_config(TinyDraft()))
    write_sharded(sharded, tiny_tensors(TinyDraft()))

    assert against(tmp_path, Export(TinyDraft()), sharded).ok


@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 20])
def test_the_size_of_a_block_does_not_change_the_verdict(
    tmp_path: Path, source: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(against_source, "_BLOCK_BYTES", block_bytes)
    export = Export(TinyDraft())
    assert against(tmp_path, export, source).ok
    export.tensors[export.find("down_proj.weight")][40, 7] = 448.0

    assert "1 of 8192 weights are further" in told(against(tmp_path, export, source))
    assert "first at row 40, column 7" in told(against(tmp_path, export, source))


def test_one_flipped_bit_of_a_kept_tensor_is_found(tmp_path: Path, source: Path) -> None:
    import torch

    export = Export(TinyDraft())
    export.tensors["fc.weight"].view(torch.int16)[63, 191] ^= 1

    assert "fc.weight: is kept, but its bytes are not the source's" in told(against(tmp_path, export, source))


def test_one_step_of_fp8_too_far_is_outside_the_bound(tmp_path: Path, source: Path) -> None:
    import torch

    export = Export(TinyDraft())
    name = export.find("o_proj.weight")
    payload = export.tensors[name].view(torch.uint8)
    largest = int(export.tensors[name].float().abs()[5].argmax())
    payload[5, largest] -= 1  # the next smaller magnitude

    assert "o_proj.weight: 1 of 4096 weights are further from the source's" in told(against(tmp_path, export, source))


def test_every_rounding_to_nearest_is_inside_the_bound(tmp_path: Path) -> None:
    """All exponents that a row can hold, subnormal ones of FP8 included."""
    import torch

    draft = TinyDraft()
    tensors = tiny_tensors(draft)
    name = "midlayer.mlp.down_proj.weight"
    exponents = torch.arange(128) % 24
    tensors[name] = (tensors[name].float().sign() * (1.0 + torch.rand(64, 128)) * 2.0**-exponents).bfloat16()
    source = tmp_path / "source"
    source.mkdir()
    write_config(source, tiny_config(draft))
    write_tensors(source, tensors)
    export = Export(draft)
    export.tensors[name] = tensors[name]
    export.quantize("down_proj.weight")

    assert against(tmp_path, export, source).ok


def test_a_row_of_zeros_passes_with_the_smallest_scale(tmp_path: Path, source: Path) -> None:
    export = Export(TinyDraft())
    tensors = tiny_tensors(TinyDraft())
    tensors["midlayer.mlp.up_proj.weight"][9] = 0
    write_tensors(source, tensors)
    export.tensors["midlayer.mlp.up_proj.weight"] = tensors["midlayer.mlp.up_proj.weight"]
    export.quantize("up_proj.weight")

    assert against(tmp_path, export, source).ok


def test_a_scale_that_is_consistent_but_not_the_sources_is_found(tmp_path: Path, source: Path) -> None:
    """Twice the scale and half the payload stands for the same weight, but wastes a bit of range."""
    import torch

    export = Export(TinyDraft())
    weight, scale = export.find("gate_proj.weight"), export.find("gate_proj.weight_scale")
    export.tensors[weight] = (export.tensors[weight].float() / 2).to(torch.float8_e4m3fn)
    export.tensors[scale] *= 2

    assert "gate_proj.weight: 128 of 128 scales are not the largest weight" in told(against(tmp_path, export, source))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("rope_theta", 5e5, "says rope_theta 500000.0, but the source says 10000.0"),
        ("norm_before_residual", True, "says norm_before_residual True, but the source says False"),
        ("extra", 1, "has extra, but the source has not"),
        ("rms_norm_eps", None, "has no rms_norm_eps, but the source has"),
    ],
)
def test_a_config_field_that_is_not_the_sources_is_found(
    tmp_path: Path, source: Path, field: str, value: object, reason: str
) -> None:
    export = Export(TinyDraft())
    if value is None:
        del export.config[field]
    else:
        export.config[field] = value

    assert reason in told(against(tmp_path, export, source))


def test_a_tensor_only_one_of_the_two_has_is_found(tmp_path: Path, source: Path) -> None:
    export = Export(TinyDraft())
    export.rename("t2d", "t2d_copy")

    report = against(tmp_path, export, source)

    assert "t2d: is in the source, but not here" in told(report)
    assert "t2d_copy: is neither in the source nor a scale that a module takes" in told(report)


def test_the_source_of_another_seed_is_not_its_source(tmp_path: Path) -> None:
    other = write_tiny_draft(tmp_path / "other", seed=1)

    report = against(tmp_path, Export(TinyDraft()), other)

    assert "weights are further from the source's" in told(report)
    assert "fc.weight: is kept, but its bytes" in told(report)


def test_a_quantized_source_is_no_source(tmp_path: Path) -> None:
    export = Export(TinyDraft())
    quantized = export.write(tmp_path / "quantized")

    with pytest.raises(UsageError, match="is quantized itself, but the BF16 draft before quantization was needed"):
        verify(export.write(tmp_path / "out"), quantized)


def test_a_source_without_a_config_of_its_quantization_is_told_by_its_tensors(tmp_path: Path) -> None:
    export = Export(TinyDraft())
    quantized = export.write(tmp_path / "quantized")
    (tmp_path / "out").mkdir()
    out = export.write(tmp_path / "out")
    path = quantized / "config.json"
    path.write_text(json.dumps({key: it for key, it in json.loads(path.read_text()).items() if "quant" not in key}))

    with pytest.raises(UsageError, match="is quantized itself"):
        verify(out, quantized)


def test_memory_does_not_grow_with_a_tensor(tmp_path: Path) -> None:
    """No read is larger than a block, however large the tensor."""
    from quark_eagle.checkpoint.reader import Checkpoint

    draft = TinyDraft(intermediate=4096, vocab=4096)
    source = Checkpoint.open(write_tiny_draft(tmp_path / "source", draft))
    out = Export(draft).write(tmp_path / "out")
    largest = 0
    read_bytes = Checkpoint.read_bytes

    def watched(self: Checkpoint, *arguments: object) -> bytes:
        nonlocal largest
        data = read_bytes(self, *arguments)  # type: ignore[arg-type]
        largest = max(largest, len(data))
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "read_bytes", watched)
        patch.setattr(against_source, "_BLOCK_BYTES", 64 << 10)
        assert verify(out, source.directory).ok

    assert max(info.size_bytes for info in source.tensors.values()) > 256 << 10
    assert largest <= 64 << 10
