"""Silent faults of a draft with static scales: of its activations, and of its KV cache.

Each loads without a complaint. A scale that is too small cuts activations off, which acceptance shows. One that is too
large, or another module's, costs FP8 little: it is found by the record of what was calibrated, or by nobody.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.draft_mutations import ATTENTION, MLP, Draft, Mutation

INPUTS, CACHE = (".input_scale",), (".self_attn.k_scale", ".self_attn.v_scale")


def rescaled(ends: tuple[str, ...], factor: float, *modules: str) -> Callable[[Draft], None]:
    """The scales of these names of some modules, or of all, multiplied."""

    def fault(draft: Draft) -> None:
        for name in _names(draft, ends, modules):
            draft.tensors[name] = draft.tensors[name] * factor

    return fault


def exchanged(first: str, second: str) -> Callable[[Draft], None]:
    """The input scales of two modules under each other's name."""

    def fault(draft: Draft) -> None:
        a, b = f"{first}{INPUTS[0]}", f"{second}{INPUTS[0]}"
        draft.tensors[a], draft.tensors[b] = draft.tensors[b], draft.tensors[a]

    return fault


def between_layers(draft: Draft) -> None:
    """Every layer has the input scales of the next, and the last those of the first."""
    layers = draft.layout.geometry.num_layers
    scales = {name: draft.tensors[name] for name in _names(draft, INPUTS, ())}
    for name in scales:
        layer, rest = name.removeprefix("layers.").split(".", 1)
        draft.tensors[name] = scales[f"layers.{(int(layer) + 1) % layers}.{rest}"]


def removed(ends: tuple[str, ...], *modules: str) -> Callable[[Draft], None]:
    """The scales of these names of some modules, or of all, left behind."""

    def fault(draft: Draft) -> None:
        for name in _names(draft, ends, modules):
            del draft.tensors[name]

    return fault


def undeclared_cache(draft: Draft) -> None:
    """The scales of the KV cache left behind, and the config says nothing of them either."""
    removed(CACHE)(draft)
    quantization = draft.config["quantization_config"]
    quantization["export"]["kv_cache_group"] = []
    quantization["layer_quant_config"] = quantization["kv_cache_quant_config"] = {}


def as_an_engine_begins(draft: Draft) -> None:
    """One input scale as vLLM makes it before anything is loaded."""
    draft.tensors[f"{MLP}down_proj{INPUTS[0]}"].fill_(torch.finfo(torch.float32).min)


def _names(draft: Draft, ends: tuple[str, ...], modules: tuple[str, ...]) -> list[str]:
    given = [f"{module}{end}" for module in modules for end in ends]
    return given or [name for name in draft.tensors if name.endswith(ends)]


STATIC_MUTATIONS = (
    Mutation("activation scales 10 × too small", rescaled(INPUTS, 0.1)),
    Mutation("activation scales 10 × too large", rescaled(INPUTS, 10.0)),
    Mutation("down_proj's activation scale 10 × too small", rescaled(INPUTS, 0.1, f"{MLP}down_proj")),
    Mutation("down_proj's activation scale 100 × too large", rescaled(INPUTS, 100.0, f"{MLP}down_proj")),
    Mutation(
        "o_proj and down_proj have each other's activation scale", exchanged(f"{ATTENTION}o_proj", f"{MLP}down_proj")
    ),
    Mutation(
        "q_proj and o_proj have each other's activation scale", exchanged(f"{ATTENTION}q_proj", f"{ATTENTION}o_proj")
    ),
    Mutation("an activation scale left behind", removed(INPUTS, f"{ATTENTION}o_proj")),
    Mutation("an activation scale as an engine begins", as_an_engine_begins),
)
"""Of every draft with static scales."""

LAYER_MUTATIONS = (Mutation("activation scales of the next layer", between_layers),)
"""Of a draft with several layers."""

CACHE_MUTATIONS = (
    Mutation("no scales for the FP8 KV cache", removed(CACHE)),
    Mutation("no scales for the FP8 KV cache, and none declared", undeclared_cache),
    Mutation("scales of the FP8 KV cache 10 × too small", rescaled(CACHE, 0.1)),
)
"""Of a draft that is served with an FP8 KV cache."""
