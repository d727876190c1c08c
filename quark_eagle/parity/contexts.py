"""Contexts: the places in a text where the baseline's proposal was accepted and the candidate's was not.

Some prompts are replayed with both drafts. At a start of the baseline's walk where the candidate would have accepted
fewer tokens, both had proposed the recorded tokens up to there, so both stand on the same text and their next-token
distributions can be laid side by side. These places are chosen for their disagreement: how far the drafts are apart
where nobody looked is told by every start of the same prompts, beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from quark_eagle.documents.counts import PromptResult
from quark_eagle.errors import TraceMismatchError
from quark_eagle.parity.acceptance import walk, walk_histogram
from quark_eagle.parity.compare import Comparison, combined_once
from quark_eagle.parity.divergence import (
    Divergence,
    Drafts,
    head_states,
    kl_divergence,
    log_probabilities,
    probabilities_of,
    same_vocabulary,
)
from quark_eagle.parity.replay import PromptReplay, replay
from quark_eagle.progress import SILENT, Progress
from quark_eagle.trace.target_trace import TargetTrace, TracedPrompt
from quark_eagle.trace.token_text import Decode

CONTEXT_TOKENS = 32
PLACES_SHOWN = 3  # of each prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One token that was lost.

    Attributes:
        answer_token: its index in the answer, from 0, which came from prefill.
        position: in the draft, from 0.
        context_token_ids: up to 32 tokens before it.
        baseline_token_id: proposed by the baseline, and recorded.
        candidate_token_id: proposed instead.
        context, baseline_token, candidate_token: the same as text; null without the target's tokenizer.
        baseline_probability: that the baseline gives the recorded token; null if not finite, as the others.
        candidate_probability: that the candidate gives it.
        kl_divergence: KL(baseline || candidate) of the next token over the draft vocabulary at temperature 1, in nats.
    """

    answer_token: int
    position: int
    context_token_ids: tuple[int, ...]
    baseline_token_id: int
    candidate_token_id: int
    context: str | None
    baseline_token: str | None
    candidate_token: str | None
    baseline_probability: float | None
    candidate_probability: float | None
    kl_divergence: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedPrompt:
    """One prompt, replayed with both drafts.

    Attributes:
        num_drafts: rounds of the baseline's walk.
        num_drafts_lost: of these, where the candidate would have accepted fewer tokens.
        num_drafts_gained: of these, where it would have accepted more.
        as_reported: whether the walks' counts are the report's; an argmax tie may fall otherwise on another machine.
        places: the first of the places where a token was lost.
    """

    id: str
    category: str
    num_drafts: int
    num_drafts_lost: int
    num_drafts_gained: int
    as_reported: bool
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """What the replay of some prompts shows.

    Attributes:
        divergence_where_lost: over the places shown.
        divergence_at_step_1: over every start of the prompts.
        num_step_1_shared: starts at which both drafts propose the same first token.
        num_step_1_compared: starts.
    """

    prompts: tuple[ReplayedPrompt, ...]
    divergence_where_lost: Divergence
    divergence_at_step_1: Divergence
    num_step_1_shared: int
    num_step_1_compared: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"direction": "KL(baseline || candidate), nats, temperature 1, draft vocabulary", **asdict(self)}


@torch.inference_mode()
def show_contexts(
    comparison: Comparison,
    prompts: Sequence[PromptResult],
    decode: Decode | None = None,
    progress: Progress = SILENT,
) -> Contexts:
    """Replay these prompts of a report.

    Args:
        comparison: the report's drafts and trace, at its k and dtype.
        prompts: as the report holds them.
        decode: token ids to text.
        progress: told of each prompt.

    Raises:
        TraceMismatchError: the trace does not hold one of the prompts.
    """
    drafts = comparison.drafts
    replayed: list[ReplayedPrompt] = []
    at_step_1: list[float | None] = []
    shared = compared = 0
    with progress.task("replay the worst prompts", len(prompts), "prompt") as task:
        for prompt in prompts:
            traced = combined_once(_traced(comparison.trace, prompt), *drafts)
            first, second = (replay(draft, traced, comparison.num_speculative_tokens) for draft in drafts)
            assert first.proposals is not None  # argmax proposals: see `require_measured`
            assert second.proposals is not None
            replayed.append(_replayed(comparison, traced, prompt, (first, second), decode))
            starts = torch.arange(len(first.matched))
            at_step_1 += [kl for kl, _, _ in _compare(drafts, traced, starts, torch.zeros_like(starts))]
            shared += int((first.proposals[:, 0] == second.proposals[:, 0]).sum())
            compared += len(starts)
            task.advance(1)
    return Contexts(
        prompts=tuple(replayed),
        divergence_where_lost=Divergence.of([place.kl_divergence for one in replayed for place in one.places]),
        divergence_at_step_1=Divergence.of(at_step_1),
        num_step_1_shared=shared,
        num_step_1_compared=compared,
    )


