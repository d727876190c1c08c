from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from quark_eagle.documents.parity import ParityReport
from quark_eagle.errors import CheckpointError, TraceMismatchError, UsageError
from quark_eagle.fp8 import quantize_per_channel
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.parity.compare import Comparison, combined_once
from quark_eagle.parity.replay import replay
from quark_eagle.parity.verdict import judge
from quark_eagle.progress import Progress
from quark_eagle.quantize.quantization_config import quantization_config
from quark_eagle.quantize.scheme import PTPC_FP8
from quark_eagle.trace.target_trace import TargetTrace
from tests.tiny import write_config, write_tensors, write_tiny_draft
from tests.tiny_trace import write_tiny_trace

Pair = tuple[Path, Path]


def to_fp8(draft: Path, directory: Path, exclude: Sequence[str] = ("fc", "model.fc", "lm_head")) -> Path:
    """A draft whose decoder layer is in FP8, by the definition. Quark's own exclude list is fc, lm_head."""
    from safetensors.torch import load_file

    tensors = {}
    for name, tensor in load_file(draft / "model.safetensors").items():
        tensors[name] = tensor
        if name.endswith("_proj.weight"):
            quantized = quantize_per_channel(tensor)
            tensors[name] = quantized.q
            tensors[f"{name}_scale"] = quantized.scale
    directory.mkdir(parents=True)
    write_tensors(directory, tensors)
    config = json.loads((draft / "config.json").read_text())
    write_config(directory, config | {"quantization_config": quantization_config(PTPC_FP8, exclude)})
    return directory


@pytest.fixture(scope="module")
def fp8_draft(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_fp8(pair[0], tmp_path_factory.mktemp("fp8") / "draft-fp8")


def measure(baseline: Path, candidate: Path, trace: Path, **options: object) -> ParityReport:
    return Comparison.open(baseline, candidate, trace, **options).run()  # type: ignore[arg-type]


def test_a_draft_against_itself_has_equal_counts_and_shares_every_proposal(pair: Pair) -> None:
    draft, trace = pair
    report = measure(draft, draft, trace)
    assert all(prompt.baseline == prompt.candidate for prompt in report.prompts)
    assert report.summary.num_proposals_shared == report.summary.num_proposals_compared > 0
    assert judge(report).rule == "too few conversations"  # neither dead nor collapsed


def test_the_report_counts_what_replay_finds(pair: Pair, fp8_draft: Path) -> None:
    draft, trace = pair
    comparison = Comparison.open(draft, fp8_draft, trace, num_speculative_tokens=2)
    report = comparison.run()
    for arm, model in zip(("baseline", "candidate"), comparison.drafts, strict=True):
        accepted = rounds = 0
        for traced in TargetTrace.open(trace):
            lengths, start = replay(model, traced, 2).accepted.tolist(), 0
            while start < len(lengths):
                accepted, rounds, start = accepted + lengths[start], rounds + 1, start + lengths[start] + 1
        rates = getattr(report.summary.overall.walk, arm)
        assert (rates.num_accepted_tokens, rates.num_drafts) == (accepted, rounds)


def test_an_fp8_draft_keeps_most_of_its_acceptance_and_differs_somewhere(pair: Pair, fp8_draft: Path) -> None:
    report = measure(pair[0], fp8_draft, pair[1])
    assert judge(report).rule == "too few conversations"  # neither dead nor collapsed
    assert report.summary.num_proposals_shared < report.summary.num_proposals_compared
    assert (report.baseline.weight_dtype, report.candidate.weight_dtype) == ("BF16", "F8_E4M3")


def test_a_kept_module_that_the_engine_takes_for_fp8_is_a_collapse(pair: Pair, fp8_draft: Path) -> None:
    report = measure(pair[0], fp8_draft, pair[1], miscast=("fc",))
    assert judge(report).rule == "collapse"
    assert report.candidate.miscast == ["fc"]


@pytest.mark.parametrize("k", [1, 3, 8])
def test_walk_only_makes_the_rounds_of_the_full_replay(pair: Pair, fp8_draft: Path, k: int) -> None:
    full = measure(pair[0], fp8_draft, pair[1], num_speculative_tokens=k)
    walked = measure(pair[0], fp8_draft, pair[1], num_speculative_tokens=k, walk_only=True)
    assert walked.summary.overall.walk == full.summary.overall.walk
    assert walked.summary.overall.every_start is None
    assert walked.summary.tau_curve is None


def test_the_tau_curve_at_k_is_what_a_measurement_at_k_finds(pair: Pair, fp8_draft: Path) -> None:
    curve = measure(pair[0], fp8_draft, pair[1]).summary.tau_curve
    assert curve is not None
    assert [point.num_speculative_tokens for point in curve] == list(range(1, 9))
    for point in (curve[0], curve[4]):
        there = measure(pair[0], fp8_draft, pair[1], num_speculative_tokens=point.num_speculative_tokens)
        walk = there.summary.overall.walk
        assert point.candidate_num_drafts == walk.candidate.num_drafts
        assert point.candidate_mean_acceptance_length == pytest.approx(walk.candidate.mean_acceptance_length)


def test_every_category_is_reported_and_they_add_up(pair: Pair) -> None:
    summary = measure(pair[0], pair[0], pair[1]).summary
    assert list(summary.categories) == ["coding", "math"]
    assert sum(part.walk.baseline.num_drafts for part in summary.categories.values()) == (
        summary.overall.walk.baseline.num_drafts
    )


def test_float32_activations_are_recorded_as_such(pair: Pair) -> None:
    report = measure(pair[0], pair[0], pair[1], dtype="float32")
    assert report.provenance.dtype == "float32"


def test_both_arms_hold_the_tensors_they_share_once(pair: Pair, fp8_draft: Path) -> None:
    first, second = Comparison.open(pair[0], fp8_draft, pair[1]).drafts
    for name in ("fc.weight", "lm_head.weight", "embed_rows"):
        assert first.weights[name].data_ptr() == second.weights[name].data_ptr()
    assert second.weights["layers.0.mlp.up_proj.weight"].dtype == torch.float8_e4m3fn


def test_states_combined_once_for_both_arms_give_the_counts_of_each_arm_alone(pair: Pair, fp8_draft: Path) -> None:
    first, second = Comparison.open(pair[0], fp8_draft, pair[1]).drafts
    for traced in TargetTrace.open(pair[1]):
        combined = combined_once(traced, first, second)
        assert combined.aux_hidden_states is None
        for draft in (first, second):
            assert torch.equal(replay(draft, combined, 3).proposals, replay(draft, traced, 3).proposals)


def test_states_are_not_shared_with_an_arm_whose_fc_differs(pair: Pair, fp8_draft: Path) -> None:
    first, second = Comparison.open(pair[0], fp8_draft, pair[1], miscast=("fc",)).drafts
    assert combined_once(TargetTrace.open(pair[1]).prompt(0), first, second).projected is None


def test_an_fp8_baseline_is_refused(pair: Pair, fp8_draft: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is quantized, but the baseline is the BF16 draft"):
        Comparison.open(fp8_draft, fp8_draft, pair[1])


def test_a_candidate_of_another_target_is_refused_and_named(pair: Pair, tmp_path: Path) -> None:
    foreign = write_tiny_draft(tmp_path / "foreign", draft_vocab=8, aux_layer_ids=(1, 5, 9))
    with pytest.raises(TraceMismatchError, match=r"candidate .*foreign: .*does not fit.*\[1, 5, 9\]"):
        Comparison.open(pair[0], foreign, pair[1])


def test_what_both_drafts_lack_is_told_together(pair: Pair, tmp_path: Path) -> None:
    foreign = write_tiny_draft(tmp_path / "foreign", draft_vocab=8, aux_layer_ids=(1, 5, 9))
    with pytest.raises(TraceMismatchError, match=r"(?s)baseline .*candidate "):
        Comparison.open(foreign, foreign, pair[1])


def test_progress_is_told_of_every_prompt(pair: Pair) -> None:
    class Counting(Progress):
        done = 0

        def advance(self, n: int) -> None:
            self.done += n

        def task(self, description: str, total: int, unit: str = "B"):  # type: ignore[no-untyped-def, override]
            from contextlib import nullcontext

            self.total = total
            return nullcontext(self)

    progress = Counting()
    Comparison.open(pair[0], pair[0], pair[1]).run(progress=progress)
    assert progress.done == progress.total == 4


def test_time_is_estimated_from_a_prompt_of_the_trace(pair: Pair) -> None:
    assert 0 < Comparison.open(pair[0], pair[0], pair[1]).estimate().seconds < 60


def test_hashes_identify_the_weights_and_the_trace(pair: Pair, tmp_path: Path) -> None:
    copied = shutil.copytree(pair[0], tmp_path / "copy")
    other = write_tiny_draft(tmp_path / "other", draft_vocab=8, seed=7)
    report, again = measure(pair[0], copied, pair[1]), measure(pair[0], other, pair[1])
    assert report.candidate.weights_sha256 == report.baseline.weights_sha256
    assert again.candidate.weights_sha256 != again.baseline.weights_sha256
    assert report.provenance.trace_sha256 == TargetTrace.open(pair[1]).sha256


def test_a_trace_without_anything_to_propose_is_unusable(pair: Pair, tmp_path: Path) -> None:
    trace = write_tiny_trace(tmp_path / "short", pair[0], num_generated=1)
    assert judge(measure(pair[0], pair[0], trace)).outcome == "unusable"


def test_a_device_that_is_not_here_is_refused_before_a_draft_is_loaded(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Eagle3Draft, "load", lambda *args, **options: pytest.fail("a draft was loaded"))
    with pytest.raises(UsageError, match=r"--device cuda: torch .* sees no GPU here"):
        Comparison.open(pair[0], pair[0], pair[1], device="cuda")
