"""weights.json says of every tensor what its bytes say, in every format and scheme."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from quark_eagle.checkpoint.manifest import RECORD_NAME
from quark_eagle.documents.weights import Distribution, ModuleWeights, WeightStatistics
from quark_eagle.errors import CheckpointError, NonFiniteWeightError
from quark_eagle.progress import Progress, Task
from quark_eagle.quantize.format import Format
from quark_eagle.quantize.scheme import Scheme
from quark_eagle.release.distribution import QUANTILES, distribution, quarters_of_octaves
from quark_eagle.release.weight_statistics import ERROR_EDGES, measure
from tests.quantize.conftest import StandIn, quantize, scales_for
from tests.tiny import write_tiny_draft

WEIGHT = "midlayer.mlp.down_proj.weight"


@pytest.fixture(autouse=True)
def quark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts are quantized by the definition: what is measured does not depend on Quark."""
    monkeypatch.setattr("quark_eagle.quantize.stage.load_quark", lambda scheme: StandIn())


@dataclass(frozen=True, kw_only=True)
class Drafts:
    """A tiny draft before and after."""

    before: Path
    after: Path


def drafts(
    directory: Path, scheme: Scheme = Scheme.PTPC_FP8, format: Format = Format.QUARK, **changes: object
) -> Drafts:
    before = write_tiny_draft(directory / "draft", **changes)
    scales = scales_for(before, kv_cache=True) if scheme.needs_calibration else None
    quantize(before, directory / "out", scheme=scheme, format=format, activation_scales=scales)
    return Drafts(before=before, after=directory / "out")