def _traced(trace: TargetTrace, prompt: PromptResult) -> TracedPrompt:
    for i, info in enumerate(trace.prompts):
        if (info.id, info.sha256) == (prompt.id, prompt.sha256):
            return trace.prompt(i)
    raise TraceMismatchError(
        f"{trace.directory}: has no prompt {prompt.id} with sha256 {prompt.sha256[:16]}…, but the report has. "
        "Make the report again with `quark-eagle parity`."
    )


def _replayed(
    comparison: Comparison,
    traced: TracedPrompt,
    prompt: PromptResult,
    arms: tuple[PromptReplay, PromptReplay],
    decode: Decode | None,
) -> ReplayedPrompt:
    k = comparison.num_speculative_tokens
    matched, other = (arm.matched.tolist() for arm in arms)
    rounds = walk(matched, k)
    last = len(matched) - 1
    at_most = {start: min(other[start], k, last - start) for start, _ in rounds}  # clipped, as the walk's own
    lost = [(start, at_most[start]) for start, length in rounds if at_most[start] < length]
    return ReplayedPrompt(
        id=prompt.id,
        category=prompt.category,
        num_drafts=len(rounds),
        num_drafts_lost=len(lost),
        num_drafts_gained=sum(at_most[start] > length for start, length in rounds),
        as_reported=(walk_histogram(matched, k), walk_histogram(other, k))
        == (prompt.baseline.walk, prompt.candidate.walk),
        places=tuple(_places(comparison.drafts, traced, lost[:PLACES_SHOWN], arms[1], decode)),
    )


def _places(
    drafts: Drafts,
    traced: TracedPrompt,
    lost: Sequence[tuple[int, int]],
    candidate: PromptReplay,
    decode: Decode | None,
) -> Iterator[Place]:
    """The places (start, position) as values."""
    assert candidate.proposals is not None
    starts, steps = (torch.tensor([pair[i] for pair in lost], dtype=torch.int64) for i in (0, 1))
    for (start, step), (divergence, before, after) in zip(lost, _compare(drafts, traced, starts, steps), strict=True):
        at = traced.info.prompt_length + start + step + 1  # the recorded token that the proposals stand for
        context = traced.token_ids[max(0, at - CONTEXT_TOKENS) : at].tolist()
        recorded, proposed = int(traced.token_ids[at]), int(candidate.proposals[start, step])
        yield Place(
            answer_token=start + step + 1,
            position=step,
            context_token_ids=tuple(context),
            baseline_token_id=recorded,
            candidate_token_id=proposed,
            context=decode(context) if decode else None,
            baseline_token=decode([recorded]) if decode else None,
            candidate_token=decode([proposed]) if decode else None,
            baseline_probability=before,
            candidate_probability=after,
            kl_divergence=divergence,
        )


def _compare(
    drafts: Drafts, traced: TracedPrompt, starts: Tensor, steps: Tensor
) -> Iterator[tuple[float | None, float | None, float | None]]:
    """(KL divergence, the recorded token's probability by baseline and candidate) at each place [P]."""
    recorded = traced.token_ids[traced.info.prompt_length + starts + steps + 1]
    comparable = same_vocabulary(drafts)
    first, second = (head_states(draft, traced, starts, steps) for draft in drafts)
    done = 0
    for before, after in log_probabilities(drafts, (first, second)):
        tokens = recorded[done : done + len(before)]
        done += len(before)
        divergences = kl_divergence(before, after).tolist() if comparable else [math.nan] * len(before)
        given = (probabilities_of(draft, logs, tokens) for draft, logs in zip(drafts, (before, after), strict=True))
        for values in zip(divergences, *given, strict=True):
            kl, by_baseline, by_candidate = (value if math.isfinite(value) else None for value in values)
            yield kl, by_baseline, by_candidate
