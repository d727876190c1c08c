"""The second road to a card's numbers: plain Python over the raw files of a bundle, by the definitions.

Nothing of the package is imported. What it gives is what a reader would work out with a pencil: sums of the prompts'
histograms, ratios of these, and the delta method's interval written out.
"""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

from scipy.stats import t as students_t

ARMS = ("baseline", "candidate")
Prompts = Sequence[Mapping[str, Any]]


def read(bundle: Path, name: str) -> Any:
    """One of the bundle's JSON files."""
    return json.loads((bundle / name).read_text(encoding="utf-8"))


def histogram(prompts: Prompts, arm: str) -> list[int]:
    """[k + 1] rounds with exactly j tokens accepted, over all prompts."""
    total = [0] * len(prompts[0][arm]["walk"])
    for prompt in prompts:
        for accepted, rounds in enumerate(prompt[arm]["walk"]):
            total[accepted] += rounds
    return total


def rounds_and_accepted(counts: Sequence[int]) -> tuple[int, int]:
    """Of a histogram."""
    return sum(counts), sum(accepted * rounds for accepted, rounds in enumerate(counts))


def tau(counts: Sequence[int]) -> float:
    """1 + accepted / rounds."""
    rounds, accepted = rounds_and_accepted(counts)
    return 1 + accepted / rounds


def reaching(counts: Sequence[int], position: int) -> int:
    """Rounds whose tokens 0…position were all accepted."""
    return sum(rounds for accepted, rounds in enumerate(counts) if accepted > position)


def position_interval(prompts: Prompts, position: int, confidence: float) -> tuple[float, float]:
    """Of the change of the share that reaches a position: every conversation's influence, both drafts subtracted."""
    total = {arm: histogram(prompts, arm) for arm in ARMS}
    share = {arm: reaching(total[arm], position) / sum(total[arm]) for arm in ARMS}
    influences = defaultdict(float)
    for prompt in prompts:
        for arm, sign in zip(ARMS, (-1, 1), strict=True):
            own = prompt[arm]["walk"]
            left = (reaching(own, position) - share[arm] * sum(own)) / sum(total[arm])
            influences[prompt["category"], prompt["sha256"]] += sign * left
    change = share["candidate"] - share["baseline"]
    half = _half_width(influences, confidence)
    return change - half, change + half


def tau_interval(prompts: Prompts, confidence: float) -> tuple[float, float]:
    """Of the relative change of τ where both drafts emit the same tokens: R_baseline / R_candidate - 1."""
    rounds = {arm: sum(histogram(prompts, arm)) for arm in ARMS}
    influences = defaultdict(float)
    for prompt in prompts:
        own = {arm: sum(prompt[arm]["walk"]) / rounds[arm] for arm in ARMS}
        influences[prompt["category"], prompt["sha256"]] += own["baseline"] - own["candidate"]
    half = _half_width(influences, confidence)
    middle = log(rounds["baseline"] / rounds["candidate"])
    return exp(middle - half) - 1, exp(middle + half) - 1


def _half_width(influences: Mapping[tuple[str, str], float], confidence: float) -> float:
    """t · s, the variance between conversations taken within categories of twenty and more, the others together."""
    sizes: dict[str, int] = defaultdict(int)
    for category, _ in influences:
        sizes[category] += 1
    strata: dict[str, list[float]] = defaultdict(list)
    for (category, _), influence in influences.items():
        strata[category if sizes[category] >= 20 else ""].append(influence)
    variance = 0.0
    for group in strata.values():
        mean = sum(group) / len(group)
        variance += len(group) * sum((it - mean) ** 2 for it in group) / (len(group) - 1)
    freedom = len(influences) - len(strata)
    return float(students_t.ppf((1 + confidence) / 2, freedom)) * sqrt(variance)


def tensors(draft: Path) -> dict[str, tuple[str, int]]:
    """(dtype, bytes) of every tensor of a draft, from the headers of its files."""
    found = {}
    for path in draft.glob("*.safetensors"):
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        for name, entry in json.loads(content[8 : 8 + length]).items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                found[name] = (entry["dtype"], last - first)
    return found
