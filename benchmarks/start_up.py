"""What does a command cost before and beside its work? Seconds, and as a share of importing torch, in one run.

    python benchmarks/start_up.py

A gate that runs on every commit and help that a person waits for shall be quick. Both are processor time of the whole
process, the least of some runs, taken in turn. The peer is `import torch`: what any tool of this kind that imports it
at the top (llm-compressor, ModelOpt, Quark) costs before its first line of work.

Bars: `--help` 0.3 s; `gate` and `explain` of a report of 330 prompts 2 s. Exits with 1 if one is missed.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # the report is the tests' own: its counts do not matter here, its size does

from tests.reports import AT_PAR, report  # noqa: E402

NUM_PROMPTS = 330


def cpu_seconds(*arguments: str) -> float:
    """User and system time of one Python process.

    Raises:
        subprocess.CalledProcessError: it failed; its error goes to stderr.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, taken in turn")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch:
        parity = Path(scratch) / "parity.json"
        parity.write_text(report((AT_PAR * 2)[:NUM_PROMPTS]).to_json())
        ours = ("-m", "quark_eagle")
        rows: dict[str, tuple[tuple[str, ...], float | None]] = {
            "import torch": (("-c", "import torch"), None),
            "quark-eagle --help": ((*ours, "--help"), 0.3),
            "quark-eagle gate": ((*ours, "gate", str(parity)), 2.0),
            "quark-eagle explain": ((*ours, "explain", str(parity)), 2.0),
        }
        for arguments, _ in rows.values():
            cpu_seconds(*arguments)  # modules are compiled once
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(rounds):
            for name, (arguments, _) in rows.items():
                seconds[name].append(cpu_seconds(*arguments))
    missed = False
    peer = min(seconds["import torch"])
    print(f"{'':20} {'seconds':>8} {'of the peer':>12} {'bar':>5}")
    for name, (_, bar) in rows.items():
        least = min(seconds[name])
        missed |= bar is not None and least > bar
        print(f"{name:20} {least:8.2f} {least / peer:12.2f} {'' if bar is None else bar:>5}")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
