"""Memory and disk against what a job needs, by arithmetic: nothing is loaded. Lines of a diagnosis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quark_eagle.serving.doctor_line import Line, error, ok, warning
from quark_eagle.serving.machine import Machine
from quark_eagle.serving.recipes import Job, recipe

NUM_AUX_HIDDEN_STATES = 3
_VLLMS_SHARE = 0.9  # of a GPU's memory, where no recipe says otherwise
_STATE_BYTES = 2  # bfloat16
_REPLAY_BYTES = 1 << 30  # Python with torch, and the states of the prompts that are replayed together
_GRAPH_BYTES = 4 << 30  # of a GPU: activations, captured graphs, communication buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSize:
    """What a trace will hold.

    Attributes:
        num_tokens: of a prompt and its answer, on average.
    """

    num_prompts: int = 320
    num_tokens: int = 1024

    def size_bytes(self, hidden_size: int) -> int:
        """Of the hidden states, which are nearly all of it.

        >>> TraceSize(num_prompts=320, num_tokens=1024).size_bytes(7168)  # Kimi-K2.5
        14092861440
        """
        return self.num_prompts * self.num_tokens * NUM_AUX_HIDDEN_STATES * hidden_size * _STATE_BYTES


def room_lines(machine: Machine, job: Job, trace: TraceSize) -> Iterator[Line]:
    """GPU memory, host memory, disk."""
    unknown = [model.name for model in (job.target, job.draft) if model is not None and model.size_bytes is None]
    if unknown:
        yield warning(
            "sizes",
            f"{' and '.join(unknown)}: not on this disk, so what is needed is known in part only",
            "Download first (`hf download NAME`), or name the directory.",
        )
    if machine.gpus:
        yield from _gpu_memory(machine, job)
    yield from _host_memory(machine, job)
    yield from _disk(machine, job, trace)


def _gpu_memory(machine: Machine, job: Job) -> Iterator[Line]:
    if len(machine.gpus) < job.tp:
        yield error(
            "GPU memory",
            f"{len(machine.gpus)} GPUs, but the target is split over {job.tp}",
            f"Use {job.tp} GPUs, or give --tp.",
        )
        return
    needed = gpu_bytes(job)
    if needed is None:
        return
    share = float(str(recipe(job).command.options.get("--gpu-memory-utilization", _VLLMS_SHARE)))
    smallest = min(gpu.memory_bytes for gpu in machine.gpus)
    told = (
        f"{_gb(needed)} of each GPU's {_gb(smallest)} (vLLM takes {share:.0%}): weights over {job.tp}, the draft "
        f"whole, a sequence of {job.max_model_len} tokens"
    )
    if needed > share * smallest:
        yield error("GPU memory", told, "Split over more GPUs (--tp), or shorten the sequences (--isl, --osl).")
    else:
        yield ok("GPU memory", told)


def gpu_bytes(job: Job) -> int | None:
    """What one GPU holds at least: its part of the target, the draft, one sequence's keys and values, buffers.

    The draft counts whole: whether ``draft_tensor_parallel_size`` splits it depends on the version. So does an MLA
    target's cache, which every GPU keeps. None where the target's size is not known.
    """
    if job.target.size_bytes is None:
        return None
    draft = (job.draft.size_bytes or 0) if job.draft is not None else 0
    split = 1 if job.target.is_mla else job.tp
    cache = (job.target.cache_bytes or 0) * job.max_model_len // split
    return job.target.size_bytes // job.tp + draft + cache + _GRAPH_BYTES


def _host_memory(machine: Machine, job: Job) -> Iterator[Line]:
    if machine.host_memory_bytes is None or job.draft is None or job.draft.size_bytes is None:
        return
    needed = 2 * job.draft.size_bytes + _REPLAY_BYTES  # both drafts; what they share is held once, which only helps
    told = f"{_gb(needed)} at most to replay both drafts; {_gb(machine.host_memory_bytes)} free"
    if needed > machine.host_memory_bytes:
        yield error(
            "host memory", told, "Free some, or raise the container's limit; replay maps files, and would crawl."
        )
    else:
        yield ok("host memory", told)


def _disk(machine: Machine, job: Job, trace: TraceSize) -> Iterator[Line]:
    if machine.disk_free_bytes is None or job.target.hidden_size is None:
        return
    states = trace.size_bytes(job.target.hidden_size)
    draft = (job.draft.size_bytes or 0) if job.draft is not None else 0
    told = (
        f"{_gb(states)} for a trace of {trace.num_prompts} × {trace.num_tokens} tokens (a third with trace --project) "
        f"and at most {_gb(draft)} for the FP8 draft; {_gb(machine.disk_free_bytes)} free"
    )
    if states + draft > machine.disk_free_bytes:
        yield error("disk", told, "Free some, name another disk with --output, or record with --project.")
    else:
        yield ok("disk", told)


def _gb(num_bytes: float) -> str:
    """Bytes in decimal GB.

    >>> _gb(14_092_861_440), _gb(73_000_000)
    ('14.1 GB', '0.07 GB')
    """
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e9:.2f} GB"
