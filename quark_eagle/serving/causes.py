"""What an engine's last words mean: patterns of its log, each with the cause and the remedy in words.

The words are vLLM 0.32's and torch's own; the files that print them are named. The end of the log is rarely the place:
the worker, the engine and the server print a traceback each, and the first of them is the cause of the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from quark_eagle.serving.process import Guarded

_LINES_READ = 400  # a traceback of the worker, one of the engine and one of the server follow each other
_KILLED = 128 + 9
_EXCEPTION = re.compile(r"^(?:\(.*?pid=\d+\) )?(?:.*\] )?((?:\w+\.)*\w*(?:Error|Exception|: error): .+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why an engine did not start, or died.

    Attributes:
        name: short and stable, for scripts and tests.
        pattern: a regular expression that matches within a line of the log.
        meaning: one sentence.
        remedy: what to do.
    """

    name: str
    pattern: str
    meaning: str
    remedy: str


CAUSES = (
    Cause(
        name="no_vllm",
        pattern=r"No module named '?vllm",
        meaning="This Python has no vLLM.",
        remedy="Name one that has it with --vllm-python, or its console script with --vllm-bin.",
    ),
    Cause(
        name="port_taken",
        pattern=r"\[Errno 98\]|[Aa]ddress already in use",
        meaning="The port is taken.",
        remedy="Stop what listens there, or let a free port be chosen.",
    ),
    Cause(
        name="unknown_flag",
        pattern=r"error: unrecognized arguments: ",
        meaning="This version of vLLM does not know one of the flags.",
        remedy="Leave it out, or use the version that has it.",
    ),
    Cause(
        name="no_model",
        pattern=r"is not a local folder and is not a valid model identifier|Repo id must be in the form"
        r"|Invalid repository ID or local directory",
        meaning="The target or the draft is neither a directory nor an id that can be resolved here.",
        remedy="Check both paths; offline, an id must be in the Hugging Face cache.",
    ),
    Cause(
        name="out_of_memory",
        pattern=r"OutOfMemoryError|(?:HIP|CUDA) out of memory|hipErrorOutOfMemory|can't allocate memory"
        r"|^MemoryError|Free memory on device .* is less than desired"  # v1/worker/utils.py
        r"|on kv cache allocation is less than requested memory",  # v1/worker/cpu_worker.py
        meaning="There is less memory than was asked for.",
        remedy="End what else uses the device, ask for less (--gpu-memory-utilization; VLLM_CPU_KVCACHE_SPACE on a "
        "CPU), or spread the target over more GPUs (--tensor-parallel-size).",
    ),
    Cause(
        name="no_room_for_cache",
        # v1/core/kv_cache_utils.py
        pattern=r"No available memory for the cache blocks|larger than the available KV cache memory",
        meaning="The weights fit, but no room is left for the KV cache.",
        remedy="Lower --max-model-len or raise --gpu-memory-utilization.",
    ),
    Cause(
        name="too_long",
        pattern=r"is greater than the derived max_model_len",  # config/model.py
        meaning="--max-model-len is more than the target was made for.",
        remedy="Lower it.",
    ),
    Cause(
        name="unsupported_dtype",
        # config/vllm.py, for a quantized model; model_executor/…/quantization
        pattern=r"is not supported for quantization method .* Supported dtypes",
        meaning="An FP8 checkpoint cannot be computed in this dtype.",
        remedy="Serve with --dtype bfloat16.",
    ),
    Cause(
        name="engine_died",
        pattern=r"EngineDeadError|Engine core proc \S+ died unexpectedly",  # v1/engine/core_client.py
        meaning="The process that computes (EngineCore) died under the server.",
        remedy="If nothing above says why, it was killed: the kernel does that when memory runs out.",
    ),
)


def cause_of(log: str) -> Cause | None:
    """The first of the causes whose pattern is found in a log, or None.

    >>> cause_of("OSError: [Errno 98] Address already in use").name
    'port_taken'
    """
    return next((cause for cause in CAUSES if re.search(cause.pattern, log, re.MULTILINE)), None)


def first_error(log: str) -> str | None:
    r"""The first exception that a log tells of, as its one line, without the prefix that vLLM's processes print.

    >>> first_error("Traceback\n(EngineCore pid=7) ValueError: too little\nRuntimeError: it follows")
    'ValueError: too little'
    """
    found = _EXCEPTION.search(log)
    return found[1] if found else None


def obituary(what: str, process: Guarded) -> str:
    """An error message: what happened, what the log says of the cause and what that means, and the log's last lines.

    Args:
        what: happened, as a sentence without its full stop.
        process: whose log it is.
    """
    log = process.last_lines(_LINES_READ)
    cause, error = cause_of(log), first_error(log)
    said = [f"{what}."]
    if cause is not None:
        said += [cause.meaning, cause.remedy]
    elif process.exit_code() == _KILLED:
        said.append("It was killed (SIGKILL); the kernel does that when memory runs out, and says so in its own log.")
    if error is not None:
        said.append(f"\nThe first error in its log: {error}")
    return f"{' '.join(said)}\nLog: {process.log_path}\nIts last lines:\n{process.last_lines()}"
