"""What compare-schemes says of a scheme is what plain computations say, and wrong scales stand out in it."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.compare.candidates import Candidate
from quark_eagle.compare.measure import Measuring
from quark_eagle.compare.run import SchemeComparison
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.schemes import Error, SchemeResult, SchemesReport
from quark_eagle.model.chain import Chain, Past
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.parity.compare import Comparison
from quark_eagle.parity.measurement import Settings
from quark_eagle.quantize.calibration.observed_draft import ObservedDraft
from quark_eagle.quantize.calibration.run import Calibrated, CalibrationRun
from quark_eagle.quantize.scheme import Scheme
from quark_eagle.trace.target_trace import TargetTrace

pytestmark = [pytest.mark.quark, pytest.mark.usefixtures("real_quark")]

NAMES = ["ptpc_fp8", "fp8-min_max", "fp8_channel_static-min_max"]
DOWN = "layers.0.mlp.down_proj"


@pytest.fixture(autouse=True)
def _quarks_own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def named(report: SchemesReport, name: str) -> SchemeResult:
    return next(it for it in report.schemes if it.name == name)


def weight_of(tensors: dict[str, torch.Tensor], module: str) -> torch.Tensor:
    """[out, in] float64 as it is multiplied with, from the file's tensors alone."""
    weight = tensors[f"{module}.weight"].double()
    scale = tensors.get(f"{module}.weight_scale")
    return weight if scale is None else weight * (scale.double()[:, None] if scale.dim() else scale.double())


def db(exact: torch.Tensor, other: torch.Tensor) -> float:
    lost = (exact - other).norm() / exact.norm()
    return -20 * math.log10(float(lost))


@pytest.mark.parametrize("name", NAMES)
def test_a_weights_error_is_that_of_the_files(report: SchemesReport, tiny_draft: Path, kept: Path, name: str) -> None:
    layout = Eagle3Layout.of(Checkpoint.open(tiny_draft))
    before, after = load_file(tiny_draft / "model.safetensors"), load_file(kept / name / "model.safetensors")
    modules = named(report, name).modules
    assert len(modules) == 7
    for it in modules:
        disk = layout.by_canonical[f"{it.module}.weight"].removesuffix(".weight")
        assert it.weight.sqnr_db == pytest.approx(db(weight_of(before, disk), weight_of(after, disk)), abs=1e-6)
        assert it.weight.num_values == before[f"{disk}.weight"].numel()
        assert 20 < _sqnr(it.weight) < 45  # three bits of mantissa


