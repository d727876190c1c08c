"""Recording through the real vLLM: a tiny pair that is served, killed and continued; and a target of Kimi's kind."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from quark_eagle.checkpoint.manifest import digest
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.cli.app import app
from quark_eagle.documents.anchor import ANCHOR_NAME, Anchor
from quark_eagle.errors import EngineError, TraceError
from quark_eagle.parity.anchor import anchor
from quark_eagle.progress import Progress, Task, Unit
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import Estimate, RecordOptions
from quark_eagle.trace.recording import record
from quark_eagle.trace.target_trace import TargetTrace
from quark_eagle.trace.trace_document import Sampling
from quark_eagle.trace.vllm_options import VllmOptions
from tests.published import PUBLISHED
from tests.tiny import write_tiny_draft
from tests.tiny_kimi import ENGINE_OPTIONS, ENVIRONMENT, write_tiny_kimi
from tests.tiny_pair import AUX_LAYERS, write_tiny_pair
from tests.tiny_target import VOCAB, write_prompts

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CONTENTS = [f"{word} {number}?" for number in range(3) for word in ("Why", "Where is it then", "How many are there")]
OPTIONS = RecordOptions(
    sampling=Sampling(max_tokens=32), dtype="float32", state_dtype="float32", batch_size=3, vllm=VllmOptions()
)


class KillsItsEngine(Progress):
    """Kills the engine's driver with a signal that nobody can catch, once so many tokens are recorded."""

    def __init__(self, tokens: int) -> None:
        self.left, self.killed = tokens, 0

    @contextmanager
    def task(self, description: str, total: int, unit: Unit = "B") -> Iterator[Task]:
        yield SimpleNamespace(advance=self.advance if description == "record" else lambda n: None)  # type: ignore[misc]

    def advance(self, n: int) -> None:
        self.left -= n
        if self.left < 0 and not self.killed:
            (self.killed,) = drivers()
            os.kill(self.killed, signal.SIGKILL)


def drivers() -> list[int]:
    """Processes of this user that are drivers of ours, and children of a guardian that is our child."""
    guardians = {pid for pid, parent, _ in processes() if parent == os.getpid()}
    return [pid for pid, parent, command in processes() if parent in guardians and "quark_eagle_driver" in command]


def processes() -> Iterator[tuple[int, int, str]]:
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
                yield int(directory.name), parent, (directory / "cmdline").read_text()
            except OSError:
                continue


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A recording that was killed on its way and continued."""

    target: Path
    draft: Path
    prompts: PromptSet
    directory: Path
    death: str  # the message of it
    shards_of_the_first_run: dict[str, str]
    left: int  # processes that lived on after the death
    estimates: tuple[Estimate, Estimate]
    trace: TargetTrace


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    directory = tmp_path_factory.mktemp("recorded")
    target, draft = write_tiny_pair(directory)
    prompts = PromptSet.load(write_prompts(directory / "prompts.jsonl", CONTENTS))
    output, estimates = directory / "trace", []
    with pytest.raises(EngineError) as death:
        record(target, Checkpoint.open(draft), prompts, output, OPTIONS, progress=KillsItsEngine(110),
               announce=estimates.append)  # fmt: skip
    left = len(drivers())
    shards = {path.name: digest(path).sha256 for path in output.glob("shard-*")}
    trace = record(target, Checkpoint.open(draft), prompts, output, OPTIONS, announce=estimates.append)
    return Recorded(
        target=target,
        draft=draft,
        prompts=prompts,
        directory=directory,
        death=str(death.value),
        shards_of_the_first_run=shards,
        left=left,
        estimates=(estimates[0], estimates[1]),
        trace=trace,
    )


def test_states_and_scores_are_those_of_transformers_along_the_same_path(recorded: Recorded) -> None:
    """The same layers, the same rows, answers included; the same likelihoods and margins of what was generated."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(recorded.target, dtype=torch.float32)
    assert recorded.trace.target.aux_layer_ids == AUX_LAYERS
    for traced in recorded.trace:
        with torch.no_grad():
            output = model(input_ids=traced.token_ids[None, :-1].clone(), output_hidden_states=True)
        wanted = torch.cat([output.hidden_states[i][0] for i in AUX_LAYERS], dim=-1)
        assert traced.aux_hidden_states is not None
        assert len(traced.aux_hidden_states) == traced.info.num_tokens - 1
        torch.testing.assert_close(traced.aux_hidden_states, wanted, atol=1e-3, rtol=1e-3)
        logits = output.logits[0, traced.info.prompt_length - 1 :]
        generated = traced.token_ids[traced.info.prompt_length :]
        assert torch.equal(generated, logits.argmax(-1))
        log_probs = logits.log_softmax(-1).gather(1, generated[:, None])[:, 0]
        torch.testing.assert_close(traced.log_probs, log_probs, atol=1e-3, rtol=1e-3)
        top2 = logits.topk(2, dim=-1).values
        torch.testing.assert_close(traced.top2_margin, top2[:, 0] - top2[:, 1], atol=1e-3, rtol=1e-3)


