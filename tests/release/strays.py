"""Numbers of a page that nothing says: neither in the evidence, nor worked out from it by a second road."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from quark_eagle.release import contents
from quark_eagle.release.model_card_serving import served_by
from quark_eagle.serving.recipes import recipe
from tests.release import recomputed
from tests.release.made_evidence import evidence_of

NUMBER = re.compile(r"(?<![\w.\-])[+\-−±]?(?:\d{1,3}(?: \d{3})+|\d+)(?:\.\d+)*%?(?!\w)(?!\.\w)")
HASH = re.compile(r"\b[0-9a-f]{40,64}\b")
FENCE = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def strays(text: str, bundle: Path) -> list[str]:
    """Numbers of a page that are neither in the evidence nor worked out from it."""
    scripts = FENCE.findall(text)
    text = re.sub(r"\]\([^)]*\)", "]", FENCE.sub("", text).replace("\\", "").replace("&#8203;", ""))
    known = {sha256 for name in bundle.rglob("*.json") for sha256 in HASH.findall(name.read_text(encoding="utf-8"))}
    known |= {_sha256(bundle / name) for name in (contents.PARITY, contents.VERDICT)}
    found = [it for it in HASH.findall(text) if it not in known]
    found += [it for it in NUMBER.findall(HASH.sub("", text)) if it not in _allowed(bundle)]
    served = served_by(evidence_of(bundle))
    said = set(NUMBER.findall(json.dumps(served.to_json()) + served.shell()))
    return found + [it for script in scripts for it in NUMBER.findall(script) if it not in said]


@cache
def _allowed(bundle: Path) -> frozenset[str]:
    return frozenset(_found_or_derived(bundle))


def _found_or_derived(bundle: Path) -> Iterator[str]:
    names = (contents.RELEASE, contents.VERDICT, contents.VERIFICATION, contents.ENVIRONMENT, "quark_eagle.json")
    for name in names:
        yield from _of(recomputed.read(bundle, name))
    for name, left_out in ((contents.PARITY, "prompts"), (contents.REPLAYED, "prompts"), (contents.CALIBRATION, "")):
        if (bundle / name).exists():
            yield from _of({key: it for key, it in recomputed.read(bundle, name).items() if key != left_out})
    served = served_by(evidence_of(bundle))
    for made in (served, recipe(replace(served.job, num_speculative_tokens=None))):
        yield from NUMBER.findall(made.shell().replace('"', " "))
    yield from _derived(bundle)


def _of(content: Any) -> Iterator[str]:
    """Every way in which the card writes the numbers in some JSON, and those in its strings."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _of(key)
            yield from _of(value)
    elif isinstance(content, list):
        for value in content:
            yield from _of(value)
    elif isinstance(content, str):
        yield from NUMBER.findall(" ".join(content.split()))
    elif isinstance(content, int) and not isinstance(content, bool):
        yield from (str(content), spaced(content))
    elif isinstance(content, float):
        yield from (f"{content:g}", f"{content:.3f}", f"{content:+.2%}", f"±{content:.2%}")
        yield from (f"{content:.0%}", f"{content:.1%}", f"{content:.2%}") if 0 < content < 1 else ()


def _derived(bundle: Path) -> Iterator[str]:
    """What has to be worked out: rates and shares of the prompts, sums and changes of bytes, numbers of things."""
    measured = recomputed.read(bundle, contents.PARITY)
    prompts, k = measured["prompts"], measured["num_speculative_tokens"]
    total = {arm: recomputed.histogram(prompts, arm) for arm in recomputed.ARMS}
    for i in range(k):
        reached = {arm: recomputed.reaching(total[arm], i) for arm in recomputed.ARMS}
        shares = {arm: reached[arm] / sum(total[arm]) for arm in recomputed.ARMS}
        yield from (str(i), f"{shares['candidate'] - shares['baseline']:+.4f}")
        yield from (f"{end:+.4f}" for end in recomputed.position_interval(prompts, i, 0.90))
        for arm in recomputed.ARMS:
            yield from (spaced(reached[arm]), f"{shares[arm]:.3f}")
            yield f"{reached[arm] / recomputed.reaching(total[arm], i - 1):.3f}"
    for arm in recomputed.ARMS:
        rounds, accepted = recomputed.rounds_and_accepted(total[arm])
        yield f"{accepted / rounds / k:.3f}"
    yield from (str(len(prompts)), str(len({prompt["category"] for prompt in prompts})))
    record = recomputed.read(bundle, "quark_eagle.json")
    steps = [measured[arm]["step_bytes"] for arm in recomputed.ARMS]
    every = [step["layers"] + step["head"] + step["embedding"] for step in steps]
    pairs = [(record["tensors_before_bytes"], record["tensors_after_bytes"]), tuple(every)]
    pairs += [(steps[0][part], steps[1][part]) for part in steps[0]]
    for before, after in pairs:
        yield from (spaced(before), spaced(after), f"{after / before - 1:+.1%}")
        yield from (f"{size / unit:.1f}" for size in (before, after) for unit in (1e3, 1e6, 1e9))
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    weights = recomputed.read(bundle, contents.WEIGHTS)["modules"]
    for it in weights:
        groups.setdefault((it["action"], it["reason"], it["dtype_after"]), []).append(it)
    for group in [weights, *groups.values(), [it for it in weights if it["action"] == "quantize"]]:
        yield str(len(group))
        yield from (spaced(sum(it[f"size_bytes_{when}"] for it in group)) for when in ("before", "after"))
    modules = recomputed.read(bundle, contents.VERIFICATION)["modules"]
    yield from (str(len(modules)), str(sum(module["scheme"] is not None for module in modules)))
    if (bundle / contents.CALIBRATION).exists():
        yield from _of_calibration(recomputed.read(bundle, contents.CALIBRATION), prompts)
    if (bundle / contents.REPLAYED).exists():
        walk = recomputed.read(bundle, contents.REPLAYED)["summary"]["overall"]["walk"]
        before, after = (walk[arm]["mean_acceptance_length"] for arm in recomputed.ARMS)
        yield f"{after / before - 1:+.2%}"


def _of_calibration(found: Any, prompts: recomputed.Prompts) -> Iterator[str]:
    seen = {prompt["sha256"] for prompt in found["prompts"]}
    yield from (str(len(seen)), str(len(seen & {prompt["sha256"] for prompt in prompts})), str(len(found["scales"])))
    yield from (spaced(sum(it[name] for it in found["scales"])) for name in ("num_clipped", "num_values"))
    yield "1"  # "steps 1, 2, …"
    yield "2"
    for scale in found["scales"]:
        halfway = [it["scale"] for it in scale["convergence"] if 2 * it["num_tokens"] <= found["num_tokens_of_step"][0]]
        yield f"{scale['scale'] / halfway[-1] - 1:+.2%}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