def naive_down_inputs(draft: Eagle3Draft, trace: TargetTrace) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What enters down_proj at step 1 and at later steps: one text, one start and one token at a time."""
    inputs: list[torch.Tensor] = []
    inner = draft.linears[DOWN]

    class Spy:
        out_features = inner.out_features

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            inputs.append(x)
            return inner(x)

    draft.linears[DOWN] = Spy()  # type: ignore[assignment]
    first: list[torch.Tensor] = []
    later: list[torch.Tensor] = []
    for traced in trace:
        assert traced.aux_hidden_states is not None
        combined = draft.combine(traced.aux_hidden_states)
        past = Past.of(draft, draft.embed(traced.token_ids[1:]), combined)
        last = len(traced.token_ids) - 2
        for row in range(last + 1):
            chain = Chain(draft, [(past, torch.tensor([row]))])
            token, state = traced.token_ids[row + 1 : row + 2], combined[row : row + 1]
            for step in range(3):
                inputs.clear()
                state, normed = chain.step(draft.embed(token), state)
                (first if step == 0 else later).append(inputs[0])
                if not traced.info.prompt_length - 1 <= row < last:  # proposals start in the answer
                    break
                token = draft.propose(normed)
    return first, later


@pytest.fixture(scope="module")
def down_inputs(tiny_draft: Path, selection_trace: Path) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    trace = TargetTrace.open(selection_trace)
    return naive_down_inputs(loaded(tiny_draft, trace), trace)


def loaded(directory: Path, trace: TargetTrace) -> Eagle3Draft:
    checkpoint = Checkpoint.open(directory)
    return Eagle3Draft.load(checkpoint, Eagle3Layout.of(checkpoint), trace.rows.weights)


@pytest.mark.parametrize("name", NAMES)
def test_an_outputs_error_is_that_of_a_loop_over_single_places(
    report: SchemesReport,
    tiny_draft: Path,
    selection_trace: Path,
    kept: Path,
    down_inputs: tuple[list[torch.Tensor], list[torch.Tensor]],
    name: str,
) -> None:
    trace = TargetTrace.open(selection_trace)
    of_text = sum(info.num_tokens - 1 for info in trace.prompts)
    of_answer = sum(info.num_tokens - 1 - info.prompt_length for info in trace.prompts)  # the last is proposed, not fed
    exact, quantized = (loaded(directory, trace).linears[DOWN] for directory in (tiny_draft, kept / name))
    found = next(it for it in named(report, name).modules if it.module == DOWN)
    for inputs, error, rows in zip(
        down_inputs, (found.output_first_step, found.output_later_steps), (of_text, 2 * of_answer), strict=True
    ):
        before = torch.cat([exact(x) for x in inputs]).double()
        after = torch.cat([quantized(x) for x in inputs]).double()
        assert error is not None
        assert error.num_values == before.numel() == rows * exact.out_features
        assert error.sqnr_db == pytest.approx(db(before, after), abs=0.05)  # rows in another batch round otherwise


@pytest.mark.parametrize("name", NAMES)
def test_tau_is_that_of_the_two_drafts_replayed_side_by_side(
    report: SchemesReport, tiny_draft: Path, selection_trace: Path, kept: Path, name: str
) -> None:
    walk = Comparison.open(tiny_draft, kept / name, selection_trace, walk_only=True).run().summary.overall.walk
    found = named(report, name).difference
    assert found is not None
    assert found.candidate_num_drafts == walk.candidate.num_drafts
    assert found.candidate_mean_acceptance_length == walk.candidate.mean_acceptance_length
    assert found.baseline_mean_acceptance_length == walk.baseline.mean_acceptance_length
    assert found.interval is not None
    assert found.interval.low <= found.estimate <= found.interval.high


def test_each_says_what_was_emulated_what_it_weighs_and_who_runs_it(report: SchemesReport, kept: Path) -> None:
    assert [it.name for it in report.schemes] == NAMES
    assert [it.computed.activation_scales for it in report.schemes] == ["per token", "static", "static"]
    assert {it.computed.products for it in report.schemes} == {"emulated"}
    for it in report.schemes:
        assert it.file_bytes == (kept / it.name / "model.safetensors").stat().st_size < report.baseline_file_bytes
        assert it.arm.step_bytes.every_step < report.baseline.step_bytes.every_step
        assert [where.runs for where in it.engines] == [where.runs for where in Scheme(it.scheme).engines]
        assert it.verification == "ok", it.findings
    assert report.schemes[0].observer is None
    assert {it.observer.name for it in report.schemes[1:] if it.observer} == {"min_max"}


def test_what_is_kept_are_drafts_calibrations_and_counts(report: SchemesReport, kept: Path) -> None:
    static = {f"{name}.calibration.json" for name in NAMES[1:]}
    counts = {f"{name}.parity.json" for name in NAMES}
    assert {path.name for path in kept.iterdir()} == {*NAMES, *counts, *static, "baseline.json"}
    assert len(ParityReport.read(kept / "ptpc_fp8.parity.json").prompts) == 12


def test_a_report_reads_back_as_it_was_written(report: SchemesReport, tmp_path: Path) -> None:
    (tmp_path / "schemes.json").write_text(report.to_json())
    assert SchemesReport.read(tmp_path / "schemes.json") == report


def test_activation_scales_ten_times_too_small_stand_out_in_outputs_and_in_tau(
    report: SchemesReport,
    tiny_draft: Path,
    selection_trace: Path,
    calibration_trace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true_run = CalibrationRun.run

    def too_small(self: CalibrationRun, **options: object) -> Calibrated:
        made = true_run(self, **options)  # type: ignore[arg-type]
        inputs = {name: _float32(scale / 10) for name, scale in made.scales.inputs.items()}
        return replace(made, scales=replace(made.scales, inputs=inputs))

    monkeypatch.setattr(CalibrationRun, "run", too_small)
    schemes = (Scheme.PTPC_FP8, Scheme.FP8)
    wrong = SchemeComparison.open(tiny_draft, selection_trace, calibration_trace, schemes=schemes).run(tmp_path)
    right, broken = named(report, "fp8-min_max"), named(wrong, "fp8-min_max")
    assert broken.arm.step_bytes == right.arm.step_bytes
    for before, after in zip(right.modules, broken.modules, strict=True):
        assert after.weight == before.weight
        for true_error, error in (
            (before.output_first_step, after.output_first_step),
            (before.output_later_steps, after.output_later_steps),
        ):
            assert _sqnr(error) < _sqnr(true_error) - 10  # most of what enters is cut off
    assert broken.difference is not None
    assert broken.difference.interval is not None
    assert broken.difference.interval.high < 0
    assert wrong.suggested == "ptpc_fp8"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def _sqnr(error: Error | None) -> float:
    assert error is not None
    assert error.sqnr_db is not None
    return error.sqnr_db


def _float32(number: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", number))[0])


def test_a_kv_cache_in_fp8_has_calibrated_scales_under_every_scheme(
    tiny_draft: Path, selection_trace: Path, calibration_trace: Path, tmp_path: Path
) -> None:
    settings = Settings(num_speculative_tokens=3, walk_only=True, kv_cache_dtype="fp8")
    schemes = (Scheme.PTPC_FP8, Scheme.FP8)
    made = SchemeComparison.open(
        tiny_draft, selection_trace, calibration_trace, schemes=schemes, settings=settings
    ).run(tmp_path)
    assert [it.name for it in made.schemes] == ["ptpc_fp8-min_max", "fp8-min_max"]
    assert [it.computed.kv_cache_scales for it in made.schemes] == ["checkpoint", "checkpoint"]
    assert [it.computed.activation_scales for it in made.schemes] == ["per token", "static"]
    assert [it.verification for it in made.schemes] == ["ok", "ok"]


def test_a_killed_run_takes_its_calibration_up_again(
    tiny_draft: Path, selection_trace: Path, calibration_trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, reached = tmp_path / "schemes.json", []

    def killed(measuring: Measuring, candidate: Candidate, calibrated: Calibrated) -> None:
        reached.append(calibrated.scales.inputs)
        raise KeyboardInterrupt

    monkeypatch.setattr(Measuring, "measure", killed)
    for scratch in (tmp_path / "first", tmp_path / "second"):
        scratch.mkdir()
        comparison = SchemeComparison.open(tiny_draft, selection_trace, calibration_trace, schemes=[Scheme.FP8])
        with pytest.raises(KeyboardInterrupt):
            comparison.run(scratch, output)
        assert (tmp_path / ".schemes.json.min_max.calibration-state.safetensors").exists()
        monkeypatch.setattr(ObservedDraft, "_whole_text", None)  # nothing is observed a second time
    assert len(reached) == 2
    assert reached[0] == reached[1]
    comparison.forget(output)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []
