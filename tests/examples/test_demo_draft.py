"""The real pair: the shipped draft on its own target's path, quantized well, and as Quark's export breaks it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from quark_eagle.checked import Check, Checked
from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.verify import verify
from quark_eagle.parity.verdict import Rules
from quark_eagle.pipeline import quantize_and_check
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import RecordOptions
from quark_eagle.trace.recording import record
from quark_eagle.trace.trace_document import Sampling

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DRAFT = EXAMPLES / "smollm2-135m-eagle3"
NAIVE = ("fc", "lm_head")  # what AMD's recipe excludes, in Quark's own spelling

pytestmark = [pytest.mark.quark, pytest.mark.slow]


@dataclass(frozen=True)
class Demo:
    checkpoint: Checkpoint
    trace: Path
    directory: Path

    def quantize(self, name: str, exclude: tuple[str, ...] | None = None) -> Checked:
        layout = Eagle3Layout.of(self.checkpoint)
        plan = QuantPlan.of(layout)
        if exclude is not None:
            plan = replace(plan, exclude=exclude)
        # 2,000 tokens tell a collapse from parity; a margin of 1 % takes the longer answers of `make demo`.
        check = Check(trace=self.trace, rules=Rules(margin=0.05))
        return quantize_and_check(self.checkpoint, layout, plan, self.directory / name, check)


@pytest.fixture(scope="module")
def demo(prepared_target: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    directory = tmp_path_factory.mktemp("demo")
    checkpoint = Checkpoint.open(DRAFT)
    prompts = PromptSet.load(None, "parity").limited(64)
    record(prepared_target, checkpoint, prompts, directory / "trace", RecordOptions(sampling=Sampling(max_tokens=32)))
    return Demo(checkpoint, directory / "trace", directory)


@pytest.fixture(scope="module")
def ours(demo: Demo) -> Checked:
    return demo.quantize("fp8")


@pytest.fixture(scope="module")
def naive(demo: Demo) -> Checked:
    return demo.quantize("naive", NAIVE)


def test_the_draft_is_accepted_on_its_targets_path(ours: Checked) -> None:
    tau = ours.report.summary.overall.walk.baseline.mean_acceptance_length
    assert tau is not None
    assert tau > 1.4


def test_fp8_keeps_the_acceptance_and_is_published(demo: Demo, ours: Checked) -> None:
    walk = ours.report.summary.overall.walk
    assert ours.published
    assert ours.exit_code == 0
    assert walk.candidate.num_accepted_tokens > 0.9 * walk.baseline.num_accepted_tokens
    assert verify(demo.directory / "fp8", DRAFT).ok


def test_quarks_naive_exclude_list_makes_a_dead_draft_that_is_not_published(demo: Demo, naive: Checked) -> None:
    walk = naive.report.summary.overall.walk
    assert walk.candidate.num_accepted_tokens < 0.05 * walk.baseline.num_accepted_tokens
    assert (naive.verdict.outcome, naive.verdict.rule) == ("fail", "collapse")
    assert naive.report.candidate.misread  # which would fail it whatever was counted
    assert naive.exit_code == 3
    assert not (demo.directory / "naive").exists()
    assert naive.replayed.report_path.exists()


def test_verify_names_the_module_that_kills_it(naive: Checked) -> None:
    (error,) = naive.verification.errors
    assert "fc" in error.subject
    assert "BF16" in error.message
