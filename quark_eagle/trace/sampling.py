"""How the target's next token is chosen, and how sure it was.

Every prompt draws from its own uniform numbers, made from the seed and the prompt's hash, so that its path depends
neither on the batch it ran in nor on the prompts beside it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from quark_eagle.trace.trace_document import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The next token of each of B prompts."""

    token_ids: Tensor  # [B] int64
    log_probs: Tensor  # [B] float32
    top2_margin: Tensor  # [B] float32, of the logits: 0 is a tie


def choose(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> Chosen:
    """The argmax at temperature 0, else one draw from softmax(logits / temperature) cut off at top-p.

    Top-p keeps the most probable tokens up to and including the one at which their sum reaches ``top_p``; what is kept
    is scaled to 1 (Holtzman et al., arXiv 1904.09751; vLLM 0.32, v1/sample/ops/topk_topp_sampler.py).

    Args:
        logits: [B, vocab], any floating dtype; computed with in float32.
        sampling: temperature and top_p.
        uniforms: [B] float64 in [0, 1); not looked at when greedy.

    Returns:
        Tokens, their log-probability under that distribution (greedy: under softmax(logits)), and the top-two margin.
    """
    logits = logits.float()
    top2 = logits.topk(2, dim=-1).values
    margin = top2[:, 0] - top2[:, 1]
    if sampling.is_greedy:
        token_ids = logits.argmax(dim=-1)
        log_probs = logits.gather(1, token_ids[:, None])[:, 0] - logits.logsumexp(dim=-1)
        return Chosen(token_ids=token_ids, log_probs=log_probs, top2_margin=margin)
    probs, order = (logits / sampling.temperature).double().softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    before = probs.cumsum(dim=-1) - probs
    kept = probs.masked_fill(before >= sampling.top_p, 0)  # the most probable token always stays
    total = kept.sum(dim=-1)
    # The first token at which the cumulative sum exceeds u * total; clamped, as rounding may leave the sum below it.
    place = (kept.cumsum(dim=-1) <= (uniforms.to(total) * total)[:, None]).sum(dim=-1, keepdim=True)
    place = torch.minimum(place, (kept > 0).sum(dim=-1, keepdim=True) - 1)
    log_probs = (kept.gather(1, place)[:, 0] / total).log().float()
    return Chosen(token_ids=order.gather(1, place)[:, 0], log_probs=log_probs, top2_margin=margin)


def uniforms_of(sampling: Sampling, prompt_sha256: str) -> Tensor:
    """The uniform numbers of one prompt, [max_tokens] float64: the same whenever it is recorded with this seed."""
    if sampling.is_greedy:
        return torch.zeros(sampling.max_tokens, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed_of(sampling, prompt_sha256))
    return torch.rand(sampling.max_tokens, generator=generator, dtype=torch.float64)


def seed_of(sampling: Sampling, prompt_sha256: str) -> int:
    """Of one prompt's own generator, from 0 to 2**63 - 1."""
    digest = hashlib.sha256(f"{sampling.seed}:{prompt_sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
