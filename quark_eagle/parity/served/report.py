"""Report: what a session brought, as the document that the gate reads."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from quark_eagle import __version__
from quark_eagle.checkpoint.source import on_disk
from quark_eagle.documents.base import sha256_of_prompts
from quark_eagle.documents.counts import PromptResult
from quark_eagle.documents.parity import ParityReport, Provenance
from quark_eagle.documents.served import EngineCounters, LeftOut, Losslessness, Pass, Served, ServedArm, ServedArmName
from quark_eagle.errors import UsageError
from quark_eagle.parity.noise import noise_floor
from quark_eagle.parity.served.arms import relevant
from quark_eagle.parity.served.counting import blocks_of, counted, uncountable
from quark_eagle.parity.served.fitness import NOT_CHECKED
from quark_eagle.parity.served.losslessness import losslessness
from quark_eagle.parity.served.schedule import Schedule
from quark_eagle.parity.served.session import PassResult, Session
from quark_eagle.parity.served.voice import Voice
from quark_eagle.parity.side import Side
from quark_eagle.parity.summary import summarize
from quark_eagle.serving.client import Outcome
from quark_eagle.serving.completion import Completion, Failure

CONFIDENCE = 0.90  # two-sided, as of a verdict
NOT_KNOWN = "not known: the servers were given"
DRAFTS: tuple[ServedArmName, ServedArmName] = ("baseline", "candidate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a session itself does not know: which drafts its arms are, in what order it asked, how long it took."""

    baseline: Side
    candidate: Side
    schedule: Schedule
    seconds: float
    command_line: tuple[str, ...]


def report_of(session: Session, setup: Setup) -> ParityReport:
    """The report of a session that has run."""
    k = session.num_speculative_tokens
    kept, left_out = counted(session.prompts, session.results, k)
    return ParityReport(
        schema_version=1,
        num_speculative_tokens=k,
        baseline=setup.baseline.arm(),
        candidate=setup.candidate.arm(),
        provenance=_provenance(session, setup, kept),
        summary=summarize(kept, k),
        served=_served(session, setup.schedule, kept, left_out),
        prompts=kept,
    )


def _served(session: Session, schedule: Schedule, kept: Sequence[PromptResult], left_out: Sequence[LeftOut]) -> Served:
    lossless, why_not = _lossless(session)
    return Served(
        layout=schedule.layout,
        deterministic=session.driving.concurrency == 1,
        num_blocks=schedule.num_blocks,
        concurrency=session.driving.concurrency,
        order=schedule.order,
        rendering_sha256=_sha256_of(session.rendering),
        arms=[_served_arm(arm, session.voices) for arm in dict.fromkeys(voice.arm for voice in session.voices)],
        passes=[_pass(result, session.num_speculative_tokens) for result in session.results],
        left_out=list(left_out),
        lossless=lossless,
        noise=noise_floor(kept, CONFIDENCE),
        notes=[*why_not, *_notes(session)],
    )


def _lossless(session: Session) -> tuple[list[Losslessness], list[str]]:
    """Both arms' answers against the target's own, or why that cannot be."""
    alone = _answers(blocks_of("none", session.results))
    if not alone:
        return [], [f"{NOT_CHECKED}: no server without speculation was asked."]
    if not session.driving.sampling.is_greedy:
        return [], [f"{NOT_CHECKED}: at a temperature above 0 answers differ by chance."]
    dtype = _dtype(session.voices)
    return [losslessness(arm, alone[0], _answers(blocks_of(arm, session.results)), dtype) for arm in DRAFTS], []


def _answers(blocks: Sequence[Mapping[str, Outcome]]) -> list[dict[str, Completion]]:
    """The answers of each block by prompt, without the requests that failed."""
    return [{name: it for name, it in block.items() if not isinstance(it, Failure)} for block in blocks]


def _pass(result: PassResult, k: int) -> Pass:
    outcomes = list(result.outcomes.values())
    counters = result.counters
    return Pass(
        arm=result.turn.arm,
        block=result.turn.block,
        seconds=round(result.seconds, 3),
        num_requests=len(outcomes),
        num_retries=sum(outcome.attempts - 1 for outcome in outcomes),
        num_failed=sum(uncountable(outcome, result.turn.arm, k) is not None for outcome in outcomes),
        num_generated_tokens=sum(len(it.token_ids) for it in outcomes if not isinstance(it, Failure)),
        counters=None
        if counters is None
        else EngineCounters(
            num_drafts=counters.num_drafts,
            num_draft_tokens=counters.num_draft_tokens,
            num_accepted_tokens=counters.num_accepted_tokens,
            accepted_per_position=list(counters.accepted_per_position),
        ),
    )