def test_both_engines_record_the_same_tokens(recorded: Recorded, tmp_path: Path) -> None:
    """The engine's rendering of a prompt is transformers' own, and a draft that is served along changes no answer."""
    options = replace(OPTIONS, vllm=None)
    other = record(recorded.target, Checkpoint.open(recorded.draft), recorded.prompts, tmp_path / "trace", options)
    for ours, theirs in zip(recorded.trace, other, strict=True):
        assert torch.equal(ours.token_ids, theirs.token_ids)
        assert ours.info.stop_reason == theirs.info.stop_reason
        assert ours.info.prompt_length == theirs.info.prompt_length
    assert recorded.trace.rows.embed_rows is not None
    assert other.rows.embed_rows is not None
    assert torch.equal(recorded.trace.rows.embed_rows, other.rows.embed_rows)


def test_a_killed_engine_is_told_with_its_log_and_nothing_lives_on(recorded: Recorded) -> None:
    assert "vLLM's process ended amid its work. What was recorded is kept" in recorded.death
    log = re.search(r"Log: (\S+)", recorded.death)
    assert log is not None
    assert "Loading weights took" in Path(log[1]).read_text()
    Path(log[1]).unlink()
    assert recorded.left == 0
    assert not list(recorded.directory.glob(".trace.*"))  # what passed through beside it


def test_the_same_command_continues_after_the_engine_was_killed(recorded: Recorded) -> None:
    first, second = recorded.estimates
    assert first.num_done == 0
    # Killed after its first shard of three prompts; a busy machine may see a second one written before it dies.
    assert 0 < second.num_done < len(CONTENTS)
    assert second.num_done == 3 * len(recorded.shards_of_the_first_run)
    shards = {shard.file: shard.sha256 for shard in recorded.trace.document.shards}
    assert recorded.shards_of_the_first_run.items() <= shards.items()
    assert first.size_bytes >= recorded.trace.size_bytes - 4 * 4096  # an upper bound, headers left out
    assert first.seconds is not None


def test_replay_finds_every_round_that_was_served(recorded: Recorded) -> None:
    found = anchor(recorded.trace, recorded.draft)
    assert found.num_identical == found.num_prompts == found.num_prompts_of_trace == len(CONTENTS)
    assert found.served_num_drafts == found.replayed_num_drafts
    assert found.served_num_accepted_tokens == found.replayed_num_accepted_tokens > found.served_num_drafts / 10
    assert found.matches
    assert found.bound == 0.0
    assert recorded.trace.anchor == found == Anchor.read(recorded.trace.directory / ANCHOR_NAME)


def test_a_finished_trace_without_its_anchor_gets_it_by_the_same_command(recorded: Recorded) -> None:
    path = recorded.trace.directory / ANCHOR_NAME
    path.unlink(missing_ok=True)
    arguments = ["trace", recorded.target, "--draft", recorded.draft, "--output", recorded.trace.directory]
    arguments += ["--prompts", recorded.prompts.source, "--engine", "vllm"]
    arguments += ["--max-tokens", 32, "--dtype", "float32", "--state-dtype", "float32", "--batch-size", 3]
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert "is finished, and only its anchor is missing" in result.stderr
    assert "9 prompts equal round by round" in " ".join(result.stdout.split())
    assert path.is_file()


