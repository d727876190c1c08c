"""VllmOptions: which vLLM runs the target, and how it is started."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quark_eagle.errors import UsageError, findings
from quark_eagle.serving.refused_flags import INSTEAD, may_be_secret

# Written by us, for the trace to be what it says; a second one would silently win.
OWN = {
    "model": "it is the target",
    "dtype": "it has an option of its own, --dtype",
    "trust_remote_code": "it has an option of its own, --trust-remote-code",
    "tensor_parallel_size": "it has an option of its own, --tensor-parallel-size",
    "seed": "it has an option of its own, --seed",
    "enforce_eager": "states are taken between layers, which a captured graph does not stop at",
    "worker_extension_cls": "the capture of the states is one",
    "enable_prefix_caching": "states come from computing a token, not from finding it in a cache",
    "pipeline_parallel_size": "one rank has to see all layers",
    "data_parallel_size": "one engine records",
    "disable_log_stats": "the rounds are counted there",
    "kv_transfer_config": "nothing is to be handed to another engine",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmOptions:
    """How to run the target in vLLM: as the recipe of its GPU says, but for what is said here.

    Attributes:
        python: an interpreter that has vLLM; None is our own.
        bin: the `vllm` script of its environment instead.
        gpu: whose recipe; None is that of the GPU which the engine sees.
        tensor_parallel_size: GPUs that the target is split over, by vLLM; None is the recipe's number.
        serves_draft: serve the draft along, to anchor the trace.
        num_speculative_tokens: its k; None is the recipe's.
        options: further arguments of the engine, by their Python names (``gpu_memory_utilization``).
        environment: variables for the engine alone.
    """

    python: Path | None = None
    bin: Path | None = None
    gpu: str | None = None
    tensor_parallel_size: int | None = None
    serves_draft: bool = True
    num_speculative_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """What cannot be."""
        found = [f"--vllm-option {name}: cannot be set, for {OWN[name]}." for name in self.options if name in OWN]
        if self.tensor_parallel_size is not None and self.tensor_parallel_size < 1:
            found.append(f"--tensor-parallel-size {self.tensor_parallel_size}: must be 1 or more.")
        if not isinstance(self.options.get("speculative_config", {}), Mapping):
            found.append('--vllm-option speculative-config: must be a JSON object, such as {"attention_backend": "X"}.')
        if not self.serves_draft and "speculative_config" in self.options:
            found.append("--no-anchor and --vllm-option speculative-config: no draft is served. Leave one of them out.")
        return found


def parse_options(given: Sequence[str]) -> dict[str, Any]:
    """What ``--vllm-option NAME=VALUE`` gave: vLLM's own names, values as JSON where they are such.

    Raises:
        UsageError: one of them is not of that form, or may hold a secret.

    >>> parse_options(["gpu-memory-utilization=0.8", "--enable-expert-parallel", "--no-async-scheduling"])
    {'gpu_memory_utilization': 0.8, 'enable_expert_parallel': True, 'async_scheduling': False}
    """
    parsed: dict[str, Any] = {}
    problems = []
    for text in given:
        name, equals, value = text.removeprefix("--").partition("=")
        if may_be_secret(f"--{name}"):
            problems.append(f"--vllm-option {name}: may hold a secret, and options are recorded: {INSTEAD}.")
        elif not name.replace("-", "").replace("_", "").isalnum():
            problems.append(f"--vllm-option {text}: must be NAME=VALUE, as `vllm serve` names it without the dashes.")
        name = name.replace("-", "_")
        if equals:
            parsed[name] = _value(value)
        else:
            parsed[name.removeprefix("no_")] = not name.startswith("no_")
    if problems:
        raise UsageError(findings("trace", problems, "Correct these options."))
    return parsed


def options_of_servers(given: Sequence[str]) -> dict[str, Any]:
    """The same of flags that were given for servers: what a recording settles by itself is left to the servers.

    Everything else has to reach both, lest a draft be replayed over what another engine did. A flag of servers alone
    is therefore left to vLLM to refuse.

    Raises:
        UsageError: one of them is not of that form.

    >>> options_of_servers(["--enforce-eager", "--kv-cache-dtype=fp8"])
    {'kv_cache_dtype': 'fp8'}
    """
    return {name: value for name, value in parse_options(given).items() if name not in OWN}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
