"""A server's settings as its log tells them: vLLM prints its whole configuration when the engine starts.

Read from vLLM 0.32, `config/vllm.py` (``VllmConfig.__str__``) and the files named below.
"""

from __future__ import annotations

import re

from quark_eagle.serving.server_facts import ServerFacts

# One line of the EngineCore: `Initializing a V1 LLM engine (v0.32.0) with config: model='…', …` (v1/engine/core.py).
_CONFIG = re.compile(r"Initializing a V1 LLM engine \(v(?P<version>[^)]+)\) with config: (?P<config>.*)")
# One line of the API server: what it was told (entrypoints/serve/utils/api_utils.py).
_ARGS = re.compile(r"non-default args: (?P<args>\{.*\})")
# platforms/rocm.py, cuda.py and cpu.py; the vision encoder's line reads otherwise ("Using backend …").
_BACKEND = re.compile(
    r"Using (?P<name>[A-Z][A-Z0-9_]+)(?: attention)? backend\b|Overriding with (?P<instead>[A-Z0-9_]+)"
)
_DRAFT_BEGINS = "Loading drafter model"  # v1/worker/gpu_model_runner.py, cpu_model_runner.py
_CAST = "Attempted to load weight"  # model_executor/models/utils.py


def facts_in_log(log: str) -> ServerFacts:
    """The facts in the log of a server that has started.

    Args:
        log: all of it.
    """
    config, told = _CONFIG.search(log), _ARGS.search(log)
    if config is None:
        return ServerFacts()
    said = config["config"]
    draft = re.search(
        r"SpeculativeConfig\(method='[^']*', model=(?P<q>['\"])(?P<model>.*?)(?P=q), num_spec_tokens=(?P<k>\d+)\)",
        said,
    )
    arguments = told["args"] if told else ""
    target_backend, draft_backend = _backends(log, on_cpu="device_config=cpu" in said)
    return ServerFacts(
        vllm=config["version"],
        draft=draft["model"] if draft else None,
        num_speculative_tokens=int(draft["k"]) if draft else None,
        rejection_sample_method=_argument(arguments, "rejection_sample_method") if draft and told else None,
        draft_sample_method=_argument(arguments, "draft_sample_method") if draft and told else None,
        dtype=_word(said, "dtype", "torch."),
        kv_cache_dtype=_word(said, "kv_cache_dtype"),
        prefix_caching=_flag(said, "enable_prefix_caching"),
        enforce_eager=_flag(said, "enforce_eager"),
        cudagraph_mode=found[1] if (found := re.search(r"'cudagraph_mode': <CUDAGraphMode\.(\w+)", said)) else None,
        tensor_parallel_size=int(size) if (size := _word(said, "tensor_parallel_size")) else None,
        max_model_len=int(length) if (length := _word(said, "max_seq_len")) else None,
        attention_backend=target_backend,
        draft_attention_backend=draft_backend if draft else None,
        casts=tuple(line[line.index(_CAST) :] for line in log.splitlines() if _CAST in line),
    )


def _word(said: str, key: str, prefix: str = "") -> str | None:
    found = re.search(rf"(?:^|[ ,]){key}={re.escape(prefix)}([^,\s]+)", said)
    return found[1] if found else None


def _flag(said: str, key: str) -> bool | None:
    return {"True": True, "False": False}.get(_word(said, key) or "")


def _argument(arguments: str, key: str) -> str:
    """What the server was told, or "default": the default itself has changed its name between versions."""
    found = re.search(rf"'{key}': '(\w+)'", arguments)
    return found[1] if found else "default"


def _backends(log: str, on_cpu: bool) -> tuple[str | None, str | None]:
    """Attention backends of target and draft.

    One worker's lines are read, since those of several interleave. A message is printed once (``info_once``): a draft
    that prints none has the target's.
    """
    lines = log.splitlines()
    begins = next((number for number, line in enumerate(lines) if _DRAFT_BEGINS in line), len(lines))
    worker = found[0] if begins < len(lines) and (found := re.match(r"\(.*?pid=\d+\)", lines[begins])) else ""
    target, draft = (
        [
            found["name"] or found["instead"]
            for line in part
            if line.startswith(worker) and (found := _BACKEND.search(line))
        ]
        for part in (lines[:begins], lines[begins:])
    )
    # The CPU has one for attention without MLA and does not speak of it (platforms/cpu.py).
    named = target[-1] if target else "CPU_ATTN" if on_cpu else None
    return named, draft[-1] if draft else named
