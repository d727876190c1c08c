"""The whole of a served measurement with servers of its own: a sound FP8 draft, a broken one, and what replay says."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.documents.parity import ParityReport
from quark_eagle.errors import EngineError
from quark_eagle.opening import open_served
from quark_eagle.parity.compare import Comparison
from quark_eagle.parity.explain import explain
from quark_eagle.parity.served.losslessness import losslessness
from quark_eagle.parity.served.measure import ServedComparison
from quark_eagle.parity.served.report import Setup, report_of
from quark_eagle.parity.served.schedule import schedule
from quark_eagle.parity.served.session import PassResult, Session
from quark_eagle.parity.verdict import MIN_CONVERSATIONS, Rules, judge
from quark_eagle.progress import Progress, Task, Unit
from quark_eagle.serve_options import ServeOptions
from quark_eagle.serving import guardian
from quark_eagle.serving.completion import Completion
from quark_eagle.serving.engine import Engine
from quark_eagle.serving.server import VllmServer
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import RecordOptions
from quark_eagle.trace.recording import record
from quark_eagle.trace.target_trace import TargetTrace
from quark_eagle.trace.trace_document import Sampling
from tests.parity.test_compare import to_fp8
from tests.parity.test_served_given import server_info
from tests.served import ENVIRONMENT, OPTIONS, READY_SECONDS
from tests.serving.proxy import Reply, proxy
from tests.tiny_target import write_prompts

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

Pair = tuple[Path, Path]
Dtype = Literal["bfloat16", "float32"]
SAMPLING = Sampling(max_tokens=12)
BLOCKS, K = 3, 3
FEW = 16  # prompts: a collapse shows on these


@pytest.fixture(scope="module")
def fp8(tiny_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_fp8(tiny_pair[1], tmp_path_factory.mktemp("fp8") / "draft-fp8")


@pytest.fixture(scope="module")
def naive(tiny_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With Quark's own exclude list: vLLM builds `fc` in FP8 and casts its BF16 weight."""
    return to_fp8(tiny_pair[1], tmp_path_factory.mktemp("naive") / "draft-naive", exclude=("fc", "lm_head"))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("asked") / "p.jsonl"
    return write_prompts(file, [f"question {i}" for i in range(MIN_CONVERSATIONS)])


def opened(pair: Pair, candidate: Path, prompts: Path, **chosen: Any) -> ServedComparison:
    """From what a user says to a measurement; what it starts are small servers."""
    serve = ServeOptions(prompts=prompts, max_tokens=SAMPLING.max_tokens, ready_seconds=READY_SECONDS, **chosen)
    if serve.baseline_url is None:
        flags = [name if value is True else f"{name}={value}" for name, value in OPTIONS.items()]
        serve = replace(serve, target=str(pair[0]), vllm_option=flags)
    return open_served((pair[1], candidate), serve, num_speculative_tokens=K, dtype="bfloat16")


@contextmanager
def small() -> Iterator[None]:
    """The environment of a user with a small machine."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in ENVIRONMENT.items():
            patched.setenv(name, value)
        yield


@dataclass(kw_only=True)
class Measured:
    """A measurement, and what was told on its way."""

    comparison: ServedComparison
    results: list[PassResult] = field(default_factory=list)
    seconds_left: list[float] = field(default_factory=list)

    def run(self) -> ParityReport:
        def on_turn(done: PassResult, left: float) -> None:
            self.results.append(done)
            self.seconds_left.append(left)

        return self.comparison.run(command_line=["a test"], on_turn=on_turn)


@pytest.fixture(scope="module")
def measured(tiny_pair: Pair, fp8: Path, prompts: Path) -> Measured:
    with small():
        made = opened(tiny_pair, fp8, prompts, concurrency=8)
    return Measured(comparison=replace(made, schedule=schedule("side by side", BLOCKS)))  # whatever memory there is


@pytest.fixture(scope="module")
def served(measured: Measured) -> ParityReport:
    """Three starts: the target alone, with the BF16 draft, and with the FP8 draft."""
    with small():
        return measured.run()


def traced(pair: Pair, prompts: Path, directory: Path, dtype: Dtype) -> TargetTrace:
    """The target's own answers, as transformers computes them."""
    options = RecordOptions(sampling=SAMPLING, dtype=dtype, state_dtype=dtype)
    record(str(pair[0]), Checkpoint.open(pair[1]), PromptSet.load(prompts, "parity"), directory, options)
    return TargetTrace.open(directory)


