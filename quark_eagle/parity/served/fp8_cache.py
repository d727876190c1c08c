"""An FP8 KV cache for the candidate's draft alone, as replay judges a draft that was given scales for one.

vLLM keeps a draft's cache in the target's dtype (``--kv-cache-dtype``) unless it is told otherwise: since 0.26 the
speculative config takes a ``kv_cache_dtype`` of the draft's own (``config/speculative.py``), which leaves target and
baseline as they are. On a CPU an FP8 cache needs AVX-512 (``v1/attention/backends/cpu_attn.py``, `_get_attn_isa`).
"""

from __future__ import annotations

from collections.abc import Mapping

from quark_eagle.errors import UsageError
from quark_eagle.serving.command import ServeCommand
from quark_eagle.serving.engine import EngineVersion
from quark_eagle.serving.flags import major_minor

FIRST_WITH_ITS_OWN = (0, 26)
_FLAG = "--kv-cache-dtype"


def fp8_cache(base: ServeCommand, version: EngineVersion) -> Mapping[str, str]:
    """What the candidate's speculative config says besides, so that its KV cache is in FP8.

    Args:
        base: what every arm is served with. With an FP8 cache for the target already, drafts inherit it.
        version: of the engine.

    Raises:
        UsageError: this engine cannot keep such a cache, or only together with the target's.
    """
    if version.platform == "cpu" and "AVX512" not in version.arch:
        raise _refusal(f"on a CPU vLLM {version.vllm} needs AVX-512 for one, and this one has {version.arch}")
    if str(base.options.get(_FLAG, "auto")).startswith("fp8"):
        return {}
    if major_minor(version.vllm) < FIRST_WITH_ITS_OWN:
        raise _refusal(
            f"vLLM {version.vllm} has one dtype for the caches of target and draft (0.26 and later take one for the "
            f"draft). --vllm-option={_FLAG}=fp8 serves every arm with FP8 caches, the target's too"
        )
    return {"kv_cache_dtype": "fp8"}


def _refusal(why: str) -> UsageError:
    return UsageError(
        f"--kv-cache-scales, --engine vllm: a draft with such scales is judged with an FP8 KV cache, but {why}. In "
        "another dtype the server would not judge what replay judges. Leave one of the options out, or serve elsewhere."
    )
