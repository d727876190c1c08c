"""Divergence: how far apart the next-token distributions of two drafts are at the same places of a text.

KL(baseline || candidate) = Σ p_baseline (log p_baseline - log p_candidate) over the draft vocabulary, at temperature 1,
in nats: 0 if they are equal, and what one expects to lose in log-likelihood by drawing from the one and scoring with
the other. Logits are float32: rounding them to bfloat16, as an engine does before it compares them, moves a
distribution by some 1e-4 nats (5.6e-5 on the demo draft, 7e-4 at most), which is noise in a divergence.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quark_eagle.model.chain import Chain, Past
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.trace.target_trace import TracedPrompt

LOGIT_BYTES = 64 << 20  # distributions of one draft held at once

Drafts = tuple[Eagle3Draft, Eagle3Draft]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """KL(baseline || candidate) over some places, in nats; null where no value is finite (a broken draft's are not)."""

    num_places: int
    num_not_finite: int
    mean: float | None
    median: float | None
    max: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Divergence:
        """Of one value for each place, None where it is not finite.

        >>> Divergence.of([0.5, None, 1.5]).mean
        1.0
        """
        finite = [value for value in values if value is not None]
        return cls(
            num_places=len(values),
            num_not_finite=len(values) - len(finite),
            mean=statistics.fmean(finite) if finite else None,
            median=statistics.median(finite) if finite else None,
            max=max(finite, default=None),
        )


def same_vocabulary(drafts: Drafts) -> bool:
    """Whether both drafts' outputs stand for the same tokens: without that there is no divergence between them."""
    first, second = (draft.weights.get("d2t") for draft in drafts)
    if first is None or second is None:
        return first is second and drafts[0].geometry.vocab_size == drafts[1].geometry.vocab_size
    return torch.equal(first, second)


def head_states(draft: Eagle3Draft, traced: TracedPrompt, starts: Tensor, steps: Tensor) -> Tensor:
    """What the draft's head sees at a step of a round, if the round's proposals before it were the recorded tokens.

    Args:
        draft: that proposes.
        traced: the recorded answer.
        starts: [P] int64, answer tokens 0 … start are known.
        steps: [P] int64 from 0; start + step + 1 lies in the answer.

    Returns:
        [P, hidden] in the draft's dtype.
    """
    device = next(iter(draft.weights.values())).device
    starts, steps, tokens = starts.to(device), steps.to(device), traced.token_ids.to(device)
    combined = _combined(draft, traced, device)
    embeds = draft.embed(tokens[1:])
    rows = traced.info.prompt_length - 1 + starts  # [P]
    chain = Chain(draft, [(Past.of(draft, embeds, combined), rows)])
    hidden, found = combined[rows], combined.new_empty(len(rows), draft.geometry.hidden_size)
    for step in range(int(steps.max()) + 1 if len(steps) else 0):
        places = (rows + step).clamp(max=len(embeds) - 1)  # past the end only after a row's own last step
        hidden, normed = chain.step(embeds[places], hidden)
        found = torch.where((steps == step)[:, None], normed, found)
    return found


def log_probabilities(drafts: Drafts, states: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Both drafts' next-token distributions [block, draft_vocab] float32 for head states [P, hidden], in blocks."""
    width = max(draft.linears["lm_head"].out_features for draft in drafts)
    rows = max(1, LOGIT_BYTES // (4 * width))
    for blocks in zip(*(torch.split(part, rows) for part in states), strict=True):
        first, second = (
            draft.linears["lm_head"](block.float()).log_softmax(dim=-1)
            for draft, block in zip(drafts, blocks, strict=True)
        )
        yield first, second


def kl_divergence(baseline: Tensor, candidate: Tensor) -> Tensor:
    """[...] nats, from log-probabilities [..., vocabulary].

    >>> round(float(kl_divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())), 4)
    0.1438
    """
    # Rounding can leave a sum of -1e-9 where nothing differs.
    return (baseline.exp() * (baseline - candidate)).sum(dim=-1).clamp(min=0.0)


def probabilities_of(draft: Eagle3Draft, logs: Tensor, token_ids: Tensor) -> list[float]:
    """[P] probabilities of these target-vocabulary tokens; 0 where the draft's vocabulary lacks one."""
    width = logs.shape[-1]
    ids = torch.arange(width, device=logs.device)  # target-vocabulary ids of the outputs
    if "d2t" in draft.weights:
        ids = ids + draft.weights["d2t"]
    is_it = ids == token_ids.to(ids.device)[:, None]  # [P, width]: at most one in each row
    found: list[float] = torch.where(is_it, logs.exp(), 0.0).sum(dim=-1).tolist()
    return found


def _combined(draft: Eagle3Draft, traced: TracedPrompt, device: torch.device) -> Tensor:
    if traced.projected is not None:
        return traced.projected.to(device, draft.dtype)
    assert traced.aux_hidden_states is not None  # a trace holds one of the two
    return draft.combine(traced.aux_hidden_states.to(device))
