"""Speculative decoding as the papers write it: draw a proposal, accept it by the ratio, else draw from the residual.

The reference for counts along sampled paths (arXiv 2211.17192, algorithm 1; 2302.01318, algorithm 2), in plain numpy:
once as a loop with random numbers, as a server runs it, and once summed over everything that could happen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Tokens = tuple[int, ...]
Probs = npt.NDArray[np.float64]  # [vocabulary]
Outcome = tuple[Tokens, Tokens]
"""The answer's tokens, and the accepted length of each round, the last one clipped at the answer's end."""


def accept_by_ratio(target: float, draft: float) -> float:
    """Probability that a proposal is accepted."""
    return min(1.0, target / draft)


def residual(target: Probs, draft: Probs) -> Probs:
    """What is emitted in place of a rejected proposal."""
    left = np.maximum(0.0, target - draft)
    return left / left.sum() if left.sum() > 0 else target  # nothing left: the two are equal, nothing is rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """A target and a draft over one vocabulary, and the rule between them; the defaults are the papers' own.

    Attributes:
        target: next-token probabilities after some tokens.
        draft: next-token probabilities in a round that began after some tokens, once it has proposed others.
        k: tokens proposed in a round.
    """

    target: Callable[[Tokens], Probs]
    draft: Callable[[Tokens, Tokens], Probs]
    k: int
    accept: Callable[[float, float], float] = accept_by_ratio
    residual: Callable[[Probs, Probs], Probs] = residual

    def sample(self, prompt: Tokens, num_tokens: int, rng: np.random.Generator) -> Outcome:
        """One answer, as a server makes it: all k proposals first, then their verification."""
        known = (*prompt, _draw(self.target(prompt), rng))  # the first token comes from prefill
        end, lengths = len(prompt) + num_tokens, []
        while len(known) < end:
            proposals: Tokens = ()
            for _ in range(self.k):
                proposals = (*proposals, _draw(self.draft(known, proposals), rng))
            emitted: Tokens = ()
            for x in proposals:
                target, draft = self.target(known + emitted), self.draft(known, emitted)
                if rng.random() >= self.accept(target[x], draft[x]):
                    emitted = (*emitted, _draw(self.residual(target, draft), rng))
                    break
                emitted = (*emitted, x)
            else:
                emitted = (*emitted, _draw(self.target(known + emitted), rng))
            lengths.append(min(len(emitted), end - len(known)) - 1)
            known = (known + emitted)[:end]
        return known[len(prompt) :], tuple(lengths)

    def outcomes(self, prompt: Tokens, num_tokens: int) -> dict[Outcome, float]:
        """The probability of every outcome: the same loop, summed over all its draws."""
        found: dict[Outcome, float] = defaultdict(float)
        end = len(prompt) + num_tokens

        def start_round(known: Tokens, lengths: Tokens, mass: float) -> None:
            if len(known) == end:
                found[known[len(prompt) :], lengths] += mass
            else:
                propose(known, (), lengths, mass)

        def propose(known: Tokens, accepted: Tokens, lengths: Tokens, mass: float) -> None:
            target = self.target(known + accepted)
            room = end - len(known)
            length = min(len(accepted), room - 1)
            if len(accepted) == room:  # the answer's end, past which nothing is looked at
                return start_round(known + accepted, (*lengths, length), mass)
            if len(accepted) == self.k:
                for y in np.flatnonzero(target):
                    start_round((*known, *accepted, int(y)), (*lengths, length), mass * target[y])
                return None
            draft = self.draft(known, accepted)
            rejected = 0.0
            for x in np.flatnonzero(draft):
                taken = draft[x] * self.accept(target[x], draft[x])
                rejected += draft[x] - taken
                if taken:
                    propose(known, (*accepted, int(x)), lengths, mass * taken)
            for y, share in enumerate(self.residual(target, draft)):
                if rejected and share:
                    start_round((*known, *accepted, y), (*lengths, length), mass * rejected * share)
            return None

        first = self.target(prompt)
        for y in np.flatnonzero(first):
            start_round((*prompt, int(y)), (), float(first[y]))
        return dict(found)

    def paths(self, prompt: Tokens, num_tokens: int) -> dict[Tokens, float]:
        """The probability of every answer under the target alone."""
        found: dict[Tokens, float] = {(): 1.0}
        for _ in range(num_tokens):
            found = {
                (*path, int(y)): mass * probs[y]
                for path, mass in found.items()
                for probs in (self.target(prompt + path),)
                for y in np.flatnonzero(probs)
            }
        return found


def greedy(draft: Callable[[Tokens, Tokens], Probs]) -> Callable[[Tokens, Tokens], Probs]:
    """The same draft proposing its argmax: all its probability on one token."""

    def one_hot(known: Tokens, chain: Tokens) -> Probs:
        probs = draft(known, chain)
        return np.eye(len(probs))[int(probs.argmax())]

    return one_hot


def random_pair(vocabulary: int, k: int, seed: int = 0, *, sharpness: float = 1.5) -> Speculation:
    """Distributions drawn at random for every context: the draft resembles the target and is wrong in its own way."""

    @cache
    def target(known: Tokens) -> Probs:
        return _softmax(sharpness * _noise(seed, known, vocabulary))

    @cache
    def draft(known: Tokens, chain: Tokens) -> Probs:
        own = _noise(seed + 1, (*known, -1, *chain), vocabulary)
        return _softmax(sharpness * _noise(seed, known + chain, vocabulary) + own)

    return Speculation(target=target, draft=draft, k=k)


def length_counts(lengths: Sequence[int], k: int) -> list[int]:
    """Rounds [k + 1] of each accepted length."""
    counted = Counter(lengths)
    return [counted[length] for length in range(k + 1)]


def _draw(probs: Probs, rng: np.random.Generator) -> int:
    return int(
        min(np.searchsorted(probs.cumsum(), rng.random() * probs.sum(), side="right"), np.flatnonzero(probs)[-1])
    )


def _noise(seed: int, tokens: Tokens, vocabulary: int) -> Probs:
    return np.random.default_rng([seed, *(token + 1 for token in tokens)]).normal(size=vocabulary)


def _softmax(logits: Probs) -> Probs:
    shifted = np.exp(logits - logits.max())
    probs: Probs = shifted / shifted.sum()
    return probs
