"""Runs vLLM's benchmark module several times in one process, since importing it takes ten seconds and more.

    python client.py JOBS.json

JOBS.json is a list of argument lists. A result appears whole, when its run is done: it is written beside its place
first. A script of the Python that has vLLM, which need not be ours: it imports nothing
of quark_eagle. The module is called and not run, because in vLLM 0.32 it has no main of its own, and the `vllm` script
of the CPU package dies.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def _benchmark(jobs: list[list[str]]) -> None:
    from vllm.benchmarks import serve

    parser = argparse.ArgumentParser()
    serve.add_cli_args(parser)
    for number, arguments in enumerate(jobs, 1):
        print(f"=== run {number} of {len(jobs)}", flush=True)
        told = parser.parse_args(arguments)
        result = Path(told.result_dir, told.result_filename)
        told.result_filename += ".part"
        serve.main(told)
        result.with_name(told.result_filename).replace(result)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules must not be taken for top-level ones
    _benchmark(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
