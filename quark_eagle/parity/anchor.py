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
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

from quark_eagle import __version__
from quark_eagle.checkpoint.manifest import sha256_of_weights
from quark_eagle.documents.anchor import ANCHOR_NAME, Anchor
from quark_eagle.documents.base import write_text
from quark_eagle.errors import TraceError, TraceMismatchError
from quark_eagle.parity.acceptance import walk
from quark_eagle.parity.delta import degrees_of_freedom, standard_error_of, t_interval
from quark_eagle.parity.measurement import Measurement, Settings
from quark_eagle.parity.side import Side
from quark_eagle.progress import SILENT, Progress
from quark_eagle.trace.target_trace import TargetTrace

CONFIDENCE = 0.90  # two-sided: each end is a one-sided 95 % bound, as in the verdict
Rounds = Sequence[int]


def anchor(trace: TargetTrace, draft: Path, progress: Progress = SILENT) -> Anchor:
    """Replay the draft that was served along with a trace, compare, and write ``anchor.json`` beside it.

    Args:
        trace: recorded with a draft being served.
        draft: directory of that draft.
        progress: told of the prompts.

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
    settings = Settings(num_speculative_tokens=k, dtype="float32" if trace.target.dtype == "float32" else "auto")
    settings = replace(settings, walk_only=True)
    measurement = Measurement.open([("baseline", side)], trace, settings)
    pairs: list[tuple[Rounds, Rounds]] = []
    for traced, (replayed,) in measurement.replays(progress):
        rounds = served.rounds[traced.info.id]
        if rounds is not None:
            pairs.append((rounds, [accepted for _, accepted in walk(replayed.matched.tolist(), k)]))
    found = compare(trace, weights, k, pairs)
    write_text(trace.directory / ANCHOR_NAME, found.to_json())
    return found


def compare(trace: TargetTrace, weights_sha256: str, k: int, pairs: Sequence[tuple[Rounds, Rounds]]) -> Anchor:
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
        replayed_by=f"quark-eagle replay {__version__}, torch {torch.__version__}",
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


def relative(found: float, reference: float) -> float:
    """|found / reference - 1|; 0 where both are 0.

    >>> relative(99, 100), relative(0, 0), relative(1, 0)
    (0.010000000000000009, 0.0, 1.0)
    """
    return abs(found / reference - 1) if reference else float(found != reference)