def _served_arm(arm: ServedArmName, voices: Sequence[Voice]) -> ServedArm:
    """What is known of an arm's servers: of the first, since the others were seen to be set the same."""
    own = [voice for voice in voices if voice.arm == arm]
    facts, server = own[0].facts, own[0].server
    known = {name: getattr(facts, name) for name in facts.__dataclass_fields__ if name not in facts.unknown}
    return ServedArm(
        arm=arm,
        command=None if server is None else server.command.argv(server.engine, server.port),
        environment={} if server is None else relevant({**os.environ, **server.command.variables(server.engine)}),
        devices=[voice.devices for voice in own],
        settings=json.loads(json.dumps(known)),
        unknown=list(facts.unknown) if arm != "none" else [],
        load_seconds=[round(voice.server.ready_seconds, 1) for voice in own if voice.server is not None],
    )


def _notes(session: Session) -> list[str]:
    """What the servers did that a reader would not expect."""
    notes, k = [], session.num_speculative_tokens
    for arm in DRAFTS:
        own = [voice for voice in session.voices if voice.arm == arm]
        casts = [cast for cast in own[0].facts.casts or () if "float8" in cast]  # a target's into bfloat16 are usual
        if casts:
            notes.append(f"{arm}: the engine cast {len(casts)} weights into FP8 as it loaded them. First: {casts[0]}")
        if not own[0].is_tied:
            notes.append(
                f"{arm}: its server speculates with {own[0].facts.draft}, which is not on this machine: that it is the "
                "draft that was named is on the word of whoever started it."
            )
        if any(voice.streams for voice in own):
            notes.append(f"{arm}: rounds were told from the pieces of streamed answers: this vLLM gives no account.")
        counters = [it.counters for it in session.results if it.turn.arm == arm and it.counters is not None]
        short = sum(k * it.num_drafts - it.num_draft_tokens for it in counters)
        if short:
            notes.append(f"{arm}: {short} tokens fewer were proposed than {k} in every round: a batch had no room.")
    return notes


def _provenance(session: Session, setup: Setup, kept: Sequence[PromptResult]) -> Provenance:
    version = None if session.engine is None else session.engine.version()
    sampling, voices = session.driving.sampling, session.voices
    return Provenance(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command_line=list(setup.command_line),
        versions=_versions(session),
        measured_by="vllm served",
        arch=NOT_KNOWN if version is None else version.arch,
        num_threads=len(os.sched_getaffinity(0)),
        engine=f"vLLM {voices[0].facts.vllm or '(version not known)'}",
        dtype=_dtype(voices),
        walk_only=True,
        trace=None,
        trace_sha256=None,
        prompts_sha256=sha256_of_prompts((it.id, it.category, it.split, it.sha256) for it in kept),
        target=target_identity(voices[0].model if session.arms is None else session.arms.base.target),
        sampling={
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "max_tokens": sampling.max_tokens,
        },
        recorded_with={},
        seconds=round(setup.seconds, 3),
    )


def _dtype(voices: Sequence[Voice]) -> str:
    """Of the target's arithmetic, as the servers say."""
    return next((voice.facts.dtype for voice in voices if voice.facts.dtype is not None), "not known")


def _versions(session: Session) -> dict[str, str]:
    found = {"quark_eagle": __version__, "python": platform.python_version()}
    if session.voices[0].facts.vllm is not None:
        found["vllm"] = session.voices[0].facts.vllm
    if session.engine is not None:
        version = session.engine.version()
        found |= {"torch": version.torch, "engine_python": version.python}
        found |= {name: value for name, value in (("hip", version.hip), ("cuda", version.cuda)) if value is not None}
    return found


def _directory(name: str) -> Path | None:
    """Where a model lies here; None for the name that a given server goes by, which is no directory and no id."""
    with suppress(UsageError):
        return on_disk(name)
    return None


def target_identity(name: str) -> dict[str, Any]:
    """What tells the target apart without reading half a terabyte: its config, and names and sizes of its weights.

    An engine of ours has fetched a Hugging Face id by now; of a server that was given, it may lie on another machine.
    """
    found: dict[str, Any] = {"name": name}
    directory = _directory(name)
    if directory is not None and (config := directory / "config.json").is_file():
        files = sorted((file.name, file.stat().st_size) for file in directory.glob("*.safetensors"))
        found["config_sha256"] = hashlib.sha256(config.read_bytes()).hexdigest()
        found["weights_size_sha256"] = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        found["weights_size_bytes"] = sum(size for _, size in files)
    return found


def _sha256_of(rendering: Mapping[str, Sequence[int]]) -> str:
    """Of all prompts' token ids, in the order of their names."""
    return hashlib.sha256(json.dumps({name: list(rendering[name]) for name in sorted(rendering)}).encode()).hexdigest()
