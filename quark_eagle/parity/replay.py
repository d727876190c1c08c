"""Accepted lengths of a draft over a recorded path of the target, without the target.

A draft that proposes its argmax is accepted at a position if and only if the proposal is the token that was emitted
there, so a recorded path decides every round that a server could make on it. The engine rewrites the draft's keys of
verified positions from the target's own states before it drafts again, which is why each start can be scored by
itself: its first step is a row of one causal pass, its later steps see those rows and their own chain
(`model.attention`). Feeding the recorded token at each step is exact: a chain that proposed anything else is dead,
and dead chains are dropped. This holds at any temperature: a proposal that is the argmax is certain, so it was accepted
exactly where the target drew the same token, and a rejected one is never drawn again from the residual. A draft that
draws its proposals is replayed with `sampled.ProbabilisticDraft`.

Start s of an answer of T tokens: answer tokens 0 … s are known (token 0 came from prefill), and the draft proposes
for s + 1 and on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quark_eagle.model.chain import Chain, Past
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.parity.sampled import ProbabilisticDraft
from quark_eagle.trace.target_trace import TracedPrompt

DEAD = -1  # a proposal that was never made; an accepted length that was never computed


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptReplay:
    """One prompt's accepted lengths, one entry for each of S = T - 1 starts."""

    # [S] int64: leading proposals that the recorded tokens accept, at most k and at most T - 1 - s; -1 not computed
    matched: Tensor
    # [S, k] int64, target-vocabulary ids; -1 where the chain was dead; None for a probabilistic draft
    proposals: Tensor | None

    @property
    def accepted(self) -> Tensor:
        """[S] ``matched``, clipped so that the bonus token of the last round is a recorded one: at most T - 2 - s."""
        starts = torch.arange(len(self.matched), device=self.matched.device)
        return torch.minimum(self.matched, len(self.matched) - 1 - starts)


