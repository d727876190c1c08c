"""Anchor: is replay of the BF16 draft what a server counted, on the very path that was served?

`trace --engine vllm` serves the BF16 draft while it records, and keeps what every round accepted. So the served run is
part of the trace, all of its prompts are the sample, and the anchor can be worked out again by whoever has the trace
and the draft, without an engine.

On one path accepted + rounds is fixed, and τ replayed / τ served = rounds served / rounds replayed. In float32 the
rounds are equal one by one. In bfloat16 ties between two of a draft's logits fall either way, in both directions: what
is left of that on all prompts together is replay's error, and it has an uncertainty of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

from quark_eagle import __version__
from quark_eagle.checkpoint.manifest import sha256_of_weights
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.documents.anchor import ANCHOR_NAME, Anchor, relative
from quark_eagle.documents.base import write_text
from quark_eagle.errors import TraceError, TraceMismatchError
from quark_eagle.parity.acceptance import walk
from quark_eagle.parity.delta import degrees_of_freedom, standard_error_of, t_interval
from quark_eagle.parity.measurement import DtypeName, Measurement, Settings
from quark_eagle.parity.side import Side
from quark_eagle.progress import SILENT, Progress
from quark_eagle.trace.device import arch_of, resolve_device
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import RecordOptions
from quark_eagle.trace.same_recording import is_recording_of
from quark_eagle.trace.target_trace import TRACE_NAME, TargetTrace

CONFIDENCE = 0.90  # two-sided: each end is a one-sided 95 % bound, as in the verdict
Rounds = Sequence[int]


def anchor(trace: TargetTrace, draft: Path, progress: Progress = SILENT, device: str = "cpu") -> Anchor:
    """Replay the draft that was served along with a trace, compare, and write ``anchor.json`` beside it.

    Args:
        trace: recorded with a draft being served.
        draft: directory of that draft.
        progress: told of the prompts.
        device: where it is replayed.

    Raises:
        TraceError: no draft was served, or no round of it could be told.
        TraceMismatchError: it was another draft.
        StorageError: the file cannot be written.
    """
    served = trace.served
    if served is None:
        raise TraceError(
            f"{trace.directory}: no draft was served while it was recorded, so replay cannot be held against it. "
            "Record it with --engine vllm, without --no-anchor."
        )
    side = Side.open(draft)
    weights = sha256_of_weights(draft, side.checkpoint.shards)
    if weights != served.draft_weights_sha256:
        raise TraceMismatchError(
            f"{draft}: has weights {weights[:12]}…, but {served.draft_weights_sha256[:12]}… were served while "
            f"{trace.directory} was recorded. Give the draft that it was recorded for."
        )
    k = served.num_speculative_tokens
    # As the draft was served: in float32 replay is exact, and in bfloat16 it rounds as the engine did.
    dtype: DtypeName = "float32" if trace.target.dtype == "float32" else "bfloat16"
    settings = Settings(num_speculative_tokens=k, dtype=dtype, walk_only=True, device=device)
    measurement = Measurement.open([("baseline", side)], trace, settings)
    pairs: list[tuple[Rounds, Rounds]] = []
    for traced, (replayed,) in measurement.replays(progress):
        rounds = served.rounds[traced.info.id]
        if rounds is not None:
            pairs.append((rounds, [accepted for _, accepted in walk(replayed.matched.tolist(), k)]))
    replayed_by = f"quark-eagle replay {__version__}, torch {torch.__version__}, {arch_of(resolve_device(device))}"
    found = compare(trace, weights, k, pairs, replayed_by)
    write_text(trace.directory / ANCHOR_NAME, found.to_json())
    return found


def without_anchor(
    directory: Path, target: str, draft: Checkpoint, prompts: PromptSet, options: RecordOptions
) -> TargetTrace | None:
    """The finished trace that a recording would be, if its anchor alone is missing; None if there is no such one.

    Args:
        directory: where it would be.
        target: as it is named.
        draft: that would be served along.
        prompts: that it would be of.
        options: how it would be recorded.

    Raises:
        QuarkEagleError: there is a trace, but it is damaged; or target or engine cannot be described.
    """
    if options.vllm is None or not options.vllm.serves_draft:
        return None
    if not (directory / TRACE_NAME).is_file() or (directory / ANCHOR_NAME).exists():
        return None
    found = TargetTrace.open(directory)
    return found if is_recording_of(found, target, draft, prompts, options) else None


def compare(
    trace: TargetTrace, weights_sha256: str, k: int, pairs: Sequence[tuple[Rounds, Rounds]], replayed_by: str
) -> Anchor:
    """The document, from the rounds of each prompt, served and replayed.

    Raises:
        TraceError: there are none.
    """
    counts = np.array([[len(served), len(replayed)] for served, replayed in pairs], dtype=np.float64).reshape(-1, 2)
    rounds = counts.sum(axis=0)  # served, replayed
    if not rounds.all():
        raise TraceError(
            f"{trace.directory}: no round of the served draft could be counted: its answers are too short, or vLLM "
            "left the draft out of steps (an answer near max-model-len, or a preemption: too small a cache). "
            "Record longer answers, or with a smaller --batch-size."
        )
    accepted = [sum(map(sum, side)) for side in zip(*pairs, strict=True)]
    error = float(rounds[0] / rounds[1]) - 1
    influence = counts[:, 0] / rounds[0] - counts[:, 1] / rounds[1]  # of each prompt on log(rounds ratio)
    together = np.zeros(len(pairs), dtype=np.int64)
    interval = t_interval(error, standard_error_of(influence, together), degrees_of_freedom(together), CONFIDENCE)
    return Anchor(
        schema_version=1,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        trace_sha256=trace.sha256,
        draft_weights_sha256=weights_sha256,
        num_speculative_tokens=k,
        engine=trace.target.engine,
        device=trace.target.device,
        dtype=trace.target.dtype,
        replayed_by=replayed_by,
        replay_dtype="float32" if trace.target.dtype == "float32" else "bfloat16",
        num_prompts=len(pairs),
        num_prompts_of_trace=len(trace),
        num_identical=sum(list(served) == list(replayed) for served, replayed in pairs),
        served_num_drafts=int(rounds[0]),
        served_num_accepted_tokens=accepted[0],
        replayed_num_drafts=int(rounds[1]),
        replayed_num_accepted_tokens=accepted[1],
        difference=max(relative(float(rounds[1]), float(rounds[0])), relative(accepted[1], accepted[0])),
        tau_error=error,
        bound=max(map(abs, interval)) if interval is not None else abs(error),
    )
