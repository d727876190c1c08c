"""The whole of a served measurement, with servers of its own: what replay says, token for token and round by round."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.documents.parity import ParityReport
from quark_eagle.parity.compare import Comparison
from quark_eagle.parity.explain import explain
from quark_eagle.parity.served.arms import Arms
from quark_eagle.parity.served.measure import ServedComparison
from quark_eagle.parity.served.schedule import schedule
from quark_eagle.parity.served.session import Driving
from quark_eagle.parity.side import Side
from quark_eagle.parity.verdict import MIN_CONVERSATIONS, Rules, judge
from quark_eagle.serving.engine import Engine
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import RecordOptions
from quark_eagle.trace.recording import record
from quark_eagle.trace.trace_document import Sampling
from tests.served import READY_SECONDS, tiny_command
from tests.tiny_target import write_prompts

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SAMPLING = Sampling(max_tokens=12)
BLOCKS, K = 3, 3


@pytest.fixture(scope="module")
def drafts(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The BF16 draft and a broken one: its head is one row off, so that every proposal is its neighbour."""
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_pair[1], tmp_path_factory.mktemp("broken") / "draft")
    tensors = load_file(broken / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].roll(1, 0).contiguous()
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    return tiny_pair[1], broken


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSet:
    file = tmp_path_factory.mktemp("asked") / "p.jsonl"
    return PromptSet.load(write_prompts(file, [f"question {i}" for i in range(MIN_CONVERSATIONS)]), "parity")


@pytest.fixture(scope="module")
def served(tiny_pair: tuple[Path, Path], drafts: tuple[Path, Path], prompts: PromptSet) -> ParityReport:
    engine = Engine.find()
    arms = Arms(
        base=tiny_command(tiny_pair[0], None),
        drafts={"baseline": drafts[0], "candidate": drafts[1]},
        num_speculative_tokens=K,
        platform="cpu",
    )
    comparison = ServedComparison(
        baseline=Side.open(drafts[0]),
        candidate=Side.open(drafts[1]),
        prompts=prompts,
        num_speculative_tokens=K,
        driving=Driving(sampling=SAMPLING, concurrency=8, ready_seconds=READY_SECONDS),
        schedule=schedule("side by side", BLOCKS),
        engine=engine,
        arms=arms,
    )
    return comparison.run(command_line=["a test"])


@pytest.fixture(scope="module")
def replayed(
    tiny_pair: tuple[Path, Path],
    drafts: tuple[Path, Path],
    prompts: PromptSet,
    tmp_path_factory: pytest.TempPathFactory,
) -> ParityReport:
    trace = tmp_path_factory.mktemp("replayed") / "trace"
    options = RecordOptions(sampling=SAMPLING, dtype="float32", state_dtype="float32")
    record(str(tiny_pair[0]), Checkpoint.open(drafts[0]), prompts, trace, options)
    return Comparison.open(*drafts, trace, num_speculative_tokens=K, dtype="float32", walk_only=True).run()


def test_in_float32_every_block_of_both_drafts_counts_what_replay_counts(
    served: ParityReport, replayed: ParityReport
) -> None:
    """Two roads to one number: an engine that draws its own states, and ours over the target's recorded ones."""
    assert [prompt.id for prompt in served.prompts] == [prompt.id for prompt in replayed.prompts]
    for ours, theirs in zip(replayed.prompts, served.prompts, strict=True):
        assert theirs.sha256 == ours.sha256
        for arm in ("baseline", "candidate"):
            blocks = getattr(theirs, arm).blocks
            assert [block.walk for block in blocks] == [getattr(ours, arm).walk] * BLOCKS, (ours.id, arm)


def test_in_float32_a_draft_changes_no_token_even_a_broken_one(served: ParityReport) -> None:
    assert served.served is not None
    for found in served.served.lossless:
        assert (found.num_compared, found.num_equal) == (BLOCKS * len(served.prompts), BLOCKS * len(served.prompts))


def test_a_broken_draft_fails_the_gate_by_what_the_engine_counted(served: ParityReport) -> None:
    found = judge(served, Rules(num_resamples=999))
    assert (found.outcome, found.rule) == ("fail", "collapse")


def test_in_float32_serving_does_not_differ_from_itself(served: ParityReport) -> None:
    assert served.served is not None
    assert served.served.noise is not None
    assert (served.served.noise.low, served.served.noise.high) == (0.0, 0.0)


def test_the_report_tells_how_every_server_was_set_and_what_it_counted(served: ParityReport) -> None:
    told = served.served
    assert told is not None
    assert told.order == [
        "none 0",
        "baseline 0",
        "candidate 0",
        "candidate 1",
        "baseline 1",
        "baseline 2",
        "candidate 2",
    ]
    assert [(one.arm, one.block) for one in told.passes] == [
        (arm, int(block)) for arm, block in (step.split() for step in told.order)
    ]
    assert [len(arm.load_seconds) for arm in told.arms] == [1, 1, 1]
    before, after = (arm.settings | {"draft": "", "casts": ""} for arm in told.arms[1:])
    assert before == after
    assert all(arm.command is not None and "127.0.0.1" in arm.command for arm in told.arms)
    for one in told.passes[1:]:
        assert one.counters is not None
        assert one.counters.num_draft_tokens == K * one.counters.num_drafts
    assert served.provenance.measured_by == "vllm served"
    assert served.provenance.arch == Engine.find().version().arch
    assert (told.left_out, told.notes) == ([], [])


def test_it_is_explained_like_a_replayed_one_but_for_proposals(served: ParityReport) -> None:
    found = explain(served)
    assert found.agreement.rate is None
    assert found.overall.num_drafts_lost > 0


def test_nothing_is_left_running_and_no_log_is_kept(served: ParityReport) -> None:
    assert served.served is not None
    ports = [arm.command[-1] for arm in served.served.arms if arm.command is not None]
    running = [_command_of(int(pid)) for pid in os.listdir("/proc") if pid.isdigit()]
    assert ports
    assert not [command for command in running for port in ports if f"--port\0{port}" in command]


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""
