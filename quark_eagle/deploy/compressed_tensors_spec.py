"""Spec: one ``weights``, ``input_activations`` or ``kv_cache_scheme`` of a compressed-tensors config, as it is checked.

vLLM leaves the check to the library (compressed-tensors 0.17, ``quantization/quant_args.py``, `QuantizationArgs`),
which knows each key, fills in what is missing and stops on what contradicts itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_KEYS = (
    *("num_bits", "type", "symmetric", "group_size", "strategy", "block_structure", "dynamic", "actorder"),
    *("scale_dtype", "zp_dtype", "observer", "observer_kwargs"),
)
_STRATEGIES = ("tensor", "channel", "group", "block", "token", "tensor_group", "attn_head")
_GROUPED = ("group", "tensor_group")
_DYNAMIC_STRATEGIES = ("token", "tensor", *_GROUPED)
_DEFAULTS = {"num_bits": 8, "symmetric": True, "group_size": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """How one kind of tensor is quantized.

    Attributes:
        is_fp8: whether it is 8-bit floating point, in a granularity that the rules here cover.
        words: what it is instead.
        problem: why the library stops on it; empty if it does not, and nothing else holds if it does.
    """

    is_fp8: bool = False
    strategy: str = ""
    dynamic: bool = False
    symmetric: bool = True
    words: str = ""
    problem: str = ""

    @classmethod
    def of(cls, raw: Any) -> Spec:
        """From config.json.

        >>> Spec.of({"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}).is_fp8
        True
        >>> print(Spec.of({"type": "float", "strategy": "token"}).problem)
        says strategy 'token' without dynamic: vLLM stops with ValidationError. Repair it.
        """
        if not isinstance(raw, Mapping):
            return cls(problem=_stops(f"is {raw!r}, but must be an object"))
        strategy = _strategy(raw)
        contradiction = _contradiction(raw, strategy)
        if contradiction:
            return cls(problem=_stops(contradiction))
        num_bits, kind, dynamic = raw.get("num_bits", 8), str(raw.get("type", "int")).lower(), raw.get("dynamic", False)
        return cls(
            is_fp8=(num_bits, kind) == (8, "float")
            and strategy in ("tensor", "channel", "token", "attn_head")
            and isinstance(dynamic, bool),
            strategy=strategy,
            dynamic=bool(dynamic),
            symmetric=raw.get("symmetric", True) is True,
            words=f"{num_bits}-bit {kind} per {strategy}",
        )


def _strategy(raw: Mapping[str, Any]) -> str:
    """As it is written, or as the group size implies."""
    written, size = raw.get("strategy"), raw.get("group_size")
    if written is not None:
        return str(written).lower()
    return "tensor" if size is None else "channel" if size == -1 else "group"


def _contradiction(raw: Mapping[str, Any], strategy: str) -> str:
    """What the library refuses; of several the first."""
    unknown = [key for key in raw if key not in _KEYS]
    if unknown:
        return f"has {unknown[0]!r}, which the library does not know"
    for key, allowed in (("num_bits", int), ("symmetric", bool), ("group_size", int | None)):
        if not isinstance(raw.get(key, _DEFAULTS[key]), allowed):
            return f"says {key} {raw[key]!r}"
    size, dynamic, blocks = raw.get("group_size"), raw.get("dynamic", False), raw.get("block_structure")
    if str(raw.get("type", "int")).lower() not in ("int", "float"):
        return f"says type {raw['type']!r}"
    if strategy not in _STRATEGIES:
        return f"says strategy {raw['strategy']!r}"
    if (size or 0) < -1 or ((size or 0) > 0) != (strategy in _GROUPED):
        return f"says strategy {strategy!r} with group_size {size!r}"
    if (blocks is not None) != (strategy == "block"):
        return f"says strategy {strategy!r} with block_structure {blocks!r}"
    if not isinstance(dynamic, bool) and (dynamic, strategy) != ("local", "tensor_group"):
        return f"says dynamic {dynamic!r}"
    if strategy == "token" and not dynamic:
        return "says strategy 'token' without dynamic"
    if dynamic and strategy not in _DYNAMIC_STRATEGIES:
        return f"is dynamic with strategy {strategy!r}"
    return ""


def _stops(found: str) -> str:
    return f"{found}: vLLM stops with ValidationError. Repair it."
