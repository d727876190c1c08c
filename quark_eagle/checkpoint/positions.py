"""What config.json says of positions: the rotary embedding, and how far back a layer looks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from quark_eagle.checkpoint.config_keys import ConfigKeys
from quark_eagle.checkpoint.family import DraftFamily

# PreTrainedConfig.default_theta of transformers 5.16 (modeling_rope_utils.py).
_USUAL_ROPE_THETA = 10_000.0


def read_sliding_windows(keys: ConfigKeys, family: DraftFamily, num_layers: int) -> tuple[int | None, ...]:
    """A layer slides where `layer_types` says so (vLLM 0.32, llama.py and qwen3_eagle3.py), and never in MLA.

    Qwen3's class of transformers 5.16 forgets the window unless `use_sliding_window`, and fills in `layer_types`.
    """
    config, kinds = keys.config, keys.config.get("layer_types")
    if family is DraftFamily.QWEN3 and not config.get("use_sliding_window"):
        kinds = []
    elif family is DraftFamily.QWEN3 and kinds is None:
        first = int(config.get("max_window_layers", 28))
        kinds = ["full_attention" if layer < first else "sliding_attention" for layer in range(num_layers)]
    if family is DraftFamily.DEEPSEEK_MLA or not isinstance(kinds, list):
        kinds = []
    slides = [kind == "sliding_attention" for kind in (*kinds, *[None] * num_layers)][:num_layers]
    window = keys.size("sliding_window") if any(slides) else None
    return tuple(window if is_sliding else None for is_sliding in slides)


def read_rope(keys: ConfigKeys) -> Mapping[str, Any]:
    """Both spellings in one: `rope_parameters` (transformers 5), `rope_scaling` + `rope_theta` (before it)."""
    config = keys.config
    written = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(written, Mapping):
        keys.problems.append(f"rope_scaling is {written!r}, but a JSON object was needed.")
        written = {}
    rope = {key: value for key, value in written.items() if key != "type"}
    rope.setdefault("rope_type", written.get("type", "default"))
    rope.setdefault("rope_theta", config.get("rope_theta") or _USUAL_ROPE_THETA)
    if config.get("partial_rotary_factor") is not None:
        rope.setdefault("partial_rotary_factor", config["partial_rotary_factor"])
    return MappingProxyType(rope)
