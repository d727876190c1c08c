"""RecordOptions: how a trace is recorded; Estimate: what it will take; plan_batches: what is decoded together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from quark_eagle.errors import UsageError, findings
from quark_eagle.trace.trace_document import Sampling
from quark_eagle.trace.vllm_options import VllmOptions

AUTO_BATCH_SIZE = 128
BATCH_BYTES = 2 << 30  # a batch's cache, and its states until its shard is written


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """How to record.

    Attributes:
        sampling: how tokens are chosen.
        dtype: the target computes in; "auto" is bfloat16 where the device multiplies it fast, else float32.
        state_dtype: of the stored states and rows. bfloat16 whatever the target computed in, as engines hand such
            states to the draft; float32 to check the algorithm.
        project: store only what the draft's ``fc`` makes of the states.
        batch_size: prompts decoded together; None for as many as are sensible.
        device: "auto" is a GPU if there is one.
        trust_remote_code: let the target's own Python code run.
        vllm: run the target in vLLM, in this way; None runs it here, by transformers.
    """

    sampling: Sampling = field(default_factory=Sampling)
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    state_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    project: bool = False
    batch_size: int | None = None
    device: str = "auto"
    trust_remote_code: bool = False
    vllm: VllmOptions | None = None

    def check(self) -> None:
        """See that the options make sense together.

        Raises:
            UsageError: lists all that do not.
        """
        s = self.sampling
        rules = (
            (s.temperature >= 0, f"--temperature {s.temperature}: must be 0 (greedy) or more."),
            (0 < s.top_p <= 1, f"--top-p {s.top_p}: must be above 0 and at most 1."),
            (s.seed >= 0, f"--seed {s.seed}: must be 0 or more."),
            (s.max_tokens >= 1, f"--max-tokens {s.max_tokens}: must be 1 or more."),
            (self.batch_size is None or self.batch_size >= 1, f"--batch-size {self.batch_size}: must be 1 or more."),
            (
                not (self.project and self.state_dtype == "float32"),
                "--project: makes bfloat16 of the states, so --state-dtype float32 cannot be kept.",
            ),
            (
                not (self.dtype == "bfloat16" and self.state_dtype == "float32"),
                "--state-dtype float32: the states of a bfloat16 target have no more digits than bfloat16.",
            ),
            (
                self.vllm is None or self.device == "auto",
                f"--device {self.device}: vLLM runs on what it was built for. Leave it out with --engine vllm.",
            ),
        )
        problems = [problem for holds, problem in rules if not holds]
        problems += self.vllm.problems if self.vllm is not None else []
        if problems:
            raise UsageError(findings("trace", problems, "Correct these options."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a recording will take, told before it starts. Answers may end earlier than max_tokens: upper bounds.

    Attributes:
        num_prompts: in all.
        num_done: of these recorded by an earlier run.
        prompt_tokens: of the prompts still to record.
        max_new_tokens: that their answers may have.
        size_bytes: still to be written.
        seconds: at the pace of a short warm-up; None if nothing is left to record.
        dtype: the target computes in.
        batch_size: of the largest batch.
    """

    num_prompts: int
    num_done: int
    prompt_tokens: int
    max_new_tokens: int
    size_bytes: int
    seconds: float | None
    dtype: str
    batch_size: int


def plan_batches(
    lengths: Sequence[int], max_tokens: int, token_bytes: int, batch_size: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """Prompts that are decoded together: neighbours in length, longest first, and about equally many.

    Args:
        lengths: tokens of each prompt.
        max_tokens: of each answer.
        token_bytes: of one token's cache and states; a batch's must fit into `BATCH_BYTES`.
        batch_size: at most so many prompts; None for `AUTO_BATCH_SIZE`.

    >>> plan_batches([5, 9, 7], max_tokens=4, token_bytes=2, batch_size=2)
    ((1, 2), (0,))
    """
    most = batch_size or AUTO_BATCH_SIZE
    even = ceil(len(lengths) / ceil(len(lengths) / most))
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batches[-1][0]] + max_tokens if batches else 0
        if not batches or len(batches[-1]) >= even or (len(batches[-1]) + 1) * longest * token_bytes > BATCH_BYTES:
            batches.append([])
        batches[-1].append(i)
    return tuple(map(tuple, batches))
