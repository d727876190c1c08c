"""A server's settings as far as they can be asked over HTTP, for a server that was given by its address.

``/metrics`` tells of the cache and of k. ``/server_info`` tells everything, but exists in development mode only
(``VLLM_SERVER_DEV_MODE=1``; vLLM 0.32, `entrypoints/serve/dev/server_info/api_router.py`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from quark_eagle.errors import EngineError
from quark_eagle.serving.endpoint import ask, ask_json
from quark_eagle.serving.metrics import ACCEPTED_PER_POSITION, samples
from quark_eagle.serving.server_facts import ServerFacts

_CACHE = "vllm:cache_config_info"  # v1/metrics/loggers.py: a gauge whose labels are the cache's settings
_INFO_SECONDS = 120.0  # the first time it runs vLLM's collect_env
# config/compilation.py: the members of CUDAGraphMode by their values, as JSON has them.
_GRAPH_MODES = {
    "0": "NONE",
    "1": "PIECEWISE",
    "2": "FULL",
    "[2, 0]": "FULL_DECODE_ONLY",
    "[2, 1]": "FULL_AND_PIECEWISE",
}


def facts_over_http(url: str) -> ServerFacts:
    """What a server tells whoever asks.

    Raises:
        EngineError: it does not answer, or not as vLLM does.
    """
    told = replace(
        _from_metrics(url),
        vllm=_at(ask_json(url, "/version"), "version"),
        max_model_len=_at(ask_json(url, "/v1/models"), "data", 0, "max_model_len"),
    )
    try:
        info = ask_json(url, "/server_info?config_format=json", seconds=_INFO_SECONDS)
    except EngineError:  # 404: not in development mode
        return told
    return _with_info(told, _at(info, "vllm_config"))


def _at(said: Any, *keys: str | int) -> Any:
    """What JSON holds under these keys, one below the other; None where another version has no such place."""
    with suppress(IndexError, KeyError, TypeError):
        for key in keys:
            said = said[key]
        return said
    return None


def _from_metrics(url: str) -> ServerFacts:
    found = samples(ask(url, "/metrics").text, url)
    cache = next((sample.labels for sample in found if sample.name == _CACHE), {})
    positions = {sample.labels.get("position", "") for sample in found if sample.name == ACCEPTED_PER_POSITION}
    return ServerFacts(
        num_speculative_tokens=None if "" in positions else len(positions) or None,
        prefix_caching={"True": True, "False": False}.get(cache.get("enable_prefix_caching", "")),
        kv_cache_dtype=cache.get("cache_dtype"),
    )


def _with_info(told: ServerFacts, config: Any) -> ServerFacts:
    dtype, draft = _at(config, "model_config", "dtype"), _at(config, "speculative_config")
    known = {
        "draft": _at(draft, "model"),
        "num_speculative_tokens": _at(draft, "num_speculative_tokens"),
        "rejection_sample_method": _at(draft, "rejection_sample_method"),
        "draft_sample_method": _at(draft, "draft_sample_method"),
        "draft_attention_backend": _at(draft, "attention_backend"),
        "attention_backend": _at(config, "attention_config", "backend"),
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "enforce_eager": _at(config, "model_config", "enforce_eager"),
        "cudagraph_mode": _GRAPH_MODES.get(str(_at(config, "compilation_config", "cudagraph_mode"))),
        "tensor_parallel_size": _at(config, "parallel_config", "tensor_parallel_size"),
    }
    return replace(told, **{name: value for name, value in known.items() if value is not None})
