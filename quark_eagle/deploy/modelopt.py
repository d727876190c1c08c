"""What NVIDIA's ModelOpt writes into ``eagle_config`` and vLLM does not read: it always builds what stands here.

Sources: ModelOpt, ``torch/export/plugins/hf_spec_configs.py`` and ``torch/speculative/eagle/default_config.py``; vLLM
0.32, ``models/llama_eagle3.py``, which reads ``use_aux_hidden_state``, ``norm_before_fc`` and the aux layer ids there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from quark_eagle.deploy.findings import Problem

BUILT: Mapping[str, tuple[object, str]] = MappingProxyType(
    {
        "use_input_layernorm_in_first_layer": (True, "norms the embedding by the first layer's input_layernorm"),
        "use_last_layernorm": (True, "norms the last layer's output by norm"),
        "use_mtp_layernorm": (False, "knows no enorm and hnorm"),
        "next_layer_regular": (True, "feeds later layers the state alone"),
        "parallel_draft_step": (1, "drafts one token in a step, and knows no parallel heads"),
    }
)
"""Setting → what vLLM builds whatever it says, and what that means."""


def built_otherwise(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Settings of a flat config that the draft was trained with and that vLLM does not build.

    >>> [problem.message[:47] for problem in built_otherwise({"eagle_config": {"use_mtp_layernorm": True}})]
    ['config.json says eagle_config.use_mtp_layernorm']
    """
    eagle = config.get("eagle_config")
    for key, (value, means) in BUILT.items():
        found = eagle.get(key) if isinstance(eagle, Mapping) else None
        if found is not None and found != value:
            yield Problem(
                message=f"config.json says eagle_config.{key} {found!r}, which vLLM does not read: it {means}. "
                "The draft would run otherwise than it was trained. No vLLM serves it."
            )
