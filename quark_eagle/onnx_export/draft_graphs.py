"""The two graphs of a draft: `combine`, the target's aux states as one state, and `step`, one proposal.

To be read beside `quark_eagle.model.eagle3`; canonical names of modules are the names of the nodes' scopes.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from quark_eagle.onnx_export.attention import attention
from quark_eagle.onnx_export.graph import GraphBuilder
from quark_eagle.onnx_export.operators import linear, rms_norm
from quark_eagle.onnx_export.ports import COMBINE, STEP
from quark_eagle.onnx_export.tensors import DraftTensors

_TO_THE_END = np.iinfo(np.int64).max


def combine_graph(tensors: DraftTensors) -> GraphBuilder:
    """``aux_hidden_states`` → ``hidden_states``, for each row by itself."""
    g = GraphBuilder(COMBINE, tensors)
    geometry, flags = tensors.layout.geometry, tensors.layout.flags
    x = "aux_hidden_states"
    if flags.norm_before_fc:
        x = rms_norm(g, "input_norm", x, geometry.rms_norm_eps)
    if flags.fc_norm:
        parts = g.split(x, [geometry.target_hidden_size] * geometry.num_aux_hidden_states, axis=-1)
        normed = [rms_norm(g, f"fc_norm.{i}", part, geometry.rms_norm_eps) for i, part in enumerate(parts)]
        x = g("Concat", *normed, axis=-1)
    g("Identity", linear(g, "fc", x), output="hidden_states")
    return g


def step_graph(tensors: DraftTensors, *, takes_embeds: bool) -> GraphBuilder:
    """Embeddings, states and cache → logits, the next state, and the cache with this step's rows."""
    g = GraphBuilder(STEP, tensors)
    geometry, flags = tensors.layout.geometry, tensors.layout.flags
    embeds = "inputs_embeds" if takes_embeds else _looked_up(g)
    state = "hidden_states"
    for layer in range(geometry.num_layers):
        state = _layer(g, layer, embeds, state)
    kept = _last_rows(g, state)
    normed = rms_norm(g, "norm", kept, geometry.rms_norm_eps)
    g("Identity", normed if flags.norm_output else kept, output="next_hidden_states")
    if not tensors.has("lm_head.weight"):
        g("Identity", normed, output="last_hidden_state")
        return g
    logits = g("Identity", linear(g, "lm_head", normed), output="logits")
    with g.scope("token_ids"):
        ids = g("ArgMax", logits, axis=-1, keepdims=0)  # the first among equals, as `Linear.argmax`
        if tensors.has("d2t"):
            offsets = g("Gather", g.cast(g.weight("d2t"), TensorProto.INT64), ids)
            ids = g("Add", ids, offsets)
    g("Identity", ids, output="token_ids")
    return g


def _looked_up(g: GraphBuilder) -> str:
    """Rows of the embedding, widened afterwards: the table stays as it is stored."""
    return g.cast(g("Gather", g.weight("embed_tokens.weight"), "input_ids"), TensorProto.FLOAT)


def _layer(g: GraphBuilder, index: int, embeds: str, state: str) -> str:
    """The residual stream after one layer; `quark_eagle.model.layer`."""
    geometry, flags = g.tensors.layout.geometry, g.tensors.layout.flags
    name, eps = f"layers.{index}", geometry.rms_norm_eps
    residual = state
    if index == 0:
        normed = rms_norm(g, f"{name}.hidden_norm", state, eps)
        x = g("Concat", rms_norm(g, f"{name}.input_layernorm", embeds, eps), normed, axis=-1)
        residual = normed if flags.norm_before_residual else state
    else:
        x = rms_norm(g, f"{name}.input_layernorm", state, eps)
    residual = g("Add", attention(g, index)(x), residual)
    x = rms_norm(g, f"{name}.post_attention_layernorm", residual, eps)
    gate, up = (linear(g, f"{name}.mlp.{part}_proj", x) for part in ("gate", "up"))
    with g.scope(f"{name}.mlp"):
        activated = g("Mul", g("Mul", gate, g("Sigmoid", gate)), up)
    down = linear(g, f"{name}.mlp.down_proj", activated)
    return g("Add", down, residual)


def _last_rows(g: GraphBuilder, state: str) -> str:
    """The last ``logits_to_keep`` rows; 0, which negated is 0 too, means all, as in transformers."""
    with g.scope("kept"):
        start = g("Unsqueeze", g("Neg", "logits_to_keep"), g.constant([0], np.int64))
        return g("Slice", state, start, g.constant([_TO_THE_END], np.int64), g.constant([1], np.int64))
