"""What is wrong with a live load, told from its own facts and the file; no loading rule is asked how it should be.

A tensor must have gone somewhere, whole and uncast; a parameter must have been written, all of it, with the bytes of
the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod

from quark_eagle.checkpoint.reader import Checkpoint, TensorInfo
from quark_eagle.deploy.findings import HIGH_PRECISION, Finding, Problem, errors, warnings
from quark_eagle.deploy.live_bytes import expected_sha256
from quark_eagle.deploy.live_load import LiveLoad, LiveParameter, Placement
from quark_eagle.deploy.plain import EMBEDDING, HEAD
from quark_eagle.deploy.rules import EngineRules

SHARED = (f"{EMBEDDING}.weight", f"{HEAD}.weight")
"""Taken from the target where the draft has none; the loader leaves them empty until then."""
_INTEGERS = ("I64", "I32")
_LONGEST_FAILURE = 400


def live_findings(live: LiveLoad, checkpoint: Checkpoint, rules: EngineRules, *, real_target: bool) -> list[Finding]:
    """Findings of the engine itself; errors are what keeps the draft from being served as it was meant."""
    engine = f"vLLM {live.vllm}"
    if live.refused_while:
        doing = {"config": "reading its config", "build": "building it", "load": "loading it"}[live.refused_while]
        return errors(
            engine, [Problem(message=f"stops while {doing}: {_shortened(live.failure)}", stops=True)], "engine"
        )
    found: list[Finding] = []
    for name in sorted(checkpoint.tensors):
        found += _about_tensor(live, checkpoint.tensors[name], rules)
    for parameter in live.parameters.values():
        found += _about_parameter(live, parameter, checkpoint, rules)
    if not live.ready:
        said = f"loaded the draft, but did not come up: {_shortened(live.failure)}"
        tell = errors if real_target else warnings  # a stand-in may be to blame
        found += tell(engine, [said], "engine")
    return found


def _shortened(failure: str) -> str:
    """The engine's own words, on one line; some of its errors list every model that it knows."""
    words = " ".join(failure.split())
    return words if len(words) <= _LONGEST_FAILURE else f"{words[:_LONGEST_FAILURE]} …"


def is_unused(name: str, rules: EngineRules) -> bool:
    """Whether the engine builds a tensor or parameter of this name without needing it."""
    return any(re.fullmatch(pattern, name) for pattern in rules.left_alone)


def is_skipped(name: str, rules: EngineRules) -> bool:
    """Whether nothing is lost when a tensor of this name goes nowhere."""
    return "t2d" in name or any(part in name for part in rules.harmless)


def in_rows(live: LiveLoad, parameter: str) -> list[Placement]:
    """What went into a parameter, by its rows; of two that went into the same rows, the later one."""
    last = {place.row: place for places in live.placements.values() for place in places if place.parameter == parameter}
    return [last[row] for row in sorted(last)]


def _about_tensor(live: LiveLoad, info: TensorInfo, rules: EngineRules) -> Iterator[Finding]:
    """Whether a tensor of the file went somewhere, whole and as it is."""
    places = live.placements.get(info.name)
    if places is None:
        yield from errors(info.name, ["was never read: vLLM does not open the file it lies in."], "engine")
        return
    if not places:
        if not is_skipped(info.name, rules):
            yield from errors(info.name, ["was read and dropped: it is in no parameter."], "engine")
        return
    for place in places:
        into = live.parameters[place.parameter]
        if place not in in_rows(live, place.parameter):
            yield from errors(info.name, [f"was overwritten in {into.name} by a tensor of another name."], "engine")
        taken = place.rows * prod(into.shape[1:])
        if taken < info.num_elements:
            shape = [place.rows, *into.shape[1:]]
            problem = f"was cut: {into.name} took {shape} of its {list(info.shape)}, and the rest is dropped."
            yield from errors(info.name, [problem], "engine")
        if into.dtype != info.dtype:
            yield from _about_cast(info, into)


def _about_cast(info: TensorInfo, into: LiveParameter) -> list[Finding]:
    """A cast that loses nothing, or only what BF16 rounds, is a warning."""
    both = {info.dtype, into.dtype}
    tell = warnings if both <= set(HIGH_PRECISION) or both <= set(_INTEGERS) else errors
    return tell(info.name, [f"is {info.dtype}, and {into.name} is {into.dtype}: vLLM casts it silently."], "engine")


def _about_parameter(
    live: LiveLoad, parameter: LiveParameter, checkpoint: Checkpoint, rules: EngineRules
) -> list[Finding]:
    """Whether a parameter holds what the file holds, all of it."""
    if parameter.unwritten:
        shared = parameter.name in SHARED and not in_rows(live, parameter.name)
        if shared or is_unused(parameter.name, rules):
            return []
        rows = ", ".join(f"{first}-{end - 1}" for first, end in parameter.unwritten)
        of = parameter.shape[0] if parameter.shape else 1
        return errors(
            parameter.name, [f"rows {rows} of {of} were not written: nothing in the file fills them."], "engine"
        )
    if parameter.sha256 == expected_sha256(parameter, in_rows(live, parameter.name), checkpoint):
        return []
    return errors(
        parameter.name, ["holds other bytes than the file: its SHA-256 is not that of its tensors."], "engine"
    )
