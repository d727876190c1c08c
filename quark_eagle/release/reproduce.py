"""reproduce.sh: the whole job of a release as commands, with its own options, ending in a comparison with its files.

POSIX sh and coreutils. What is on the machine of whoever runs it is a variable of the script; nothing of the machine
that made the release is in it. Every name is quoted by ``shlex.quote``, which a name with a newline passes as well.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from quark_eagle.checkpoint.manifest import RECORD_NAME
from quark_eagle.documents.verdict import STATED
from quark_eagle.release import contents
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.model_card_text import visible
from quark_eagle.release.reproduce_options import (
    PROMPTS,
    Words,
    gating,
    measuring,
    quantizing,
    recording,
    recording_of_calibration,
)

Step = tuple[str, list[str]]
"""What a step does, and its lines."""

_LOCAL_BUILD = "+"  # what follows it in a version names a build that is on no package index: 2.13.0+cpu

_FUNCTIONS = """\
set -eu

work=${WORK:-reproduced} # what lies here already is not made again
here=$(cd -- "$(dirname -- "$0")" && pwd)

say() { printf '%s\\n' "$*" >&2; }
refuse() { say "reproduce.sh: $1"; exit 5; }
sha256() { sum=$(sha256sum < "$1") || return 1; printf '%s' "${sum%% *}"; }
same() { # directory, file, sha256
    if [ "$(sha256 "$1/$2")" = "$3" ]; then say "   same     $2"; else say "   DIFFERS  $2"; differs=1; fi
}
quark_eagle() { "$python" -m quark_eagle "$@"; }
mkdir -p -- "$work\""""

_COUNTS = f"""\
"$python" - "$here/{contents.PARITY}" "$work/parity.json" >&2 <<'END'
import json, sys
released, made = ({{it["id"]: it for it in json.load(open(name))["prompts"]}} for name in sys.argv[1:])
alike = sum(made.get(name) == it for name, it in released.items())
print(f"   {{alike}} of {{len(released)}} prompts have the counts of the release")
END"""


def script(evidence: Evidence) -> str:
    """The text of reproduce.sh. The same evidence gives the same bytes; it ends with one newline."""
    steps = [
        "\n".join([f"say {shlex.quote(f'{place}. {title}')}", *lines])
        for place, (title, lines) in enumerate(_steps(evidence), 1)
    ]
    return "\n\n".join([_title(evidence), _FUNCTIONS, *steps]) + "\n"


def _steps(evidence: Evidence) -> Iterator[Step]:
    yield "quark-eagle", _install(evidence)
    yield "the BF16 draft", _draft(evidence)
    if evidence.calibration is not None:
        yield "what static scales are observed on", _calibration(evidence)
    yield "quantize", [f'[ -e "$work/fp8" ] || {_command("quantize", quantizing(evidence))}']
    yield "compare with the release, by sha256", _compare(evidence)
    yield "measure", _measure(evidence)
    yield "judge", _judge(evidence)


def _title(evidence: Evidence) -> str:
    release = evidence.release
    told = [
        f"Makes {visible(release.name)} again, from the BF16 draft to the verdict, and compares it with this release.",
        "",
        "    sh reproduce.sh                 # all of it",
        "    ONLY=quantize sh reproduce.sh   # quantize, compare, and stop",
        "",
        "Exit codes: 0 the same, 3 something differs, others as of quark-eagle. Set in the environment what you have:",
        "",
        "    WORK         directory for what is made                    default: reproduced",
        "    PYTHON       a Python that has quark-eagle                 default: one is installed in WORK",
        f"    DRAFT        the BF16 draft: directory or Hugging Face id  {_default(release.base_model_id)}",
        f"    TARGET       the target: directory or Hugging Face id      {_default(release.target_id)}",
    ]
    if evidence.parity.served is None:
        told.append("    TRACE        the recorded path of the target               default: recorded in WORK")
    if evidence.calibration is not None:
        told.append("    CALIBRATION  the trace that was calibrated on              default: recorded in WORK")
    if not _own_prompts(evidence):
        told.append("    PROMPTS      the prompts that were asked                   needed to ask them")
    told += ["", "What may differ, though nothing is wrong:", *(f"  * {it}" for it in _not_bit_for_bit(evidence))]
    return "\n".join(["#!/bin/sh", *(f"# {line}".rstrip() for line in told)])


def _default(hub_id: str | None) -> str:
    return "needed" if hub_id is None else f"default: {visible(hub_id)}"


def _not_bit_for_bit(evidence: Evidence) -> Iterator[str]:
    yield f"{RECORD_NAME} names the command line and the versions that made it, so it is not compared."
    if evidence.calibration is not None:
        yield "A calibration trace that is recorded again may hold other states, and static scales with them."
    if evidence.parity.served is None:
        yield "A trace that is recorded again on another machine may hold other tokens where the target all but ties."
        yield "Replay sums in another order on another machine: a proposal that all but ties may turn."
    else:
        yield "Served counts differ from run to run, by about what the verdict says of serving's own noise."
        yield "Servers start as `quark-eagle recipe` says for the machine that runs this; with which flags they ran for"
        yield f"the release is in {contents.PARITY}, under served.arms."
    if evidence.verdict.looks.planned > 1:
        yield "The first look's verdict is no part of the release; its share of alpha is kept."


def _packages(evidence: Evidence) -> str:
    """What pip is asked for: the version of quark-eagle, and of what decides the bytes of the weights."""
    versions = evidence.environment.quantized
    extras = "quantize,trace" if evidence.parity.served is None else "quantize,trace,serve"
    ours = evidence.release.versions.get("quark_eagle")
    wanted = [f"quark-eagle[{extras}]" + (f"=={ours}" if ours else "")]
    wanted += [
        f"{name}=={versions[name].partition(_LOCAL_BUILD)[0]}"
        for name in ("amd-quark", "torch", "safetensors")
        if name in versions
    ]
    return " ".join(map(shlex.quote, wanted))


