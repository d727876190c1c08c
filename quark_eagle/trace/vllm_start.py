"""What vLLM is started with: the target described before anything is loaded, and the engine's arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import UsageError
from quark_eagle.serving.engine import Engine, EngineVersion
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import AUTO_BATCH_SIZE, RecordOptions
from quark_eagle.trace.target_identity import TargetGeometry, identify_as
from quark_eagle.trace.trace_document import TargetId
from quark_eagle.trace.vllm_process import CAPTURE_CLASS

# A prompt has at most as many tokens as it has bytes; this much more for the template and what a draft proposes.
_TEMPLATE_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A target and the vLLM that will run it, before either is loaded."""

    id: TargetId
    directory: Path
    geometry: TargetGeometry
    engine: Engine
    version: EngineVersion


def describe(
    directory: Path, name: str, aux_layer_ids: Callable[[int], Sequence[int]], options: RecordOptions
) -> Described:
    """What will run, where.

    Raises:
        UsageError: sampling on a CPU, where vLLM cannot seed a request.
        EngineError: there is no vLLM.
        TraceError: the target's config cannot be read.
    """
    assert options.vllm is not None
    engine = Engine.find(options.vllm.python, options.vllm.bin)
    version = engine.version()
    if version.platform == "cpu" and not options.sampling.is_greedy:
        raise UsageError(
            f"--temperature {options.sampling.temperature}: vLLM's CPU worker dies of a request with a seed of its own "
            "(`CPU Generator does not use offset`), and without one the answers could not be had again. "
            "Record greedily, on a GPU, or with --engine transformers."
        )
    geometry = TargetGeometry.read(directory)
    parallel = options.vllm.tensor_parallel_size
    identity = identify_as(
        directory,
        name,
        geometry,
        aux_layer_ids,
        dtype="float32" if options.state_dtype == "float32" else options.dtype,  # "auto" until vLLM has said
        engine=f"vllm {version.vllm}, torch {version.torch}" + (f", {parallel} ranks" if parallel > 1 else ""),
        device=version.device if version.num_devices else version.platform,
    )
    return Described(id=identity, directory=directory.absolute(), geometry=geometry, engine=engine, version=version)


def engine_arguments(
    described: Described, draft: Checkpoint, prompts: PromptSet, options: RecordOptions
) -> dict[str, Any]:
    """What vLLM is started with: ours where the trace depends on it, the user's for the rest."""
    vllm = options.vllm
    assert vllm is not None
    longest = max(sum(len(message["content"].encode()) for message in prompt.chat) for prompt in prompts)
    length = longest + _TEMPLATE_TOKENS + options.sampling.max_tokens
    if described.geometry.max_length is not None:
        length = min(length, described.geometry.max_length)
    arguments: dict[str, Any] = {"max_model_len": length, "max_num_seqs": options.batch_size or AUTO_BATCH_SIZE}
    arguments |= {name: value for name, value in vllm.options.items() if name != "speculative_config"}
    arguments |= {
        "model": str(described.directory),
        "dtype": described.id.dtype,
        "seed": 0,
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "trust_remote_code": options.trust_remote_code,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "worker_extension_cls": CAPTURE_CLASS,
    }
    if vllm.num_speculative_tokens is not None:
        arguments["speculative_config"] = {
            **vllm.options.get("speculative_config", {}),
            "method": "eagle3",
            "model": str(draft.directory.absolute()),
            "num_speculative_tokens": vllm.num_speculative_tokens,
        }
    return arguments
