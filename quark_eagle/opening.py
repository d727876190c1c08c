"""From drafts and what a user says of them to a comparison that can be run: replayed, or served.

`parity` goes by tensors; which of them an engine casts on loading is for `deploy` to say. They meet here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from quark_eagle.parity.compare import Comparison
    from quark_eagle.parity.served.measure import ServedComparison
    from quark_eagle.parity.served.schedule import Schedule
    from quark_eagle.serve_options import ServeOptions
    from quark_eagle.serving.command import ServeCommand
    from quark_eagle.serving.engine import EngineVersion
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
    num_speculative_tokens: int | None = None,
    dtype: Literal["auto", "bfloat16", "float32"] = "auto",
    walk_only: bool = False,
    draft_sample_method: Literal["greedy", "probabilistic"] = "greedy",
    device: str = "cpu",
    kv_cache_dtype: Literal["auto", "fp8"] = "auto",
    candidate_name: str | None = None,
) -> Comparison:
    """A comparison in which the candidate computes what the engine would make of its files.

    `parity` goes by tensors; which of them the engine casts on loading is for `deploy` to say, and what else it would
    not run as it is meant, which replay cannot show and no verdict may pass. See
    `quark_eagle.parity.compare.Comparison.open` for arguments and errors; ``baseline`` may be a file of stored counts.
    k is by default that of the draft which was served along with the trace, for an anchor holds at that k alone. A KV
    cache of dtype ``auto`` is in FP8 where the candidate's own config has an engine keep it so.

    Raises:
        VerificationError: the candidate is quantized in a way that no rule covers, so that what was replayed would
            say nothing about a server; or in one that only a server can measure.
    """
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.deploy.loadable import makes_fp8_cache, misread
    from quark_eagle.deploy.miscast import miscast_weights
    from quark_eagle.parity.compare import Comparison
    from quark_eagle.trace.target_trace import TargetTrace

    checkpoint, opened = Checkpoint.open(candidate), TargetTrace.open(trace)
    weights = miscast_weights(checkpoint, opened.target.num_hidden_layers)
    slots = Eagle3Layout.of(checkpoint).slots
    not_as_meant = misread(checkpoint, opened.target.num_hidden_layers)
    return Comparison.open(
        baseline,
        candidate,
        trace,
        num_speculative_tokens=num_speculative_tokens or opened.num_speculative_tokens,
        dtype=dtype,
        walk_only=walk_only,
        draft_sample_method=draft_sample_method,
        device=device,
        kv_cache_dtype="fp8" if makes_fp8_cache(checkpoint) else kv_cache_dtype,
        miscast=[slots[name].canonical.removesuffix(".weight") for name in weights],
        misread=not_as_meant,
        candidate_name=candidate_name,
    )


def open_served(
    drafts: tuple[Path, Path],
    serve: ServeOptions,
    *,
    num_speculative_tokens: int | None = None,
    dtype: str = "auto",
    kv_cache_dtype: Literal["auto", "fp8"] = "auto",
    candidate_name: str | None = None,
) -> ServedComparison:
    """Everything that is decided before a server is started; k is by default the recipe's.

    A ``kv_cache_dtype`` of fp8 is the candidate's alone, as in replay; auto is what its config or the server's flags
    make of it.

    Raises:
        QuarkEagleError: drafts, prompts, engine or options cannot be used.
    """
    from quark_eagle.parity.served.arms import Arms, equipped, layout_here
    from quark_eagle.parity.served.fp8_cache import fp8_cache
    from quark_eagle.parity.served.measure import ServedComparison
    from quark_eagle.parity.served.schedule import schedule
    from quark_eagle.parity.served.session import Driving
    from quark_eagle.parity.side import Side
    from quark_eagle.serving.engine import Engine
    from quark_eagle.trace.prompts import PromptSet
    from quark_eagle.trace.target_trace import DEFAULT_K
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
            num_speculative_tokens=num_speculative_tokens or DEFAULT_K,
            driving=driving,
            schedule=schedule("given servers", serve.blocks or DEFAULT_BLOCKS, without_speculation=False),
            given={"baseline": serve.baseline_url, "candidate": serve.candidate_url},
        )
    engine = Engine.find(serve.vllm_python, serve.vllm_bin)
    version = engine.version()
    base = replace(_base(serve, drafts[1], num_speculative_tokens, version, prompts), dtype=dtype)
    k = base.num_speculative_tokens
    assert k is not None  # of a command with a draft
    arms = Arms(
        base=equipped(base, prompts, sampling.max_tokens, version),
        drafts={"baseline": drafts[0], "candidate": drafts[1]},
        num_speculative_tokens=k,
        platform=version.platform,
        candidate_only=fp8_cache(base, version) if kv_cache_dtype == "fp8" else {},
    )
    return ServedComparison(
        baseline=baseline,
        candidate=candidate,
        prompts=prompts,
        num_speculative_tokens=k,
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


def _base(
    serve: ServeOptions, candidate: Path, k: int | None, version: EngineVersion, prompts: PromptSet
) -> ServeCommand:
    """What the recipe serves on this GPU, with the user's own flags over it."""
    from quark_eagle.checkpoint.source import resolve
    from quark_eagle.serving.flags import flags
    from quark_eagle.serving.recipe_here import recipe_here

    assert serve.target is not None  # check_usage
    command = recipe_here(
        version,
        resolve(serve.target, python_too=bool(serve.trust_remote_code)),
        candidate,
        longest_prompt=prompts.longest,
        gpu=serve.gpu,
        tensor_parallel_size=serve.tensor_parallel_size,
        num_speculative_tokens=k,
        trust_remote_code=bool(serve.trust_remote_code),
    )
    return replace(command, options={**command.options, **flags(serve.vllm_option or [])})