def test_a_draft_that_was_not_served_anchors_nothing(recorded: Recorded, tmp_path: Path) -> None:
    other = write_tiny_draft(
        tmp_path / "other", vocab=VOCAB, hidden=128, heads=2, kv_heads=2, head_dim=64, aux_layer_ids=AUX_LAYERS
    )
    with pytest.raises(TraceError, match=r"were served while .* was recorded"):
        anchor(recorded.trace, other)


def test_a_target_that_is_split_over_two_ranks_is_recorded_whole(recorded: Recorded, tmp_path: Path) -> None:
    """Every rank holds a part of each layer and of the head; states, scores and rounds are those of one rank alone."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    # A core each; left to itself the CPU build wants a NUMA node for each.
    environment = {"VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}|{cores[-1]}"}
    options = replace(OPTIONS, vllm=VllmOptions(tensor_parallel_size=2, environment=environment))
    split = record(recorded.target, Checkpoint.open(recorded.draft), recorded.prompts, tmp_path / "trace", options)
    assert split.target.engine.endswith(", 2 ranks")
    assert split.served is not None
    assert recorded.trace.served is not None
    assert split.served.rounds == recorded.trace.served.rounds
    for ours, theirs in zip(split, recorded.trace, strict=True):
        assert torch.equal(ours.token_ids, theirs.token_ids)
        assert ours.aux_hidden_states is not None
        torch.testing.assert_close(ours.aux_hidden_states, theirs.aux_hidden_states, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(ours.log_probs, theirs.log_probs, atol=1e-3, rtol=1e-3)


def test_a_target_of_kimis_kind_is_recorded_and_replay_finds_every_round_of_its_draft(tmp_path: Path) -> None:
    """MLA throughout and a nested text config; the draft has two layers of latent attention. A Llama-type draft cannot
    be served beside it on a CPU, whose two attention backends share no block size."""
    from transformers import AutoModelForCausalLM

    kind = replace(
        PUBLISHED["MLA, two layers"], vocab=VOCAB, draft_vocab=4, embed_tokens=False, aux_layer_ids=(1, 3, 5)
    )
    draft = write_tiny_draft(tmp_path / "draft", kind)
    d2t = Checkpoint.open(draft).tensor("d2t")
    target, text = write_tiny_kimi(tmp_path, emits=(torch.arange(len(d2t)) + d2t).tolist())
    prompts = PromptSet.load(write_prompts(tmp_path / "prompts.jsonl", CONTENTS))
    vllm = VllmOptions(options=ENGINE_OPTIONS, environment=ENVIRONMENT)
    trace = record(target, Checkpoint.open(draft), prompts, tmp_path / "trace", replace(OPTIONS, vllm=vllm))
    assert (trace.target.num_hidden_layers, trace.target.hidden_size, trace.target.vocab_size) == (6, 64, VOCAB)
    found = anchor(trace, draft)
    assert found.num_identical == found.num_prompts == len(CONTENTS)
    assert found.served_num_drafts == found.replayed_num_drafts > 100
    assert found.served_num_accepted_tokens == found.replayed_num_accepted_tokens > 20
    model = AutoModelForCausalLM.from_pretrained(text, dtype=torch.float32)
    for traced in trace:
        with torch.no_grad():
            output = model(input_ids=traced.token_ids[None, :-1].clone(), output_hidden_states=True)
        wanted = torch.cat([output.hidden_states[i][0] for i in (1, 3, 5)], dim=-1)
        torch.testing.assert_close(traced.aux_hidden_states, wanted, atol=1e-3 * float(wanted.abs().max()), rtol=1e-3)
        generated = traced.token_ids[traced.info.prompt_length :]
        assert torch.equal(generated, output.logits[0, traced.info.prompt_length - 1 :].argmax(-1))
    rows = trace.rows
    assert rows.embed_ids is not None
    embedding = load_file(target / "model.safetensors")["language_model.model.embed_tokens.weight"]
    assert rows.embed_rows is not None
    assert torch.equal(rows.embed_rows, embedding[rows.embed_ids])
