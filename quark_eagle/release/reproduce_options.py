"""The options of each command of a job, from what its results say of how they were made.

They are taken from the documents and not from recorded command lines, which hold the paths of the machine that ran them
and leave defaults to whatever version reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quark_eagle.documents.verdict import STATED
from quark_eagle.release.evidence import Evidence


@dataclass(frozen=True, slots=True)
class Place:
    """Something on the machine that runs reproduce.sh, by a variable of the script, and what lies there.

    A value of its own, so that no name in the evidence can pass for one.
    """

    variable: str
    inside: str = ""

    def __str__(self) -> str:
        return f'"${self.variable}{self.inside}"'


Words = list[str | Place]
DRAFT, TARGET, PROMPTS = Place("draft"), Place("target"), Place("prompts")
TRACE, CALIBRATION = Place("trace"), Place("calibration")
MADE, PARITY, VERDICT = Place("work", "/fp8"), Place("work", "/parity.json"), Place("work", "/verdict.json")

_PACKAGED_PROMPTS = "calib"
_DTYPES = ("bfloat16", "float32")  # that `trace` can be told


def recording(evidence: Evidence) -> Words:
    """Of `trace`: the target, its prompts, how it drew and in what it computed."""
    said = evidence.parity.provenance
    words: Words = [TARGET, "--draft", DRAFT, "--output", TRACE, *_asked(evidence)]
    dtype = said.target.get("dtype")
    if dtype in _DTYPES:
        words += ["--dtype", str(dtype)]
    if str(said.target.get("engine", "")).startswith("vllm"):
        words += ["--engine", "vllm"]
        served = said.recorded_with.get("served")
        if isinstance(served, dict):
            words += ["--num-speculative-tokens", str(served["num_speculative_tokens"])]
        else:
            words.append("--no-anchor")
    return words


def recording_of_calibration(evidence: Evidence) -> Words:
    """Of `trace` for a calibration, whose document tells its prompts and not how they were drawn."""
    assert evidence.calibration is not None
    words: Words = [TARGET, "--draft", DRAFT, "--output", CALIBRATION, "--split", "calibration"]
    if _option("--calib-tokens", evidence.record.get("command_line", ())):
        return words  # it saw a part of what was recorded
    return [*words, "--limit", str(len(evidence.calibration.prompts))]


def quantizing(evidence: Evidence) -> Words:
    """Of `quantize`: the plan, and what its static scales were observed by."""
    plan = evidence.record["plan"]
    words: Words = [DRAFT, "--output", MADE, "--scheme", str(plan["scheme"])]
    if "format" in plan:
        words += ["--format", str(plan["format"])]
    words += [f"--keep={pattern}" for pattern in plan["keep"]]
    if plan["quantize_fc"]:
        words.append("--quantize-fc")
    found = evidence.calibration
    if found is not None:
        words += ["--calibration", CALIBRATION, "--observer", found.observer.name]
        if "percentile" in found.observer.parameters:
            words += ["--percentile", repr(found.observer.parameters["percentile"])]
        words += _option("--calib-tokens", evidence.record.get("command_line", ()))
        words += ["--num-speculative-tokens", str(found.num_speculative_tokens)]
        if any(scale.kind != "input" for scale in found.scales):
            words.append("--kv-cache-scales")
    return words


def measuring(evidence: Evidence) -> Words:
    """Of `parity`: replayed over the trace, or served as the drafts of the release were."""
    report = evidence.parity
    said, served = report.provenance, report.served
    words: Words = [DRAFT, MADE, "--num-speculative-tokens", str(report.num_speculative_tokens)]
    if served is None:
        words += ["--trace", TRACE, "--dtype", said.dtype]
        words += ["--walk-only"] if said.walk_only else []
        if said.candidate_fp8 is not None and said.candidate_fp8.kv_cache_dtype != "auto":
            words += ["--kv-cache-dtype", said.candidate_fp8.kv_cache_dtype]
    else:
        words += ["--engine", "vllm", "--target", TARGET, "--blocks", str(served.num_blocks), *_asked(evidence)]
        words += ["--deterministic"] if served.deterministic else ["--concurrency", str(served.concurrency)]
    if said.draft_sample_method != "greedy":
        words += ["--draft-sample-method", said.draft_sample_method]
    return [*words, "--output", PARITY, "--overwrite"]


def gating(evidence: Evidence) -> Words:
    """Of `gate`: the rules of the verdict, those that are defaults included."""
    verdict = evidence.verdict
    words: Words = [PARITY, "--margin", repr(verdict.margin), "--alpha", repr(verdict.alpha)]
    told = {
        "--category-margin": verdict.category_margin,
        "--expect-baseline": verdict.expected_baseline,
        "--bias": verdict.bias.bound if verdict.bias.source == STATED else None,
        "--looks": verdict.looks.planned if verdict.looks.planned > 1 else None,
        "--require-arch": verdict.required_arch,
    }
    for option, value in told.items():
        if value is not None:
            words += [option, str(value)]
    return [*words, "--output", VERDICT, "--overwrite"]


def _asked(evidence: Evidence) -> Words:
    """Which prompts were asked, and how answers were drawn: the same options for a recording and for serving."""
    report = evidence.parity
    sampling, asked = report.provenance.sampling, report.provenance.recorded_with.get("prompts")
    source = asked.get("source") if isinstance(asked, dict) else None
    splits = sorted({prompt.split for prompt in report.prompts})
    words: Words = [] if source in (None, _PACKAGED_PROMPTS) else ["--prompts", PROMPTS]
    words += ["--split", splits[0]] if len(splits) == 1 else []
    requests = [] if report.served is None else [it.num_requests for it in report.served.passes]
    words += ["--limit", str(max(requests, default=len(report.prompts)))]
    for option, name in (("--max-tokens", "max_tokens"), ("--temperature", "temperature"), ("--top-p", "top_p")):
        words += _number(option, sampling.get(name))
    return [*words, *_number("--seed", sampling.get("seed"))]


def _number(option: str, value: Any) -> list[str]:
    """An option with its number; nothing where none was noted."""
    return [option, repr(value)] if isinstance(value, int | float) else []


def _option(option: str, command_line: Sequence[Any]) -> list[str]:
    """An option of a recorded command line that no document holds, with its value, in either spelling."""
    words = [str(word) for word in command_line]
    for place, word in enumerate(words):
        if word == option and place + 1 < len(words):
            return [option, words[place + 1]]
        if word.startswith(f"{option}="):
            return [option, word.partition("=")[2]]
    return []