def test_in_float32_every_block_counts_what_replay_counts_and_no_token_is_another(
    tiny_pair: Pair, tiny_server: VllmServer, prompts: Path, tmp_path: Path
) -> None:
    """Two roads to one number: an engine that draws its own states, and ours over the target's recorded ones."""

    def developing(reply: Reply) -> None:
        if reply.path.startswith("/server_info"):
            reply.status, reply.body = 200, server_info(tiny_pair[1])

    with proxy(tiny_server.url, developing) as telling:
        url = {"baseline_url": telling.url, "candidate_url": telling.url}
        measured = Measured(comparison=opened(tiny_pair, tiny_pair[1], prompts, concurrency=8, **url))
        served = measured.run()
    trace = traced(tiny_pair, prompts, tmp_path / "trace", "float32")
    replayed = Comparison.open(
        tiny_pair[1], tiny_pair[1], trace.directory, num_speculative_tokens=K, dtype="float32", walk_only=True
    ).run()
    assert [prompt.id for prompt in served.prompts] == [prompt.id for prompt in replayed.prompts]
    for ours, theirs in zip(replayed.prompts, served.prompts, strict=True):
        assert theirs.sha256 == ours.sha256
        for arm in ("baseline", "candidate"):
            assert [block.walk for block in getattr(theirs, arm).blocks] == [ours.baseline.walk] * BLOCKS, ours.id
    alone = {one.info.id: tuple(one.token_ids[one.info.prompt_length :].tolist()) for one in trace}
    for result in measured.results:
        assert {name: answer.token_ids for name, answer in answers(result).items()} == alone


def answers(result: PassResult) -> dict[str, Completion]:
    assert all(isinstance(outcome, Completion) for outcome in result.outcomes.values())
    return {name: outcome for name, outcome in result.outcomes.items() if isinstance(outcome, Completion)}


def test_an_fp8_draft_accepts_in_the_engine_what_replay_says(
    served: ParityReport, tiny_pair: Pair, fp8: Path, prompts: Path, tmp_path: Path
) -> None:
    """But for roundings: in bfloat16 an engine sums in another order, and a proposal turns here and there."""
    trace = traced(tiny_pair, prompts, tmp_path / "trace", "bfloat16")
    replayed = Comparison.open(tiny_pair[1], fp8, trace.directory, num_speculative_tokens=K, walk_only=True).run()
    for arm in ("baseline", "candidate"):
        ours, theirs = (getattr(it.summary.overall.walk, arm) for it in (replayed, served))
        assert ours.num_accepted_tokens > MIN_CONVERSATIONS
        assert theirs.num_accepted_tokens == pytest.approx(BLOCKS * ours.num_accepted_tokens, rel=0.05)
        assert theirs.mean_acceptance_length == pytest.approx(ours.mean_acceptance_length, rel=0.02)
    assert judge(served, Rules(margin=0.5, num_resamples=999)).outcome == "pass"


def test_in_bfloat16_answers_differ_from_the_targets_own_in_ties_alone(served: ParityReport) -> None:
    assert served.served is not None
    assert [found.arm for found in served.served.lossless] == ["baseline", "candidate"]
    for found in served.served.lossless:
        assert found.num_compared == BLOCKS * MIN_CONVERSATIONS
        assert found.num_equal + found.num_ties == found.num_compared
        assert found.real == []


def test_the_report_tells_how_every_server_was_set_and_what_it_counted(served: ParityReport, fp8: Path) -> None:
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
    before, after = (arm.settings | {"draft": ""} for arm in told.arms[1:])
    assert before == after  # casts of the target's float32 weights among them
    assert before["dtype"] == "bfloat16"
    assert served.candidate.weight_dtype == "F8_E4M3"
    assert told.arms[2].settings["draft"] == str(fp8)
    for arm in told.arms:
        assert arm.command is not None
        assert {"127.0.0.1", "--no-enable-prefix-caching", *OPTIONS} <= set(arm.command)
        assert arm.environment["VLLM_CPU_KVCACHE_SPACE"] == ENVIRONMENT["VLLM_CPU_KVCACHE_SPACE"]
    for one in told.passes[1:]:
        assert one.counters is not None
        assert one.counters.num_draft_tokens == K * one.counters.num_drafts
    assert served.provenance.measured_by == "vllm served"
    assert served.provenance.arch == Engine.find().version().arch
    assert (told.left_out, told.notes) == ([], [])


