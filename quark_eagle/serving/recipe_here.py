"""What a pair is served with on the machine at hand: by a served comparison, and while its target is recorded.

A trace stands for what is served only if the target and the draft ran in the same way: split over as many GPUs, with
the same attention, cache and environment. So both take it from here.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from quark_eagle.serving.command import ServeCommand
from quark_eagle.serving.engine import EngineVersion
from quark_eagle.serving.flags import gpu_of, major_minor
from quark_eagle.serving.recipe_model import ServedModel
from quark_eagle.serving.recipes import Job, recipe


def recipe_here(
    version: EngineVersion,
    target: Path,
    draft: Path | None,
    *,
    longest_prompt: int,
    gpu: str | None = None,
    tensor_parallel_size: int | None = None,
    num_speculative_tokens: int | None = None,
    trust_remote_code: bool = False,
) -> ServeCommand:
    """The recipe of a GPU for two drafts of one target, without ``--max-model-len``: prompts and answers decide that.

    Args:
        version: of the engine, which may be another Python's and see other GPUs than ours does.
        target: its directory.
        draft: the directory of either draft, for both get the same; None serves the target alone.
        longest_prompt: its tokens, at most.
        gpu: whose recipe; None or "auto" is the one that the engine sees.
        tensor_parallel_size: GPUs of the target; None is the recipe's number.
        num_speculative_tokens: k; None is the recipe's.
        trust_remote_code: whether Python of the target may run.

    Raises:
        UsageError: there is no recipe for that GPU.
        CheckpointError: a config cannot be read.
    """
    model = ServedModel.of(str(target), target)
    job = Job(
        target=model,
        draft=None if draft is None else ServedModel.of(str(draft), draft),
        gpu=gpu_of(gpu or "auto", version),
        tensor_parallel_size=tensor_parallel_size,
        num_speculative_tokens=num_speculative_tokens,
        compare=True,
        isl=max(1, min(longest_prompt, (model.max_positions or sys.maxsize) - 1)),
        osl=1,  # of both lengths the recipe makes --max-model-len, and of the prompt's how it is read
        vllm=major_minor(version.vllm),
        trust_remote_code=trust_remote_code,
    )
    command = recipe(job).command
    return replace(command, options={flag: it for flag, it in command.options.items() if flag != "--max-model-len"})
