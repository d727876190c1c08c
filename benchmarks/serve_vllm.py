"""Serves prompts with real vLLM, a draft speculating, and writes down what every round accepted.

Run as a child process (`python serve_vllm.py JOB.json RUNS.json`), because an engine does not give its memory back.
Without multiprocessing of its own vLLM is deterministic: two runs of the same batches agree in every count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quark_eagle.serving.rounds import clipped

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}


# vLLM 0.32 drafts for no request of a batch once the longest of them, drafts included, might pass max_model_len
# (v1/worker/gpu_model_runner.py, `input_fits_in_drafter`): each of the others loses a round then.
ROOM = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to serve.

    Attributes:
        prompts: token ids of each.
        orders: one run for each: "forward" or "reversed". Another order makes other batches, whose arithmetic differs
            in the last bit: the difference between two orders is serving's own noise (A/A).
        warm_up: serve two short answers first, outside all times.
    """

    target: str
    draft: str
    dtype: str
    num_speculative_tokens: int
    max_tokens: int
    max_num_seqs: int
    prompts: list[list[int]]
    orders: list[str] = field(default_factory=lambda: ["forward"])
    warm_up: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pass over all prompts, in the order of the job whatever order they were served in.

    Attributes:
        answers: generated token ids of each prompt.
        accepted: draft tokens accepted by each round of each prompt, the last round clipped at the answer's end.
    """

    seconds: float
    answers: list[list[int]]
    accepted: list[list[int]]

    @property
    def num_rounds(self) -> int:
        """Drafts that were verified."""
        return sum(map(len, self.accepted))

    @property
    def num_accepted(self) -> int:
        """Draft tokens accepted."""
        return sum(map(sum, self.accepted))


def serve(job: Job, num_threads: int) -> list[Run]:
    """The runs of a job, from a child process."""
    with tempfile.TemporaryDirectory() as directory:
        request, reply = Path(directory, "job.json"), Path(directory, "runs.json")
        request.write_text(json.dumps(asdict(job)))
        environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(num_threads)}
        with Path(directory, "log").open("w+") as log:
            child = subprocess.run(
                [sys.executable, __file__, str(request), str(reply)],
                env=environment,
                stdout=log,
                stderr=log,
                check=False,
            )
            if child.returncode:
                log.seek(0)
                raise SystemExit(f"vLLM could not serve {job.draft} in {job.dtype}:\n{log.read()[-3000:]}")
        return [Run(**run) for run in json.loads(reply.read_text())]


def explained(accepted: list[int], num_tokens: int) -> list[int]:
    """Rounds of an answer of ``num_tokens``, clipped at its end, which must explain every token of it."""
    rounds = clipped(accepted, num_tokens)
    if rounds.num_undrafted:
        raise ValueError(f"{len(accepted)} rounds leave {rounds.num_undrafted} of {num_tokens} tokens unexplained")
    return list(rounds.accepted)


def _serve_here(job: Job) -> list[Run]:
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=job.target,
        dtype=job.dtype,
        enforce_eager=True,
        disable_log_stats=False,
        enable_prefix_caching=False,
        max_num_seqs=job.max_num_seqs,
        max_model_len=max(map(len, job.prompts)) + job.max_tokens + ROOM,
        per_request_spec_decode_metrics="detailed",
        speculative_config={
            "method": "eagle3",
            "model": job.draft,
            "num_speculative_tokens": job.num_speculative_tokens,
        },
    )

    def generate(prompts: list[list[int]], max_tokens: int) -> list[Any]:
        sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        return llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)

    if job.warm_up:
        generate(job.prompts[:2], 4)
    runs = []
    for order in job.orders:
        step = -1 if order == "reversed" else 1
        started = time.perf_counter()
        outputs = generate(job.prompts[::step], job.max_tokens)[::step]
        seconds = time.perf_counter() - started
        answers = [list(output.outputs[0].token_ids) for output in outputs]
        metrics = [output.outputs[0].spec_decode_metrics for output in outputs]
        accepted = [
            explained(found.per_step_accepted if found is not None else [], len(answer))
            for found, answer in zip(metrics, answers, strict=True)
        ]
        runs.append(Run(seconds=seconds, answers=answers, accepted=accepted))
    return runs


if __name__ == "__main__":
    made = _serve_here(Job(**json.loads(Path(sys.argv[1]).read_text())))
    Path(sys.argv[2]).write_text(json.dumps([asdict(run) for run in made]))