def _install(evidence: Evidence) -> list[str]:
    version = f"quark-eagle {evidence.release.versions.get('quark_eagle', '')}".rstrip()
    return [
        "python=${PYTHON:-$work/venv/bin/python}",
        'if [ -z "${PYTHON:-}" ] && [ ! -e "$work/venv/bin/quark-eagle" ]; then',
        '    python3 -m venv "$work/venv"',
        f'    "$python" -m pip install {_packages(evidence)}',
        "fi",
        f"made_by={shlex.quote(version)}",
        'found=$(quark_eagle --version) || refuse "$python: has no quark-eagle."',
        '[ "$found" = "$made_by" ] || say "   $found, but the release was made by $made_by."',
    ]


def _draft(evidence: Evidence) -> list[str]:
    release = evidence.release
    known = release.base_model_id
    if known is not None and release.base_model_revision is not None:
        known = f"{known}@{release.base_model_revision}"
    resolve = "import sys; from quark_eagle.checkpoint.source import resolve; print(resolve(sys.argv[1]))"
    return [
        *_given("draft", "DRAFT", known, "directory or Hugging Face id of the BF16 draft"),
        f'directory=$("$python" -c {shlex.quote(resolve)} "$draft") || refuse "$draft: could not be had."',
        "draft=$directory",
        *_all_same("$draft", evidence.record["input"], "This is not the draft that was quantized."),
    ]


def _calibration(evidence: Evidence) -> list[str]:
    assert evidence.calibration is not None
    return [
        "calibration=${CALIBRATION:-$work/calibration-trace}",
        *_recorded("calibration", _target(evidence), recording_of_calibration(evidence)),
        *_noted("calibration", evidence.calibration.trace_sha256, "calibrated on: scales may differ"),
    ]


def _compare(evidence: Evidence) -> list[str]:
    return [
        *_all_same("$work/fp8", evidence.record["output"], "What was made differs from the release."),
        "[ \"${ONLY:-}\" != quantize ] || { say 'The same weights, byte for byte.'; exit 0; }",
    ]


def _measure(evidence: Evidence) -> list[str]:
    measure = [_command("parity", measuring(evidence)), _COUNTS]
    if evidence.parity.served is not None:
        return [*_target(evidence), *measure]
    wanted = evidence.parity.provenance.trace_sha256
    return [
        "trace=${TRACE:-$work/trace}",
        *_recorded("trace", _target(evidence), recording(evidence)),
        *([] if wanted is None else _noted("trace", wanted, "judged: counts may differ")),
        *measure,
    ]


def _judge(evidence: Evidence) -> list[str]:
    verdict = evidence.verdict
    released = f"The release says {verdict.outcome} (exit code {verdict.exit_code}), and this says $code."
    stated = ["# Replay's own error is what was stated for the release, and is not measured here."]
    return [
        *(stated if verdict.bias.source == STATED else []),
        "code=0",
        f"{_command('gate', gating(evidence))} || code=$?",
        f'[ "$code" -eq {verdict.exit_code} ] || {{ say "{released}"; exit 3; }}',
        f"say 'The same weights, byte for byte, and the same verdict: {verdict.outcome}.'",
    ]


def _target(evidence: Evidence) -> list[str]:
    lines = _given("target", "TARGET", evidence.release.target_id, "directory or Hugging Face id of the target")
    if not _own_prompts(evidence):
        lines += _given("prompts", "PROMPTS", None, "file of the prompts that were asked")
    return lines


def _own_prompts(evidence: Evidence) -> bool:
    """Whether the prompts are those that come with quark-eagle."""
    return PROMPTS not in recording(evidence)


def _given(name: str, variable: str, default: str | None, what: str) -> list[str]:
    """Lines that set a variable of the script from one of the environment, or from a default if there is one."""
    if default is None:
        needed = shlex.quote(f"{variable}: set it to the {what}.")
        return [f'[ -n "${{{variable}:-}}" ] || refuse {needed}', f"{name}=${variable}"]
    return [f"{name}={shlex.quote(default)}", f"{name}=${{{variable}:-${name}}}"]


def _recorded(trace: str, before: Sequence[str], words: Words) -> list[str]:
    """Lines that record a trace which is not there; a trace that was interrupted is finished."""
    lines = [*before, _command("trace", words)]
    return [f'if [ ! -e "${trace}/trace.json" ]; then', *(f"    {line}" for line in lines), "fi"]


def _noted(trace: str, sha256: str, otherwise: str) -> list[str]:
    """Lines that say whether a trace is the one of the release."""
    said = shlex.quote(f"   another recording than the one that was {otherwise}.")
    return [f'[ "$(sha256 "${trace}/trace.json")" = {sha256} ] || say {said}']


def _all_same(directory: str, files: Mapping[str, Mapping[str, str]], otherwise: str) -> list[str]:
    """Lines that compare files, all of them, and stop with 3 if one differs."""
    wanted = ((name, it["sha256"]) for name, it in sorted(files.items()))
    lines = [f'same "{directory}" {shlex.quote(name)} {shlex.quote(sha256)}' for name, sha256 in wanted]
    return ["differs=0", *lines, f'[ "$differs" -eq 0 ] || {{ say {shlex.quote(otherwise)}; exit 3; }}']


def _command(verb: str, words: Words) -> str:
    """A call of quark-eagle: the script's own variables, and everything else quoted."""
    return " ".join(["quark_eagle", verb, *(shlex.quote(it) if isinstance(it, str) else str(it) for it in words)])