@dataclass(slots=True, kw_only=True)
class _Context:
    """One prompt as the draft sees it: combined states of rows 0 … n - 2, and keys and values made from them."""

    prompt_sha256: str
    token_ids: Tensor  # [n]
    log_probs: Tensor  # [T], of the answer's tokens under the target
    first_row: int  # the row of start 0: the last prompt token, whose next token is answer token 0
    combined: Tensor  # [n - 1, hidden]
    embeds: Tensor  # [n - 1, hidden]: of token t + 1
    past: Past
    uniforms: list[Tensor] = field(default_factory=list)  # [S] for each step so far; none for argmax proposals

    @classmethod
    def of(cls, draft: Eagle3Draft, traced: TracedPrompt) -> _Context:
        device = draft.device
        token_ids = traced.token_ids.to(device)
        if traced.projected is not None:
            combined = traced.projected.to(device, draft.dtype)
        else:
            assert traced.aux_hidden_states is not None
            combined = draft.combine(traced.aux_hidden_states)
        embeds = draft.embed(token_ids[1:])
        return cls(
            prompt_sha256=traced.info.sha256,
            token_ids=token_ids,
            log_probs=traced.log_probs.to(device),
            first_row=traced.info.prompt_length - 1,
            combined=combined,
            embeds=embeds,
            past=Past.of(draft, embeds, combined),
        )

    @property
    def num_starts(self) -> int:
        return max(0, len(self.token_ids) - self.first_row - 2)

    def recorded(self, starts: Tensor, step: int, method: ProbabilisticDraft | None) -> _Recorded:
        """What proposals of these starts [A] at one step stand for; the place must lie on the path."""
        answer_place = starts + step + 1
        while method is not None and len(self.uniforms) <= step:
            drawn = method.uniforms(self.prompt_sha256, self.num_starts, len(self.uniforms))
            self.uniforms.append(drawn.to(starts.device))
        return _Recorded(
            token_ids=self.token_ids[self.first_row + 1 + answer_place],
            log_probs=self.log_probs[answer_place],
            uniforms=self.uniforms[step][starts] if method is not None else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    """Tokens of the path that proposals stand for, and what judges them: all [A]."""

    token_ids: Tensor
    log_probs: Tensor
    uniforms: Tensor | None

    @classmethod
    def cat(cls, parts: Sequence[_Recorded]) -> _Recorded:
        uniforms = [part.uniforms for part in parts if part.uniforms is not None]
        return cls(
            token_ids=torch.cat([part.token_ids for part in parts]),
            log_probs=torch.cat([part.log_probs for part in parts]),
            uniforms=torch.cat(uniforms) if uniforms else None,
        )

    def accept(
        self, draft: Eagle3Draft, normed: Tensor, method: ProbabilisticDraft | None
    ) -> tuple[Tensor, Tensor | None]:
        """(accepted [A] bool, proposals [A] if they are the argmax) for head states [A, hidden]."""
        if method is None:
            proposed = draft.propose(normed)
            return proposed == self.token_ids, proposed
        assert self.uniforms is not None
        return method.accepts(draft, normed, self.token_ids, self.log_probs, self.uniforms), None


@torch.inference_mode()
def replay(
    draft: Eagle3Draft,
    traced: TracedPrompt,
    num_speculative_tokens: int,
    method: ProbabilisticDraft | None = None,
) -> PromptReplay:
    """Accepted length at every start of one recorded answer.

    Step 1 is computed for all starts together, step j for those whose first j - 1 proposals were accepted.

    Args:
        draft: that proposes.
        traced: the recorded answer.
        num_speculative_tokens: k.
        method: how proposals are drawn and judged; None proposes the argmax.
    """
    context = _Context.of(draft, traced)
    starts = torch.arange(context.num_starts, device=context.token_ids.device)
    matched, proposals = _rounds(draft, [(context, starts)], num_speculative_tokens, method)
    return PromptReplay(matched=matched.cpu(), proposals=None if method is not None else proposals.cpu())


@torch.inference_mode()
def replay_walk(
    draft: Eagle3Draft,
    traced: Sequence[TracedPrompt],
    num_speculative_tokens: int,
    method: ProbabilisticDraft | None = None,
) -> list[PromptReplay]:
    """As `replay`, but only at the starts that a server would visit: 1 / τ of them. The rest stay -1.

    One round of every prompt at a time, so that the linear layers see all prompts together.
    """
    contexts = [_Context.of(draft, prompt) for prompt in traced]
    k = num_speculative_tokens
    matched = [torch.full((context.num_starts,), DEAD, device="cpu") for context in contexts]
    proposals = [torch.full((context.num_starts, k), DEAD, device="cpu") for context in contexts]
    heads = {i: 0 for i, context in enumerate(contexts) if context.num_starts > 0}
    while heads:
        order = list(heads)
        starts = [torch.tensor([heads[i]], device=draft.device) for i in order]
        lengths, proposed = _rounds(draft, list(zip((contexts[i] for i in order), starts, strict=True)), k, method)
        for i, length, tokens in zip(order, lengths.tolist(), proposed.cpu(), strict=True):
            start = heads[i]
            matched[i][start], proposals[i][start] = length, tokens
            heads[i] = start + min(length, contexts[i].num_starts - 1 - start) + 1
            if heads[i] >= contexts[i].num_starts:
                del heads[i]
    return [
        PromptReplay(matched=lengths, proposals=None if method is not None else proposed)
        for lengths, proposed in zip(matched, proposals, strict=True)
    ]


def _rounds(
    draft: Eagle3Draft, starts: Sequence[tuple[_Context, Tensor]], k: int, method: ProbabilisticDraft | None
) -> tuple[Tensor, Tensor]:
    """(matched [A], proposals [A, k]) of rounds at some starts [S] of each prompt, in order; S sums up to A.

    A probabilistic draft's proposals stay -1.
    """
    matched = torch.cat([torch.zeros_like(places) for _, places in starts])
    proposals = matched.new_full((len(matched), k), DEAD)
    if len(matched) == 0:  # an answer of one token, which came from prefill
        return matched, proposals
    chain = Chain(draft, [(context.past, context.first_row + places) for context, places in starts])
    hidden = torch.cat([context.combined[context.first_row + places] for context, places in starts])
    embeds = torch.cat([context.embeds[context.first_row + places] for context, places in starts])
    alive = torch.arange(len(matched), device=matched.device)
    for step in range(k):
        hidden, normed = chain.step(embeds, hidden)
        recorded = _Recorded.cat([context.recorded(places, step, method) for context, places in starts])
        right, proposed = recorded.accept(draft, normed, method)
        if proposed is not None:
            proposals[alive, step] = proposed
        matched[alive] += right
        # A chain goes on if there is a token after this one.
        going = right & torch.cat([places + step + 1 < context.num_starts for context, places in starts])
        if step + 1 == k or not going.any():
            break
        chain.keep(going)
        parts = torch.split(going, [len(places) for _, places in starts])
        starts = [(context, places[part]) for (context, places), part in zip(starts, parts, strict=True)]
        alive, hidden = alive[going], hidden[going]
        embeds = draft.embed(recorded.token_ids[going])
    return matched, proposals