def tensors(draft: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(draft.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def naive_errors(before: torch.Tensor, payload: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    """Element by element, as the definition reads."""
    rows = scale.flatten().tolist()
    errors = []
    for i, (exact, quantized) in enumerate(zip(before.double().tolist(), payload.double().tolist(), strict=True)):
        factor = rows[i] if len(rows) > 1 else rows[0]
        errors += [abs(factor * q - w) / abs(w) for w, q in zip(exact, quantized, strict=True) if w]
    return np.array(errors, dtype=np.float32)


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("scheme", Scheme)
def test_scales_and_errors_are_those_of_a_plain_loop(scheme: Scheme, format: Format, tmp_path: Path) -> None:
    made = drafts(tmp_path, scheme, format)
    found = {it.tensor: it for it in measure(made.after, made.before).modules}[WEIGHT]
    exact, quantized = tensors(made.before), tensors(made.after)
    naive = naive_errors(exact[WEIGHT], quantized[WEIGHT], quantized[f"{WEIGHT}_scale"])
    assert found.relative_error is not None
    assert five(found.relative_error) == pytest.approx(np.quantile(naive, QUANTILES, method="inverted_cdf"), rel=1e-6)
    edges = [*ERROR_EDGES, max(1.0, float(naive.max()))]
    assert found.relative_error.counts == np.histogram(naive, bins=edges)[0].tolist()
    scales = quantized[f"{WEIGHT}_scale"].flatten().numpy()
    assert found.scales is not None
    assert five(found.scales) == np.quantile(scales, QUANTILES, method="inverted_cdf").tolist()
    is_static = scheme.needs_calibration
    beside = quantized.get("midlayer.mlp.down_proj.input_scale")
    assert found.input_scale == (float(beside) if is_static and beside is not None else None)
    assert (beside is not None) == is_static


def test_bytes_are_those_of_the_files(tmp_path: Path) -> None:
    made = drafts(tmp_path, Scheme.FP8, num_layers=2, sharded=True)
    found = measure(made.after, made.before)
    assert found.size_bytes_before == sum(it.nbytes for it in tensors(made.before).values())
    assert found.size_bytes_after == sum(it.nbytes for it in tensors(made.after).values())
    assert set(found.cache_scales) == {name for name in tensors(made.after) if name.endswith(("k_scale", "v_scale"))}
    assert found.cache_scales


def test_without_the_bf16_draft_nothing_is_said_of_before(tmp_path: Path) -> None:
    made = drafts(tmp_path)
    found, whole = measure(made.after), measure(made.after, made.before)
    assert found.size_bytes_before is None
    assert all(it.dtype_before is None and it.relative_error is None for it in found.modules)
    assert [it.scales for it in found.modules] == [it.scales for it in whole.modules]


def test_a_block_of_rows_more_or_less_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = drafts(tmp_path)
    at_once = measure(made.after, made.before)
    monkeypatch.setattr("quark_eagle.release.weight_statistics.BLOCK_ELEMENTS", 300)
    assert measure(made.after, made.before) == at_once


def test_zeros_have_no_relative_error_and_are_counted(tmp_path: Path) -> None:
    before = write_tiny_draft(tmp_path / "draft")
    changed = tensors(before)
    changed[WEIGHT][3] = 0  # a whole row: its scale is a stand-in
    save_file(changed, before / "model.safetensors")
    quantize(before, tmp_path / "out")
    found = {it.tensor: it for it in measure(tmp_path / "out", before).modules}[WEIGHT]
    assert found.relative_error is not None
    zeros = int((changed[WEIGHT] == 0).sum())
    assert zeros >= changed[WEIGHT].shape[1]
    assert (found.zeros, found.relative_error.count) == (zeros, changed[WEIGHT].numel() - zeros)


def test_progress_counts_every_byte_of_both_passes(tmp_path: Path) -> None:
    made = drafts(tmp_path)
    counted = Counted()
    found = measure(made.after, made.before, counted)
    payload = sum(np.prod(it.shape) for it in found.modules if it.action == "quantize")
    assert counted.done == counted.total == 2 * payload


class Counted(Progress):
    """Adds up what it is told."""

    total = done = 0

    def task(self, description: str, total: int, unit: str = "B"):  # type: ignore[no-untyped-def]
        from contextlib import nullcontext

        self.total += total
        task = Task()
        task.advance = self._advance  # type: ignore[method-assign]
        return nullcontext(task)

    def _advance(self, n: int) -> None:
        self.done += n


def test_all_that_does_not_fit_is_said_at_once(tmp_path: Path) -> None:
    made = drafts(tmp_path)
    changed = tensors(made.after)
    del changed[f"{WEIGHT}_scale"]
    changed["stranger"] = torch.zeros(3)
    save_file(changed, made.after / "model.safetensors")
    record = json.loads((made.after / RECORD_NAME).read_text())
    record["plan"]["decisions"].append({"tensor": "not.there", "action": "keep", "reason": "norm"})
    (made.after / RECORD_NAME).write_text(json.dumps(record))
    with pytest.raises(CheckpointError) as error:
        measure(made.after, write_tiny_draft(tmp_path / "other", hidden=96))
    for said in ("not.there", "stranger", f"{WEIGHT} has no", "in the BF16 draft"):
        assert said in str(error.value)


@pytest.mark.parametrize("spoilt", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_positive_number_is_refused(spoilt: float, tmp_path: Path) -> None:
    made = drafts(tmp_path)
    changed = tensors(made.after)
    changed[f"{WEIGHT}_scale"][5] = spoilt
    save_file(changed, made.after / "model.safetensors")
    with pytest.raises(NonFiniteWeightError, match="no positive number"):
        measure(made.after, made.before)


def test_a_payload_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    made = drafts(tmp_path)
    changed = tensors(made.after)
    changed[WEIGHT].view(torch.uint8)[2, 2] = 0x7F  # NaN in e4m3fn
    save_file(changed, made.after / "model.safetensors")
    with pytest.raises(NonFiniteWeightError, match="not finite everywhere"):
        measure(made.after, made.before)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(2.0**-40, 2.0**20, width=32), min_size=1, max_size=200), st.integers(1, 9))
def test_ranks_and_histogram_are_exact_however_the_numbers_come(numbers: list[float], pieces: int) -> None:
    values = torch.tensor(numbers, dtype=torch.float32)
    found = distribution(lambda: iter(torch.tensor_split(values, pieces)), quarters_of_octaves)
    assert found is not None
    assert five(found) == np.quantile(values.numpy(), QUANTILES, method="inverted_cdf").tolist()
    assert found.counts == np.histogram(values.double().numpy(), bins=found.edges)[0].tolist()


def test_of_no_numbers_there_is_no_distribution() -> None:
    assert distribution(lambda: iter([torch.zeros(0)]), quarters_of_octaves) is None


def test_a_document_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    made = drafts(tmp_path)
    content = json.loads(measure(made.after, made.before).to_json())
    of = {it["tensor"]: place for place, it in enumerate(content["modules"])}
    quantized, kept = of[WEIGHT], of["norm.weight"]
    for module, key, value, said in (
        (quantized, ("scales", "count"), 7, "the bins hold"),
        (quantized, ("scales", "p1"), 1e9, "do not ascend"),
        (quantized, ("relative_error", "max"), 5.0, "outside of all bins"),
        (quantized, ("scales",), None, "what is quantized has scales"),
        (kept, ("dtype_before",), "F32", "what is kept"),
    ):
        changed = json.loads(json.dumps(content))
        inside = changed["modules"][module]
        for part in key[:-1]:
            inside = inside[part]
        inside[key[-1]] = value
        with pytest.raises(ValidationError, match=said):
            WeightStatistics.model_validate_json(json.dumps(changed))


def five(found: Distribution) -> list[float]:
    return [found.min, found.p1, found.p50, found.p99, found.max]


def test_written_and_read_again_it_is_the_same(tmp_path: Path) -> None:
    made = drafts(tmp_path)
    found = measure(made.after, made.before)
    (tmp_path / "weights.json").write_text(found.to_json(), encoding="utf-8")
    assert WeightStatistics.read(tmp_path / "weights.json") == found
    assert all(isinstance(it, ModuleWeights) for it in found.modules)
