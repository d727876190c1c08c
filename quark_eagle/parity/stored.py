"""The baseline from a file: measured once, and compared with as long as nothing that shapes its counts has changed.

Refused is what makes the stored counts those of another question: another trace (and with it another target, another
sampling, other prompts), k, activations, way of counting or way of proposing; and another release of quark-eagle or of
torch, whose arithmetic may differ throughout; and a candidate whose `quark_eagle.json` says that it was made from
another draft. A new baseline is then one command away.

Noted, and not refused, is what only changes the order of summation: the build of the same torch release, the
processor's instruction set, the number of threads. Where two logits are all but tied it turns an argmax, and it does so
in either direction: it moves counts, and does not shift them. On the example draft (64 prompts, 4 669 rounds) another
instruction set changed the rounds of 5 prompts, by 1 in all; another number of threads changed nothing. To refuse it
would make the outcome hang on which processor a hosted runner happens to have.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quark_eagle.checkpoint.manifest import RECORD_NAME, Manifest, sha256_of_shards
from quark_eagle.documents.baseline import BaselinePrompt, BaselineReport
from quark_eagle.documents.parity import Provenance, StoredBaseline
from quark_eagle.errors import CheckpointError, QuarkEagleError, findings
from quark_eagle.parity.measurement import Measurement, provenance
from quark_eagle.progress import SILENT, Progress
from quark_eagle.trace.trace_document import TracedPromptInfo

LISTED = 5  # prompts named of each kind of difference; the rest are counted
ADVICE = (
    "Its counts are not those that the BF16 draft would have here. Measure it anew with "
    "`quark-eagle parity BASELINE --trace TRACE --update-baseline FILE`, or measure as the file was."
)


def measure_baseline(
    measurement: Measurement, *, command_line: Sequence[str] = (), progress: Progress = SILENT
) -> BaselineReport:
    """Replay the BF16 draft alone, to be stored."""
    started = time.perf_counter()
    prompts = [
        BaselinePrompt(
            id=traced.info.id,
            sha256=traced.info.sha256,
            category=traced.info.category,
            split=traced.info.split,
            num_generated_tokens=traced.info.num_generated,
            baseline=measurement.acceptance(replayed),
        )
        for traced, (replayed,) in measurement.replays(progress)
    ]
    return BaselineReport(
        schema_version=1,
        num_speculative_tokens=measurement.settings.num_speculative_tokens,
        baseline=measurement.sides[0].arm(),
        provenance=provenance(
            measurement.trace, measurement.settings, command_line, seconds=time.perf_counter() - started
        ),
        prompts=prompts,
    )


def require_current(
    stored: BaselineReport,
    here: Provenance,
    num_speculative_tokens: int,
    prompts: Sequence[TracedPromptInfo],
    file: Path,
) -> StoredBaseline:
    """See that stored counts are those the baseline would have in this measurement.

    Args:
        stored: the baseline's counts.
        here: what is measured now, with what.
        num_speculative_tokens: k of this measurement.
        prompts: of its trace.
        file: that holds ``stored``.

    Returns:
        What this measurement's provenance says of it.

    Raises:
        QuarkEagleError: they are stale or foreign; every field that differs is listed, wanted and found.
    """
    there = stored.provenance
    problems = [
        f"{name}: wanted {wanted} (this measurement), found {found} (stored)."
        for name, wanted, found in (
            ("k", num_speculative_tokens, stored.num_speculative_tokens),
            *_fields(here, there),
        )
        if wanted != found
    ]
    problems += _prompt_problems(prompts, stored.prompts)
    if problems:
        raise QuarkEagleError(findings(f"{file} does not fit this measurement", problems, ADVICE))
    return StoredBaseline(
        file=str(file),
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        created=there.created,
        engine=there.engine,
        arch=there.arch,
        noted=[
            f"{name}: here {now}, stored {then}"
            for name, now, then in (
                ("torch build", here.versions.get("torch"), there.versions.get("torch")),
                ("processor", here.arch, there.arch),
                ("threads", here.num_threads, there.num_threads),
            )
            if now != then
        ],
    )


def require_made_from(stored: BaselineReport, candidate: Path, file: Path) -> None:
    """See that a candidate was made from the draft whose counts are stored, where its own record says from which.

    Raises:
        QuarkEagleError: it was made from another.
    """
    try:
        source = Manifest.from_json(json.loads((candidate / RECORD_NAME).read_bytes())["input"]).files
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CheckpointError):
        return  # not of our making: its origin is not known
    shards = sorted(name for name in source if name.endswith(".safetensors"))
    made_from = sha256_of_shards((name, source[name].sha256) for name in shards)
    if made_from != stored.baseline.weights_sha256:
        raise QuarkEagleError(
            f"{candidate}: was made from another BF16 draft (weights {made_from[:12]}…) than that whose counts are "
            f"in {file} ({stored.baseline.weights_sha256[:12]}…). A comparison would mean nothing. {ADVICE}"
        )


def _fields(here: Provenance, there: Provenance) -> Iterator[tuple[str, object, object]]:
    """(name, wanted, found) of everything that must be the same."""
    yield "trace sha256", here.trace_sha256, there.trace_sha256
    yield "prompts sha256", here.prompts_sha256, there.prompts_sha256
    yield from _entries("target", here.target, there.target)
    yield from _entries("sampling", here.sampling, there.sampling)
    yield "draft sample method", here.draft_sample_method, there.draft_sample_method
    yield "dtype of activations", here.dtype, there.dtype
    if not here.walk_only:  # a walk has the same rounds whatever else was counted
        yield "walk only", here.walk_only, there.walk_only
    yield "quark-eagle", here.versions.get("quark_eagle"), there.versions.get("quark_eagle")
    yield "torch release", _release(here.versions.get("torch")), _release(there.versions.get("torch"))


def _entries(part: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    for key in sorted(here.keys() | there.keys()):
        yield f"{part} {key}", here.get(key), there.get(key)


def _release(version: str | None) -> str | None:
    """A version without its build.

    >>> _release("2.13.0+rocm7.2")
    '2.13.0'
    """
    return None if version is None else version.partition("+")[0]


def _prompt_problems(wanted: Sequence[TracedPromptInfo], found: Sequence[BaselinePrompt]) -> list[str]:
    """How the stored prompts differ from the trace's; the hashes above cover this unless the file was edited."""
    here = {info.id: (info.sha256, info.num_generated) for info in wanted}
    there = {prompt.id: (prompt.sha256, prompt.num_generated_tokens) for prompt in found}
    both = here.keys() & there.keys()
    kinds = (
        ("wanted, but not stored", here.keys() - there.keys()),
        ("stored, but not wanted", there.keys() - here.keys()),
        ("stored with another hash", {name for name in both if here[name][0] != there[name][0]}),
        ("stored with another length", {name for name in both if here[name][1] != there[name][1]}),
    )
    problems = [f"prompts {what}: {_listed(names)}." for what, names in kinds if names]
    if len(there) < len(found):
        problems.append(f"prompts stored more than once: {len(found) - len(there)}.")
    return problems


def _listed(names: Collection[str]) -> str:
    """Some names in order, and how many there are besides.

    >>> _listed({"c", "a", "b"})
    'a, b, c'
    """
    rest = len(names) - LISTED
    return ", ".join(sorted(names)[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
