"""From drafts and what a user says of them to a comparison that can be run: replayed, or served.

`parity` goes by tensors; which of them an engine casts on loading is for `deploy` to say. They meet here.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from quark_eagle.parity.compare import Comparison
    from quark_eagle.parity.served.measure import ServedComparison
    from quark_eagle.parity.served.schedule import Schedule
    from quark_eagle.serve_options import ServeOptions
    from quark_eagle.serving.command import ServeCommand
    from quark_eagle.serving.engine import Engine
    from quark_eagle.trace.prompts import PromptSet

DEFAULT_BLOCKS = 3
DEFAULT_BLOCKS_ON_DEVICES = 4  # an even number, so that each arm runs as often on either set
DEFAULT_CONCURRENCY = 16
DEFAULT_MAX_TOKENS = 128


def open_comparison(
    baseline: Path,
    candidate: Path,
    trace: Path,
    *,
    num_speculative_tokens: int = 3,
    dtype: Literal["auto", "bfloat16", "float32"] = "auto",
    walk_only: bool = False,
    draft_sample_method: Literal["greedy", "probabilistic"] = "greedy",
    device: str = "cpu",
    candidate_name: str | None = None,
) -> Comparison:
    """A comparison in which the candidate computes what the engine would make of its files.

    `parity` goes by tensors; which of them the engine casts on loading is for `deploy` to say. See
    `quark_eagle.parity.compare.Comparison.open` for arguments and errors; ``baseline`` may be a file of stored counts.
    """
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.deploy.miscast import miscast_weights
    from quark_eagle.parity.compare import Comparison
    from quark_eagle.trace.target_trace import TargetTrace

    checkpoint = Checkpoint.open(candidate)
    weights = miscast_weights(checkpoint, TargetTrace.open(trace).target.num_hidden_layers)
    slots = Eagle3Layout.of(checkpoint).slots
    return Comparison.open(
        baseline,
        candidate,
        trace,
        num_speculative_tokens=num_speculative_tokens,
        dtype=dtype,
        walk_only=walk_only,
        draft_sample_method=draft_sample_method,
        device=device,
        miscast=[slots[name].canonical.removesuffix(".weight") for name in weights],
        candidate_name=candidate_name,
    )


def open_served(
    drafts: tuple[Path, Path],
    serve: ServeOptions,
    *,
    num_speculative_tokens: int,
    dtype: str = "auto",
    candidate_name: str | None = None,
) -> ServedComparison:
    """Everything that is decided before a server is started.

    Raises:
        QuarkEagleError: drafts, prompts, engine or options cannot be used.
    """
    from quark_eagle.parity.served.arms import Arms, equipped, layout_here
    from quark_eagle.parity.served.measure import ServedComparison
    from quark_eagle.parity.served.schedule import schedule
    from quark_eagle.parity.served.session import Driving
    from quark_eagle.parity.side import Side
    from quark_eagle.serving.engine import Engine
    from quark_eagle.trace.prompts import PromptSet
    from quark_eagle.trace.trace_document import Sampling

    prompts = PromptSet.load(serve.prompts, serve.split or "parity").limited(serve.limit)
    baseline = Side.open(drafts[0])
    candidate = Side.open(drafts[1], _miscast(drafts[1], serve.target), candidate_name)
    sampling = Sampling(
        temperature=serve.temperature or 0.0,
        top_p=1.0 if serve.top_p is None else serve.top_p,
        seed=serve.seed or 0,
        max_tokens=serve.max_tokens or DEFAULT_MAX_TOKENS,
    )
    driving = Driving(
        sampling=sampling,
        concurrency=1 if serve.deterministic else serve.concurrency or DEFAULT_CONCURRENCY,
        ready_seconds=serve.ready_seconds or 1800.0,
    )
    if serve.baseline_url is not None and serve.candidate_url is not None:
        return ServedComparison(
            baseline=baseline,
            candidate=candidate,
            prompts=prompts,
            num_speculative_tokens=num_speculative_tokens,
            driving=driving,
            schedule=schedule("given servers", serve.blocks or DEFAULT_BLOCKS, without_speculation=False),
            given={"baseline": serve.baseline_url, "candidate": serve.candidate_url},
        )
    engine = Engine.find(serve.vllm_python, serve.vllm_bin)
    version = engine.version()
    base = replace(_base(serve, drafts[1], num_speculative_tokens, engine, prompts), dtype=dtype)
    arms = Arms(
        base=equipped(base, prompts, sampling.max_tokens, version),
        drafts={"baseline": drafts[0], "candidate": drafts[1]},
        num_speculative_tokens=num_speculative_tokens,
        platform=version.platform,
    )
    return ServedComparison(
        baseline=baseline,
        candidate=candidate,
        prompts=prompts,
        num_speculative_tokens=num_speculative_tokens,
        driving=replace(driving, sends_seed=version.platform != "cpu"),
        schedule=_schedule(serve, layout_here(arms, one_at_a_time=bool(serve.one_at_a_time))),
        engine=engine,
        arms=arms,
    )


def _miscast(candidate: Path, target: str | None) -> list[str]:
    """Canonical modules of the candidate that the engine casts as it loads them; none where the target is not here."""
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.checkpoint.source import resolve
    from quark_eagle.deploy.miscast import miscast_weights
    from quark_eagle.parity.served.arms import num_hidden_layers

    layers = None if target is None else num_hidden_layers(resolve(target))
    if layers is None:
        return []
    checkpoint = Checkpoint.open(candidate)
    slots = Eagle3Layout.of(checkpoint).slots
    return [slots[name].canonical.removesuffix(".weight") for name in miscast_weights(checkpoint, layers)]


def _schedule(serve: ServeOptions, layout: Any) -> Schedule:
    from quark_eagle.parity.served.schedule import schedule

    if serve.devices is not None:
        blocks = serve.blocks or DEFAULT_BLOCKS_ON_DEVICES
        return schedule("disjoint devices", blocks, devices=serve.devices.split("/"))
    return schedule(layout, serve.blocks or DEFAULT_BLOCKS)


def _base(serve: ServeOptions, candidate: Path, k: int, engine: Engine, prompts: PromptSet) -> ServeCommand:
    """What the recipe serves on this GPU, with the user's own flags over it."""
    from quark_eagle.checkpoint.source import resolve
    from quark_eagle.parity.served.arms import ROOM, context_length, longest_prompt
    from quark_eagle.serving.flags import flags, gpu_of, major_minor
    from quark_eagle.serving.recipe_model import ServedModel
    from quark_eagle.serving.recipes import Job, recipe

    assert serve.target is not None  # check_usage
    answer = serve.max_tokens or DEFAULT_MAX_TOKENS
    target, version = resolve(serve.target, python_too=bool(serve.trust_remote_code)), engine.version()
    job = Job(
        target=ServedModel.of(str(target), target),
        draft=ServedModel.of(str(candidate), candidate),
        gpu=gpu_of(serve.gpu or "auto", version),
        tensor_parallel_size=serve.tensor_parallel_size,
        num_speculative_tokens=k,
        compare=True,
        isl=max(1, min(longest_prompt(prompts), (context_length(target) or sys.maxsize) - answer - ROOM)),
        osl=answer,
        vllm=major_minor(version.vllm),
        trust_remote_code=bool(serve.trust_remote_code),
    )
    command = recipe(job).command
    options = {name: value for name, value in command.options.items() if name != "--max-model-len"}
    return replace(command, options={**options, **flags(serve.vllm_option or [])})
