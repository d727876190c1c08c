"""Eagle3Draft: the forward pass of a one-layer Llama-type Eagle3 draft, in plain torch.

To be read beside vLLM 0.32's ``model_executor/models/llama_eagle3.py``, whose order of operations it follows. Row t
of the target's aux hidden states is the state after the target consumed token t. The draft at row t sees that state,
combined by ``fc``, and the embedding of token t + 1, and proposes token t + 2. On the next step of the chain its own
output state takes the place of the target's. Activations have the draft's ``dtype``; sums, norms and softmax are
float32 inside.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quark_eagle.checkpoint.family import DraftFamily
from quark_eagle.checkpoint.layout import Eagle3Layout, Flags, Geometry
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import CheckpointError, MissingTensorError
from quark_eagle.fp8 import FP8_DTYPE
from quark_eagle.model.linear import Linear
from quark_eagle.model.rope import Rope

UNINITIALISED_SCALE = torch.finfo(torch.float32).min  # vLLM 0.32, create_fp8_scale_parameter: what no tensor overwrites


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInput:
    """What enters attention: ``x`` [..., 2 * hidden] and the ``residual`` [..., hidden] that is added afterwards."""

    x: Tensor
    residual: Tensor


class Eagle3Draft:
    """The draft as four functions: combine, enter (queries, keys, values), leave, propose."""

    def __init__(self, geometry: Geometry, flags: Flags, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        """``weights``: canonical name → tensor (``fc.weight``, ``layers.0.self_attn.q_proj.weight``, ``d2t``, …).

        FP8 weights come with ``….weight_scale`` [out] float32. The dictionary must hold ``embed_tokens.weight``
        [vocab, hidden] or ``embed_ids`` [U] with ``embed_rows`` [U, hidden].
        """
        self.geometry, self.flags, self.dtype, self.weights = geometry, flags, dtype, dict(weights)
        self.rope = Rope.of(geometry.rope, geometry.head_dim)
        linear = ("fc", "lm_head", *(f"layers.0.{name}" for name in LAYER_LINEARS))
        self.linears = {name: self._linear(name) for name in linear if f"{name}.weight" in self.weights}
        missing = [name for name in linear if name not in self.linears]
        if missing:
            raise MissingTensorError(
                f"the draft has no {', '.join(f'{name}.weight' for name in missing)}, and the trace brings none. "
                "It cannot be replayed. Record the trace with `quark-eagle trace --draft` for this draft."
            )

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        layout: Eagle3Layout,
        rows: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: str | torch.device = "cpu",
        like: Eagle3Draft | None = None,
        miscast: Collection[str] = (),
    ) -> Eagle3Draft:
        """The draft of a checkpoint, in BF16 or FP8 as its tensors are.

        Args:
            checkpoint: where the tensors are.
            layout: its layout.
            rows: what the target lends to a draft that lacks it: ``lm_head.weight``, ``embed_ids`` and ``embed_rows``.
            dtype: of activations: bfloat16 as engines compute, float32 to check the algorithm.
            device: where it runs.
            like: another draft; tensors equal to its own are shared instead of held twice.
            miscast: canonical modules whose BF16 weight the engine casts into an FP8 parameter without a scale
                (``deploy`` finds them): computed with that cast and the scale that vLLM leaves in place.

        Raises:
            CheckpointError: a family that replay does not cover.
        """
        _require_replayable(layout)
        weights: dict[str, Tensor] = {}
        for canonical, name in layout.by_canonical.items():
            tensor = checkpoint.tensor(name)
            twin = like.weights.get(canonical) if like is not None else None
            if twin is not None and twin.dtype == tensor.dtype and torch.equal(twin, tensor.to(twin.device)):
                weights[canonical] = twin
            else:
                weights[canonical] = tensor.to(device)
        for name, tensor in (rows or {}).items():
            if not (name == "lm_head.weight" and name in weights):
                shared = like.weights.get(name) if like is not None else None
                weights[name] = tensor.to(device) if shared is None else shared
        for module in miscast:
            wrong = weights[f"{module}.weight"]
            weights[f"{module}.weight"] = wrong.to(FP8_DTYPE)
            weights[f"{module}.weight_scale"] = torch.full((len(wrong),), UNINITIALISED_SCALE, device=wrong.device)
        draft = cls(layout.geometry, layout.flags, weights, dtype)
        if like is not None and like.dtype == dtype:
            draft._share_linears(like)
        return draft

    def _share_linears(self, like: Eagle3Draft) -> None:
        """Take over the other draft's layers whose tensors are the same, and with them their widened copies."""
        for name in self.linears.keys() & like.linears.keys():
            parts = [f"{name}.{part}" for part in ("weight", "weight_scale", "bias")]
            if all(self.weights.get(part) is like.weights.get(part) for part in parts):
                self.linears[name] = like.linears[name]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self.weights.values())).device

    def combine(self, aux_hidden_states: Tensor) -> Tensor:
        """The target's aux states [..., num_aux * target_hidden], wherever they are, as one state [..., hidden]."""
        x = aux_hidden_states.to(self.device, self.dtype)
        if self.flags.norm_before_fc:
            x = self._norm(x, "input_norm")
        if self.flags.fc_norm:
            parts = x.chunk(self.geometry.num_aux_hidden_states, dim=-1)
            x = torch.cat([self._norm(part, f"fc_norm.{i}") for i, part in enumerate(parts)], dim=-1)
        return self.linears["fc"](x)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Embeddings [..., hidden] of target-vocabulary ids: the draft's own, or the rows that the trace lends."""
        if "embed_tokens.weight" in self.weights:
            table, index = self.weights["embed_tokens.weight"], token_ids
        else:
            table, ids = self.weights["embed_rows"], self.weights["embed_ids"]
            index = torch.searchsorted(ids, token_ids).clamp(max=len(ids) - 1)
            if not torch.equal(ids[index], token_ids):
                raise MissingTensorError(
                    "the trace holds no embedding row for some of its own tokens. It was damaged, or written by "
                    "another version. Record it anew with `quark-eagle trace`."
                )
        return table[index].to(self.dtype)

    def enter(self, embeds: Tensor, hidden: Tensor) -> LayerInput:
        """Embedding and hidden state [..., hidden], each normed, side by side."""
        normed = self._norm(hidden, "layers.0.hidden_norm")
        x = torch.cat((self._norm(embeds, "layers.0.input_layernorm"), normed), dim=-1)
        return LayerInput(x=x, residual=normed if self.flags.norm_before_residual else hidden)

    def queries(self, x: Tensor, positions: Tensor) -> Tensor:
        """[..., heads, head_dim], turned to their positions."""
        return self.rope(self._heads("q_proj", x), positions)

    def keys_values(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, turned to their positions, and values: [..., kv_heads, head_dim] each."""
        return self.rope(self._heads("k_proj", x), positions), self._heads("v_proj", x)

    def leave(self, mixed: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """From attention's output [..., heads * head_dim]: the state for the next step and the one for the head."""
        residual = (self.linears["layers.0.self_attn.o_proj"](mixed).float() + residual.float()).to(self.dtype)
        x = self._norm(residual, "layers.0.post_attention_layernorm")
        gate, up = self.linears["layers.0.mlp.gate_proj"](x), self.linears["layers.0.mlp.up_proj"](x)
        activated = (torch.nn.functional.silu(gate.float()) * up.float()).to(self.dtype)
        down = self.linears["layers.0.mlp.down_proj"](activated)
        state = (down.float() + residual.float()).to(self.dtype)
        normed = self._norm(state, "norm")
        return (normed if self.flags.norm_output else state), normed

    def propose(self, normed: Tensor) -> Tensor:
        """Target-vocabulary ids [tokens] of the draft's argmax for head states [tokens, hidden]."""
        draft_ids = self.linears["lm_head"].argmax(normed)
        d2t = self.weights.get("d2t")
        return draft_ids if d2t is None else draft_ids + d2t[draft_ids]

    def _heads(self, projection: str, x: Tensor) -> Tensor:
        return self.linears[f"layers.0.self_attn.{projection}"](x).reshape(*x.shape[:-1], -1, self.geometry.head_dim)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.geometry.rms_norm_eps)
        return (wide * self.weights[f"{name}.weight"].float()).to(x.dtype)

    def _linear(self, module: str) -> Linear:
        weight = self.weights[f"{module}.weight"]
        if self.dtype == torch.float32 and weight.dtype == torch.bfloat16 and weight.numel() <= 1 << 26:
            weight = weight.float()
        return Linear(weight, self.weights.get(f"{module}.weight_scale"), self.weights.get(f"{module}.bias"))


LAYER_LINEARS = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def _require_replayable(layout: Eagle3Layout) -> None:
    """Replay covers one-layer drafts with Llama attention; the rest is quantized and verified, not replayed."""
    if layout.family is DraftFamily.LLAMA and layout.geometry.num_layers == 1:
        return
    found = f"a {layout.family.value} draft of {layout.geometry.num_layers} layer(s)"
    raise CheckpointError(
        f"{found}, but replay covers one-layer Llama-type drafts for now. `inspect`, `quantize` and `verify` work; its "
        "acceptance has to be measured by serving it."
    )
