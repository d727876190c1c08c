"""Ports: what goes into the graphs and what comes out, by name, dtype and shape.

Two graphs, as vLLM 0.32 has two functions (``models/llama_eagle3.py``, `combine_hidden_states` and `forward`) and
llama.cpp an encoder and a decoder (``src/models/eagle3.cpp``): `combine` runs once for every token that the target
verified, `step` for every proposal. In one graph the wide ``fc`` would run in every step or hide behind an ``If``,
which compilers for fixed shapes do not take.

Names are those of optimum's decoders (``past_key_values.0.key``, ``present.0.key``, ``attention_mask``,
``position_ids``) and of transformers (``inputs_embeds``, ``logits_to_keep``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quark_eagle.checkpoint.layout import Geometry

COMBINE, STEP = "combine", "step"
"""The graphs; each lies in ``<name>.onnx``, and its weights in ``<name>.onnx.data``."""

BATCH, ROWS, PAST, TOTAL, KEPT = "batch_size", "sequence_length", "past_length", "total_length", "num_kept"

Dim = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One input or output of a graph; a dimension with a name may differ from run to run."""

    name: str
    dtype: Literal["float32", "int64"]
    dims: tuple[Dim, ...]
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """All of a graph, in its order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def combine_ports(g: Geometry) -> Ports:
    """Of the graph that makes one state of the target's."""
    width = g.num_aux_hidden_states * g.target_hidden_size
    aux = "aux hidden states of the target, its layers in ascending order, side by side"
    made = "what `step` reads"
    return Ports(
        inputs=(Port(name="aux_hidden_states", dtype="float32", dims=(BATCH, ROWS, width), meaning=aux),),
        outputs=(Port(name="hidden_states", dtype="float32", dims=(BATCH, ROWS, g.hidden_size), meaning=made),),
    )


def step_ports(g: Geometry, *, takes_embeds: bool, has_head: bool) -> Ports:
    """Of the graph that makes one proposal.

    Args:
        g: the draft's sizes.
        takes_embeds: the caller looks the embeddings up; otherwise they are in the graph.
        has_head: the logits are in the graph; otherwise it ends before them.
    """
    hidden = g.hidden_size
    token = "the token after the row's"
    first = (
        Port(name="inputs_embeds", dtype="float32", dims=(BATCH, ROWS, hidden), meaning=f"embedding of {token}")
        if takes_embeds
        else Port(name="input_ids", dtype="int64", dims=(BATCH, ROWS), meaning=f"{token}, in the target's vocabulary")
    )
    state = "step 1: from `combine`; later: the draft's own `next_hidden_states`"
    seen = "1 where a row of past and present may be seen, 0 for padding; causality is added to it"
    inputs = (
        first,
        Port(name="hidden_states", dtype="float32", dims=(BATCH, ROWS, hidden), meaning=state),
        Port(name="attention_mask", dtype="int64", dims=(BATCH, TOTAL), meaning=seen),
        Port(name="position_ids", dtype="int64", dims=(BATCH, ROWS), meaning="of the rows, from 0"),
        Port(name="logits_to_keep", dtype="int64", dims=(), meaning="how many last rows are put out; 0: all of them"),
        *_cache(g, "past_key_values", PAST, "before this step; length 0 at first"),
    )
    head = (
        (
            Port(name="logits", dtype="float32", dims=(BATCH, KEPT, g.draft_vocab_size), meaning="over draft tokens"),
            Port(
                name="token_ids",
                dtype="int64",
                dims=(BATCH, KEPT),
                meaning="the argmax, in the target's vocabulary (`d2t` applied)",
            ),
        )
        if has_head
        else (
            Port(
                name="last_hidden_state",
                dtype="float32",
                dims=(BATCH, KEPT, hidden),
                meaning="what the target's head reads, which this draft borrows",
            ),
        )
    )
    own = Port(
        name="next_hidden_states",
        dtype="float32",
        dims=(BATCH, KEPT, hidden),
        meaning="`hidden_states` of the next step",
    )
    return Ports(inputs=inputs, outputs=(*head, own, *_cache(g, "present", TOTAL, "with this step")))


def _cache(g: Geometry, prefix: str, length: Dim, when: str) -> tuple[Port, ...]:
    """Keys and values of every layer; latent attention keeps one vector for both, under the name of the keys."""
    if g.mla is None:
        sizes, what = (g.num_key_value_heads, length, g.head_dim), {"key": "keys", "value": "values"}
    else:
        width = g.mla.kv_lora_rank + g.mla.qk_rope_head_dim
        sizes, what = (1, length, width), {"key": "latents, and the keys that hold the position,"}
    return tuple(
        Port(name=f"{prefix}.{layer}.{part}", dtype="float32", dims=(BATCH, *sizes), meaning=f"{words} {when}")
        for layer in range(g.num_layers)
        for part, words in what.items()
    )
