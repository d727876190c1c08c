"""What a bundle says, made again from what it stands on: each check gives every difference, a sentence each.

    checkpoint, record, measurements, verdict      what was given; held against each other
        → verification, environment, record        what a release concludes from them
        → weights                                  what it measured of the weights
        → card, report, bill, script               what it tells people

The functions are the ones that `release` itself calls, so a bundle that was not changed has no differences, and
whoever changes a number has to change everything that follows from it as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from quark_eagle.checkpoint.manifest import RECORD_NAME, Manifest
from quark_eagle.deploy.verify import VerifyReport
from quark_eagle.documents.weights import WeightStatistics
from quark_eagle.parity.arch import measured_elsewhere
from quark_eagle.progress import SILENT, Progress
from quark_eagle.release import contents
from quark_eagle.release.binding import Mismatch, bound_to, unbound
from quark_eagle.release.environment import environment, released_with
from quark_eagle.release.evidence import Evidence, as_json
from quark_eagle.release.examining import GFX950, Leave, examine
from quark_eagle.release.rejudging import leaves, rejudged, unlike
from quark_eagle.release.rendering import RENDERERS
from quark_eagle.release.verification import verification, verified
from quark_eagle.release.weight_statistics import measure

_WRITERS = ("quark_eagle", "huggingface-hub", "cyclonedx-python-lib", "jinja2")
"""Whose version decides on the wording, and so on the bytes, of what is rendered."""
_MOST_RESAMPLES = 1_000_000  # a hundred times what `gate` takes; more would only keep whoever checks waiting
_NEEDS_SOURCE = frozenset({"dtype_before", "size_bytes_before", "relative_error", "zeros"})
_SHOWN = 120
_VERSION = re.compile(r"\d[0-9A-Za-z.+!-]{0,40}")


def other_writers(evidence: Evidence) -> list[str]:
    """What is installed here in another version than where the bundle was made, and may word things otherwise."""
    here, there = released_with(), evidence.release.versions
    return [called(name.replace("_", "-"), there.get(name)) for name in _WRITERS if there.get(name) != here[name]]


def called(package: str, version: str | None) -> str:
    """A package as somebody may install it; a version that is none is not repeated, for anybody may have written it."""
    is_one = version is not None and _VERSION.fullmatch(version)
    return f"{package} {version}" if is_one else f"the {package} that made it"


def checkpoint_of(files: Manifest) -> Manifest:
    """Of a bundle's files those that ``quark_eagle.json`` speaks of."""
    known = {name: file for name, file in files.files.items() if contents.is_checkpoint_file(name)}
    known.pop(RECORD_NAME, None)
    return Manifest(files=known)


