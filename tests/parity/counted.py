"""Prompts with the counts that a test wants, as `parity` would have written them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from quark_eagle.documents.counts import PromptAcceptance, PromptResult


def counted(
    name: str, baseline: Sequence[int], candidate: Sequence[int], *, category: str = "coding", split: str = "parity"
) -> PromptResult:
    """One prompt; both walks [k + 1] are of one path, so they emit as many tokens."""
    emitted = [sum((j + 1) * count for j, count in enumerate(walk)) for walk in (baseline, candidate)]
    assert emitted[0] == emitted[1], "both arms walk the same path"
    arms = [PromptAcceptance(walk=list(walk), every_start=None, walk_num_drafts=None) for walk in (baseline, candidate)]
    return PromptResult(
        id=name,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        category=category,
        split=split,
        num_generated_tokens=emitted[0] + 1,
        num_proposals_compared=0,
        num_proposals_shared=0,
        baseline=arms[0],
        candidate=arms[1],
    )


def walk_of(rounds: int, emitted: int) -> list[int]:
    """At k = 1: the histogram of so many rounds that emit so many tokens."""
    assert rounds <= emitted <= 2 * rounds, (rounds, emitted)
    return [2 * rounds - emitted, emitted - rounds]


def many(
    num_prompts: int,
    *,
    loss: float = 0.0,
    noise: int = 1,
    categories: Sequence[str] = ("coding",),
    split: str = "parity",
    seed: int = 0,
) -> list[PromptResult]:
    """Prompts of 100 tokens on which the candidate makes about 1 / (1 - loss) times the baseline's rounds."""
    chooser = random.Random(seed)
    results = []
    for i in range(num_prompts):
        before = chooser.randint(60, 70)
        after = min(100, max(50, round(before / (1 - loss)) + chooser.randint(-noise, noise)))
        category = categories[i % len(categories)]
        name = f"{category}-{i}"
        results.append(counted(name, walk_of(before, 100), walk_of(after, 100), category=category, split=split))
    return results
