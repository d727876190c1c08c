"""The shape of an engine's rules: what a table of its modules says, and what else is asked of one version of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

VOCABULARY_PADDING = 64
"""The engine rounds the rows of embedding and head up to it (``layers/vocab_parallel_embedding.py``)."""
LAYER_COUNT = "<N>"
"""Stands in a lookup for the target's number of layers, where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One matrix on disk that a linear module is made of.

    Attributes:
        name: of its module on disk, below the decoder layer or the model: ``self_attn.q_proj``.
        rows: name of the dimension that its output has (`quark_eagle.deploy.engine_config`).
    """

    name: str
    rows: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """One linear module as the engine builds it.

    Attributes:
        module: its name below the decoder layer or the model.
        lookup: the name, below the same, with which ``quantization_config`` is asked.
        parts: the matrices it is stacked of, in order of their rows; one if it is not fused.
        columns: name of the dimension of its input.
        bias: config flags any of which gives it a bias; none if it never has one.
        when: name of the fact that must hold for it to be built; always if empty.
        high_precision: why it may not be quantized; it may if empty.
        below: what stands before its name where it is no part of a decoder layer.
        cut: what tensor parallelism divides. The loader takes as much of it as it needs, also on one device: a matrix
            that is too long there is cut short without a word. None: the shape must be the very one.
    """

    module: str
    lookup: str
    parts: tuple[Part, ...]
    columns: str
    cut: Literal["rows", "columns"] | None
    bias: tuple[str, ...] = ()
    when: str = ""
    high_precision: str = ""
    below: str = "model."


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """One RMSNorm: a vector in the model's dtype that is all ones until it is loaded.

    Attributes:
        module: its name below the decoder layer or the model.
        size: name of its dimension.
        when: name of the fact that must hold for it to be built; always if empty.
        first_layer_only: later layers build it too, but never use it.
    """

    module: str
    size: str
    when: str = ""
    first_layer_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The module table of one model file.

    Attributes:
        source: the file of the engine that it was read from.
        layer_linears, layer_norms: of every decoder layer.
        linears, norms: of the model, beside the layers.
        stacked: where a name on disk is a part of a fused module (the file's ``orig_to_new_stacked``).
        aux_count: config keys that give the number of aux hidden states, first found wins; a list counts by its length.
        skipped: parts of names that are skipped without a word unless the fact they belong to holds.
        passes_config_to_head: whether the LM head gets ``quantization_config`` at all.
        drops_unknown: whether a tensor that no parameter takes is dropped without a word; otherwise loading stops.
        drops_unknown_bias: the same of a bias.
        knows_cache_scales: whether its loader knows scales of a KV cache by their names.
        unread: config flags that it does not know although the draft's result depends on them → what it does instead.
    """

    source: str
    layer_linears: tuple[Linear, ...]
    layer_norms: tuple[Norm, ...]
    linears: tuple[Linear, ...]
    norms: tuple[Norm, ...]
    stacked: Mapping[str, str]
    aux_count: tuple[str, ...]
    skipped: Mapping[str, str]
    passes_config_to_head: bool = True
    drops_unknown: bool = False
    drops_unknown_bias: bool = True
    knows_cache_scales: bool = True
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """An FP8 scheme that the engine can build.

    Attributes:
        name: Quark's name for it, or a description where it has none.
        weight: granularity of the weight's scale.
        input: granularity of the activation's scale.
        dynamic: whether that is computed while serving; a static one is a tensor, ``input_scale``.
        fails_on: kinds of devices on which it loads and cannot run, each with the reason.
        scale_axes: of a scale per channel on disk: [out] has one (Quark), [out, 1] two (compressed-tensors).
    """

    name: str
    weight: str
    input: str
    dynamic: bool
    fails_on: Mapping[str, str] = field(default_factory=dict)
    scale_axes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRules:
    """Everything that is asked of one version of an engine.

    Attributes:
        name: as the command line spells it.
        families: module tables by name.
        architectures: ``architectures[0]`` → family, after `eagle_prefix` was put before the plain ones.
        eagle_prefix: put before an architecture that neither begins nor ends with it.
        other_drafts: a ``model_type`` that makes the engine build another kind of draft → one to say instead.
        speculators_types: ``speculators_model_type`` of an Eagle3 draft.
        speculators_flags: what it takes from the top level of such a draft's config, beside what it always took.
        speculators_model_types: the nested ``model_type`` of such a draft → architecture.
        required_keys: keys of ``quantization_config``: the type that must be there, and what happens otherwise.
        schemes: what ``global_quant_config`` may ask for in FP8.
        takes_lists: whether the spec of a weight or an input may lie in a list of one.
        fp8_dtype: how the config must spell it.
        harmless: parts of names that are skipped without loss.
        kv_scales: endings of scales of the KV cache, which belong to no linear.
        left_alone: expressions for parameters that it builds, but never fills or never uses.
        needs_target: whether it stops on a module that no target of a compressed-tensors config means.
        asks_for_head: whether the LM head asks a compressed-tensors config for its scheme.
        takes_output_scales: whether the scales of a KV cache are taken by Quark's own names, ``k_proj.output_scale``.
        maps_every_vocabulary: whether it builds the map of the draft's vocabulary where that is the target's, too.
    """

    name: str
    families: Mapping[str, Family]
    architectures: Mapping[str, str]
    eagle_prefix: str
    other_drafts: Mapping[str, str]
    speculators_types: tuple[str, ...]
    speculators_flags: tuple[str, ...]
    speculators_model_types: Mapping[str, str]
    required_keys: Mapping[str, tuple[type, str]]
    schemes: tuple[Scheme, ...]
    fp8_dtype: str
    harmless: tuple[str, ...]
    kv_scales: tuple[str, ...]
    left_alone: tuple[str, ...]
    takes_lists: bool = True
    needs_target: bool = False
    asks_for_head: bool = True
    takes_output_scales: bool = False
    maps_every_vocabulary: bool = False
