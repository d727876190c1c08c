"""Acceptance of a draft that draws its proposals, decided along a path that the target drew.

vLLM's ``draft_sample_method="probabilistic"``: the draft proposes x with probability draft(x); the target accepts it
with probability min(1, target(x) / draft(x)), and otherwise emits a token of the residual, max(0, target - draft)
scaled to 1 (arXiv 2211.17192, 2302.01318). A token y is thus emitted by acceptance with probability

    draft(y) * min(1, target(y) / draft(y)) = min(draft(y), target(y)),

and by either way with probability target(y), whatever the draft. So where y was emitted,

    P(accepted | y) = min(1, draft(y) / target(y)),

for which the one log-probability that the trace holds is enough. Every event of a walk depends on the path alone: a
chain that is still alive has been fed the path's own tokens, and the next round starts where the last one ended. One
uniform number for each (prompt, start, step) therefore decides every round that a server could make on the path, and
counts made with it have exactly the distribution of a server's counts, given that path. Both drafts are judged by the
same numbers (common random numbers): their difference holds no noise but that of tokens on which they differ. The
numbers are integers still, so everything downstream is as it is for argmax proposals.

The draft's distribution is softmax(logits / temperature) over its own vocabulary, at the request's temperature;
top-p and top-k are applied to the target alone. vLLM 0.32: ``v1/worker/gpu/sample/gumbel.py`` 182-185 and
``v1/worker/gpu/spec_decode/rejection_sampler_utils.py`` 280-293 (model runner V2, the default), and
``v1/spec_decode/llm_base_proposer.py`` 1843-1849 (V1, which divides in the logits' own dtype). A pruned vocabulary
gives probability 0 to every token outside it: ``model_executor/models/llama_eagle3.py`` 385-395.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from quark_eagle.errors import UsageError
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.trace.trace_document import Sampling

LOGITS_BYTES = 64 << 20  # head states are taken in blocks whose logits stay below this


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbabilisticDraft:
    """How a draft's proposals are drawn and judged: its temperature, and the seed of the numbers that judge."""

    temperature: float
    seed: int

    @classmethod
    def along(cls, sampling: Sampling) -> ProbabilisticDraft:
        """At the temperature of a recorded path; judged by other numbers than those that drew it.

        Raises:
            UsageError: the path is greedy.
        """
        if sampling.is_greedy:
            raise UsageError(
                "--draft-sample-method probabilistic: the trace was recorded at temperature 0, at which vLLM's draft "
                "proposes its argmax under either method, so there is no distribution to draw from. Leave the option "
                "out, or record a trace with `quark-eagle trace --temperature`."
            )
        return cls(temperature=sampling.temperature, seed=sampling.seed)

    def uniforms(self, prompt_sha256: str, num_starts: int, step: int) -> Tensor:
        """The numbers [num_starts] float64 in [0, 1) that judge one step of every start of one prompt.

        They depend on nothing else: neither on k, nor on the draft, nor on the prompts beside it.
        """
        digest = hashlib.sha256(f"accept:{self.seed}:{prompt_sha256}:{step}".encode()).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.rand(num_starts, generator=generator, dtype=torch.float64, device="cpu")

    def accepts(
        self, draft: Eagle3Draft, normed: Tensor, emitted: Tensor, target_log_probs: Tensor, uniforms: Tensor
    ) -> Tensor:
        """Whether the proposals for some places were accepted there, [N] bool.

        Args:
            draft: whose proposals they are.
            normed: [N, hidden], its head states.
            emitted: [N] int64, the tokens of the path, in the target's vocabulary.
            target_log_probs: [N], of these tokens, as the trace holds them: after temperature and top-p.
            uniforms: [N] float64 in [0, 1).
        """
        draft_log_probs = log_probs(draft, normed, emitted, self.temperature)
        # draft / target above 1 needs no min: every uniform number lies below it.
        return uniforms.to(draft_log_probs.device) < (draft_log_probs - target_log_probs.double()).exp()


def log_probs(draft: Eagle3Draft, normed: Tensor, token_ids: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [N] float64 of target-vocabulary ids [N] under the draft, for head states [N, hidden]."""
    draft_ids = _draft_ids(draft, token_ids)
    head = draft.linears["lm_head"]
    rows = max(1, LOGITS_BYTES // (8 * head.out_features))
    found = []
    for states, ids in zip(torch.split(normed, rows), torch.split(draft_ids, rows), strict=True):
        scaled = head(states).double() / temperature  # [rows, draft vocabulary]
        chosen = scaled.gather(1, ids.clamp(min=0)[:, None])[:, 0] - scaled.logsumexp(dim=-1)
        found.append(chosen.masked_fill(ids < 0, -torch.inf))
    return torch.cat(found)


def _draft_ids(draft: Eagle3Draft, token_ids: Tensor) -> Tensor:
    """Target-vocabulary ids as the draft's own, -1 where its vocabulary lacks them."""
    d2t = draft.weights.get("d2t")
    if d2t is None:
        return token_ids
    own = torch.arange(len(d2t), device=d2t.device)
    known = torch.full((draft.geometry.vocab_size,), -1, device=d2t.device)
    known[own + d2t] = own
    return known[token_ids]