def binding(evidence: Evidence, files: Manifest) -> list[str]:
    """Where the evidence is not about these weights, or the release's record not about this evidence."""
    wanted, said = (dict(leaves(it.model_dump())) for it in (bound_to(evidence), evidence.release.bound_to))
    about = unlike(contents.RELEASE, wanted, said, "bound_to.", source="the evidence")
    return _said([*unbound(evidence, checkpoint_of(files)), *about])


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What differs, and what differs in words that another version chose, and that cannot be made again here."""

    differences: list[str]
    reworded: list[str]


def verdict(evidence: Evidence, engine: VerifyReport | None) -> Compared:
    """Where the verdict does not follow from the counts, or a summary not from its prompts."""
    difference = evidence.verdict.difference
    if difference is not None and difference.num_resamples > _MOST_RESAMPLES:
        said = f"{contents.VERDICT} wants {difference.num_resamples} resamples, which no verdict takes."
        return Compared(differences=[said], reworded=[])
    found = rejudged(evidence, [finding.subject for finding in engine.errors] if engine else [])
    return Compared(differences=_said(found.mismatches), reworded=_said(found.reworded))


def engine(evidence: Evidence, source: Path | None, progress: Progress = SILENT) -> VerifyReport:
    """What an engine will do with the weights, by the rules of the version that the bundle names.

    Raises:
        QuarkEagleError: the weights cannot be read, or the rules do not cover them.
    """
    said = evidence.verification
    version = said.get("engine_version") or str(said.get("engine", "")).removeprefix("vllm-")
    return verified(evidence.directory, evidence, source, str(version), progress)


def verification_differs(evidence: Evidence, report: VerifyReport) -> list[str]:
    """Where that is not what the bundle says of it."""
    stored = evidence.verification
    named = verification(report, name=evidence.release.name, base_model=evidence.release.base_model)
    again = json.loads(as_json(named))  # as it comes back from a file
    compared = [key for key in again if key not in ("findings", "num_warnings", "source", "engine_version")]
    wanted, said = (dict(leaves({key: it.get(key) for key in compared})) for it in (again, stored))
    found = unlike(contents.VERIFICATION, wanted, said, source="the weights")
    return _said([*found, *_other_findings(again, stored)])


def _other_findings(again: Mapping[str, Any], stored: Mapping[str, Any]) -> list[Mismatch]:
    """Warnings that one knows and the other does not; what only a comparison with the BF16 draft shows is left out."""
    ours, theirs = ([str(it) for it in said.get("findings") or []] for said in (again, stored))
    missing = [] if again["source"] and not stored.get("source") else [it for it in ours if it not in theirs]
    extra = [] if stored.get("source") and not again["source"] else [it for it in theirs if it not in ours]
    return [
        *(Mismatch(where=contents.VERIFICATION, what="findings", wanted=it, found="nothing") for it in missing),
        *(Mismatch(where=contents.VERIFICATION, what="findings", wanted="nothing", found=it) for it in extra),
    ]


def weights(evidence: Evidence, source: Path | None, progress: Progress = SILENT) -> list[str]:
    """Where the statistics are not those of the weights; of errors only where the BF16 draft is at hand, as it was.

    Raises:
        QuarkEagleError: the weights cannot be read.
    """
    had_source = any(module.dtype_before is not None for module in evidence.weights.modules)
    again = measure(evidence.directory, source if had_source else None, progress)
    compares_errors = had_source and source is not None
    wanted, said = (dict(leaves(_statistics(it, compares_errors))) for it in (again, evidence.weights))
    return _said(unlike(contents.WEIGHTS, wanted, said, source="the weights"))


def _statistics(statistics: WeightStatistics, with_errors: bool) -> dict[str, Any]:
    """By the name of each tensor, so that a difference names it."""
    skipped = frozenset() if with_errors else _NEEDS_SOURCE
    modules = {it.tensor: it.model_dump(exclude=set(skipped)) for it in statistics.modules}
    return statistics.model_dump(exclude={"modules"}) | modules


def record(evidence: Evidence, report: VerifyReport | None) -> Compared:
    """Where a release does not say of itself what follows from its evidence: what was set aside, and with what made.

    That something was set aside is a fact, and missed whatever version is named; how it is told is its version's own.

    Args:
        evidence: of the release.
        report: of its weights; without it nothing is known of what was set aside.
    """
    pairs = (environment(evidence, evidence.release.versions), evidence.environment)
    wanted, said = (dict(leaves(it.model_dump())) for it in pairs)
    found = unlike(contents.ENVIRONMENT, wanted, said, source="the evidence")
    facts = _untold(evidence)
    if report is None:
        return Compared(differences=facts, reworded=_said(found))
    leave = Leave(required_arch=evidence.release.required_arch, publish_anyway=True)
    # What speaks against the weights themselves is told by the checks of the binding, the verdict and the engine.
    examined = examine(evidence, [], replace(report, findings=()), leave)
    wanted = dict(leaves({"overrides": list(examined.overrides)}))
    said = dict(leaves({"overrides": evidence.release.overrides}))
    found += unlike(contents.RELEASE, wanted, said, source="the evidence")
    return Compared(differences=facts + examined.sentences(), reworded=_said(found))


def _untold(evidence: Evidence) -> list[str]:
    """What was set aside, as the documents themselves show, and no override names."""
    told, outcome = " ".join(evidence.release.overrides), evidence.verdict.outcome
    elsewhere = measured_elsewhere(evidence.parity, GFX950)
    facts = {GFX950: " and ".join(elsewhere), outcome: "" if outcome == "pass" else f"the verdict is {outcome}"}
    return [
        f"{contents.RELEASE}, overrides: {fact}, and none says so."
        for name, fact in facts.items()
        if fact and name not in told
    ]


def prose(evidence: Evidence) -> list[str]:
    """What is told to people, and does not say what the evidence says."""
    found = []
    for name in contents.RENDERED:
        path, wanted = evidence.directory / name, RENDERERS[name](evidence).encode()
        if not path.is_file():
            found.append(f"{name} is missing.")
        elif path.stat().st_size != len(wanted) or path.read_bytes() != wanted:
            found.append(_first_difference(name, wanted, path))
    return found


def _first_difference(name: str, wanted: bytes, path: Path) -> str:
    with path.open("rb") as file:
        for number, (line, said) in enumerate(zip_longest(wanted.splitlines(keepends=True), file), start=1):
            if line != said:
                return f"{name}, line {number}: the evidence says {_line(line)}, but there it says {_line(said)}."
    return f"{name} is not what the evidence gives."


def _line(content: bytes | None) -> str:
    if content is None:
        return "nothing more"
    text = content.decode("utf-8", "replace").strip()
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _said(mismatches: list[Mismatch]) -> list[str]:
    return [str(mismatch) for mismatch in mismatches]
