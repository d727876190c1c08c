"""What vLLM is started with: the target described before anything is loaded, and the engine's arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import UsageError
from quark_eagle.serving.command import Option, ServeCommand
from quark_eagle.serving.engine import Engine, EngineVersion
from quark_eagle.serving.recipe_here import recipe_here
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import AUTO_BATCH_SIZE, RecordOptions
from quark_eagle.trace.target_identity import TargetGeometry, identify_as
from quark_eagle.trace.trace_document import TargetId
from quark_eagle.trace.vllm_options import OWN
from quark_eagle.trace.vllm_process import CAPTURE_CLASS

# A prompt has at most as many tokens as it has bytes; this much more for the template and what a draft proposes.
_TEMPLATE_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A target and the vLLM that will run it, before either is loaded.

    Attributes:
        command: what a server of the target and the draft would be started with here; without the draft if none is
            served along.
    """

    id: TargetId
    directory: Path
    geometry: TargetGeometry
    engine: Engine
    version: EngineVersion
    command: ServeCommand

    @property
    def num_speculative_tokens(self) -> int | None:
        """k; None if no draft is served along."""
        return self.command.num_speculative_tokens


def describe(
    directory: Path,
    name: str,
    draft: Checkpoint,
    prompts: PromptSet,
    aux_layer_ids: Callable[[int], Sequence[int]],
    options: RecordOptions,
) -> Described:
    """What will run, where.

    Raises:
        UsageError: sampling on a CPU, where vLLM cannot seed a request; or no recipe for the GPU.
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
    command = recipe_here(
        version,
        directory.absolute(),
        draft.directory.absolute() if options.vllm.serves_draft else None,
        longest_prompt=prompts.longest,
        gpu=options.vllm.gpu,
        tensor_parallel_size=options.vllm.tensor_parallel_size,
        num_speculative_tokens=options.vllm.num_speculative_tokens,
        trust_remote_code=options.trust_remote_code,
    )
    parallel = _tensor_parallel_size(command)
    identity = identify_as(
        directory,
        name,
        geometry,
        aux_layer_ids,
        dtype="float32" if options.state_dtype == "float32" else options.dtype,  # "auto" until vLLM has said
        engine=f"vllm {version.vllm}, torch {version.torch}" + (f", {parallel} ranks" if parallel > 1 else ""),
        device=version.device if version.num_devices else version.platform,
    )
    return Described(
        id=identity,
        directory=directory.absolute(),
        geometry=geometry,
        engine=engine,
        version=version,
        command=command,
    )


def engine_arguments(described: Described, prompts: PromptSet, options: RecordOptions) -> dict[str, Any]:
    """What vLLM is started with: ours where the trace depends on it, else the user's, else the recipe's."""
    vllm, command = options.vllm, described.command
    assert vllm is not None
    length = prompts.longest + _TEMPLATE_TOKENS + options.sampling.max_tokens
    if described.geometry.max_length is not None:
        length = min(length, described.geometry.max_length)
    arguments: dict[str, Any] = {"max_model_len": length, "max_num_seqs": options.batch_size or AUTO_BATCH_SIZE}
    arguments |= _by_python_names(command.options)
    arguments |= {name: value for name, value in vllm.options.items() if name != "speculative_config"}
    arguments |= {
        "model": str(described.directory),
        "dtype": described.id.dtype,
        "seed": 0,
        "tensor_parallel_size": _tensor_parallel_size(command),
        "trust_remote_code": options.trust_remote_code,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "worker_extension_cls": CAPTURE_CLASS,
    }
    if command.draft is not None:
        arguments["speculative_config"] = {
            **command.speculative,
            **vllm.options.get("speculative_config", {}),
            "method": command.method,
            "model": command.draft,
            "num_speculative_tokens": command.num_speculative_tokens,
        }
    return arguments


def _by_python_names(flags: Mapping[str, Option]) -> dict[str, Any]:
    """Flags of `vllm serve` as arguments of its engine.

    Less those that a recording settles by itself: a recipe may well serve with them, and is none to argue with.
    """
    named = {flag.removeprefix("--").replace("-", "_"): value for flag, value in flags.items() if value is not False}
    return {name: value for name, value in named.items() if name not in OWN}


def _tensor_parallel_size(command: ServeCommand) -> int:
    return int(str(command.options["--tensor-parallel-size"]))