@pytest.mark.usefixtures("served")
def test_after_the_first_pass_it_is_known_how_long_the_rest_takes(measured: Measured) -> None:
    assert len(measured.seconds_left) == 1 + 2 * BLOCKS
    alone = measured.results[0].seconds
    assert measured.seconds_left[0] > 2 * BLOCKS * alone  # and two loads
    assert measured.seconds_left[1:] == sorted(measured.seconds_left[1:], reverse=True)
    assert measured.seconds_left[-1] == 0


def test_it_is_explained_like_a_replayed_one_but_for_proposals(served: ParityReport) -> None:
    found = explain(served)
    assert found.agreement.rate is None
    assert found.overall.num_drafts_lost != 0


def test_no_log_is_kept_and_nothing_is_left_running(served: ParityReport) -> None:
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


class Killing(Progress):
    """Kills the process that computes for the candidate, once the first answer of a fourth block has come."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @contextmanager
    def task(self, description: str, total: int, unit: Unit = "B") -> Iterator[Task]:
        yield _Kill(self.session) if description == f"ask candidate, block {BLOCKS + 1} of {BLOCKS + 1}" else Task()


class _Kill(Task):
    def __init__(self, session: Session) -> None:
        (self.server,) = (voice.server for voice in session.voices if voice.arm == "candidate")

    def advance(self, n: int) -> None:
        assert self.server is not None
        for pid in self.server.process.members():
            if "EngineCore" in _command_of(pid):
                os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """Three blocks of a broken draft one request at a time, and how a fourth ended."""

    session: Session
    report: ParityReport
    error: EngineError


@pytest.fixture(scope="module")
def broken(tiny_pair: Pair, naive: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    """Two starts: the BF16 draft and the broken FP8 draft."""
    with small():
        made = opened(tiny_pair, naive, prompts, deterministic=True, limit=FEW)
        session = made.session(tmp_path_factory.mktemp("broken"))
        session.progress = Killing(session)
        with pytest.raises(EngineError) as caught:
            session.run(schedule("side by side", BLOCKS + 1, without_speculation=False))
        setup = Setup(
            baseline=made.baseline,
            candidate=made.candidate,
            schedule=schedule("side by side", BLOCKS, without_speculation=False),
            seconds=0.0,
            command_line=(),
        )
        return Broken(session=session, report=report_of(session, setup), error=caught.value)


def test_a_draft_as_quark_exports_it_fails_the_gate_by_what_the_engine_counted(broken: Broken) -> None:
    found = judge(broken.report, Rules(num_resamples=999))
    assert (found.outcome, found.rule) == ("fail", "collapse")
    assert broken.report.candidate.miscast == ["fc"]
    assert broken.report.served is not None
    assert any(note.startswith("candidate: the engine cast 1 weights into FP8") for note in broken.report.served.notes)


@pytest.mark.usefixtures("served")
def test_even_a_broken_draft_changes_no_token_but_ties(broken: Broken, measured: Measured) -> None:
    blocks = [answers(result) for result in broken.session.results if result.turn.arm == "candidate"]
    found = losslessness("candidate", answers(measured.results[0]), blocks, "bfloat16")
    assert (found.num_compared, found.real) == (BLOCKS * FEW, [])


def test_in_bfloat16_every_pass_is_the_same_when_asked_one_at_a_time(broken: Broken) -> None:
    """In tokens and in counts: what --deterministic promises."""
    assert broken.session.driving.concurrency == 1
    for arm in ("baseline", "candidate"):
        first, *others = [answers(it) for it in broken.session.results if it.turn.arm == arm]
        assert len(others) == BLOCKS - 1
        for other in others:
            assert {name: (it.token_ids, it.rounds) for name, it in other.items()} == {
                name: (it.token_ids, it.rounds) for name, it in first.items()
            }
    assert broken.report.served is not None
    assert broken.report.served.noise is not None
    assert (broken.report.served.noise.low, broken.report.served.noise.high) == (0.0, 0.0)


def test_an_engine_that_is_killed_ends_the_other_one_too(broken: Broken) -> None:
    baseline, candidate = (voice.server for voice in broken.session.voices)
    assert baseline is not None
    assert candidate is not None
    assert f"Log: {candidate.log_path}\nIts last lines:\n" in str(broken.error)
    assert "The process that computes (EngineCore) died under the server." in str(broken.error)
    assert [(it.turn.arm, it.turn.block) for it in broken.session.results if it.turn.block >= BLOCKS] == []
    assert [list(guardian.members(server.pid)) for server in (baseline, candidate)] == [[], []]
