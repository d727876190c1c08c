"""The sliding window that an engine lends from the target to a draft whose own layers slide nowhere.

vLLM 0.19 to 0.32 builds every draft with the target's ``CacheConfig`` (``v1/spec_decode``), and an attention that is
given no window of its own takes the one that lies there (``layers/attention/attention.py``, `Attention.__init__`). It
lies there where the target has one and all its layers slide (``engine/arg_utils.py``, `create_engine_config`): Mistral
of the first version, or Ministral with one kind of layers; not gpt-oss or Gemma, whose layers alternate. So a draft for
such a target looks back 4096 tokens, whatever it was trained with. Latent attention asks for no window.

Up to 0.26 the target's layers only had to be all of one kind: one that names a window and slides nowhere lent it too.
"""

from __future__ import annotations

from typing import Any


def lent_window(config: Any) -> int | None:
    """How many tokens back a draft's query sees, itself included, by its target; None if all.

    Args:
        config: of the target's text model as transformers reads it, which knows what config.json leaves out.

    >>> from types import SimpleNamespace
    >>> lent_window(SimpleNamespace(sliding_window=4096))
    4096
    >>> lent_window(SimpleNamespace(sliding_window=128, layer_types=["sliding_attention", "full_attention"]))
    """
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and any(kind != "sliding_attention" for kind in kinds):
        return None
    return getattr(config, "sliding_window", None) or None  # 0 says that there is none
