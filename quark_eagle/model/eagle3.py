"""Eagle3Draft: the forward pass of an Eagle3 draft, in plain torch.

To be read beside vLLM 0.32's ``model_executor/models/llama_eagle3.py``, whose order of operations it follows;
``qwen3_eagle3.py`` and ``deepseek_eagle3.py`` differ from it in their attention (`model.grouped_query`,
`model.latent`). Row t of the target's aux hidden states is the state after the target consumed token t. The draft at
row t sees that state, combined by ``fc``, and the embedding of token t + 1, and proposes token t + 2. On the next step
of the chain its own output state takes the place of the target's. Activations have the draft's ``dtype``; sums, norms
and softmax are float32 inside.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor

from quark_eagle.checkpoint.layout import Eagle3Layout, Flags, Geometry
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.checkpoint.support import require_replayable
from quark_eagle.errors import MissingTensorError
from quark_eagle.fp8 import FP8_DTYPE
from quark_eagle.model.layer import DecoderLayer
from quark_eagle.model.linear import Linear
from quark_eagle.model.parts import LinearLayer, Parts

UNINITIALISED_SCALE = torch.finfo(torch.float32).min  # vLLM 0.32, create_fp8_scale_parameter: what no tensor overwrites


class Eagle3Draft:
    """The draft as functions: combine and embed what it is given, step through its layers, propose.

    Attributes:
        geometry, flags: its sizes and switches.
        dtype: of activations.
        weights: canonical name → tensor.
        linears: canonical module → layer: the one place where the forward pass finds them.
        caches: what keys and values pass into the KV cache, see `model.parts.Parts`.
        layers: its decoder layers.
    """

    def __init__(self, geometry: Geometry, flags: Flags, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        """``weights``: canonical name → tensor (``fc.weight``, ``layers.0.self_attn.q_proj.weight``, ``d2t``, …).

        FP8 weights come with ``….weight_scale`` [out] or [] float32, and with ``….input_scale`` [] if it is static. The
        dictionary must hold ``embed_tokens.weight`` [vocab, hidden], or ``embed_ids`` [U] with ``embed_rows``.
        """
        self.geometry, self.flags, self.dtype, self.weights = geometry, flags, dtype, dict(weights)
        names = ("fc", "lm_head", *layer_linears(geometry))
        self.linears: dict[str, LinearLayer] = {
            name: self._linear(name) for name in names if f"{name}.weight" in self.weights
        }
        missing = [name for name in names if name not in self.linears]
        if missing:
            raise MissingTensorError(
                f"the draft has no {', '.join(f'{name}.weight' for name in missing)}, and the trace brings none. "
                "It cannot be replayed. Record the trace with `quark-eagle trace --draft` for this draft."
            )
        self.caches: dict[str, Callable[[Tensor], Tensor]] = {}
        self._parts = Parts(
            geometry=geometry, flags=flags, weights=self.weights, linears=self.linears, caches=self.caches
        )
        self.layers = tuple(DecoderLayer(self._parts, index, dtype) for index in range(geometry.num_layers))

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
        window: int | None = None,
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
            window: tokens that a layer looks back which slides nowhere by itself: what the engine lends it from the
                target (``TargetId.sliding_window``); None is all of them.

        Raises:
            CheckpointError: an engine would compute something else with this draft than replay does.
        """
        require_replayable(checkpoint, layout)
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
        if any(name.endswith(".input_scale") for name in weights):
            # A static scheme: vLLM begins with this scale as well, and a module without one of its own keeps it.
            never = torch.full((), UNINITIALISED_SCALE, device=next(iter(weights.values())).device)
            for name in [name for name in weights if name.endswith(".weight_scale")]:
                weights.setdefault(name.replace(".weight_scale", ".input_scale"), never)
        draft = cls(layout.geometry.within(window), layout.flags, weights, dtype)
        if like is not None and like.dtype == dtype:
            draft._share_linears(like)
        return draft

    def _share_linears(self, like: Eagle3Draft) -> None:
        """Take over the other draft's layers whose tensors are the same, and with them their widened copies."""
        for name in self.linears.keys() & like.linears.keys():
            parts = [f"{name}.{part}" for part in ("weight", "weight_scale", "bias", "input_scale")]
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
            x = self._parts.norm("input_norm", x)
        if self.flags.fc_norm:
            parts = x.chunk(self.geometry.num_aux_hidden_states, dim=-1)
            x = torch.cat([self._parts.norm(f"fc_norm.{i}", part) for i, part in enumerate(parts)], dim=-1)
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

    def step(
        self, embeds: Tensor, hidden: Tensor, attend: Callable[[DecoderLayer, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """One draft step at some places.

        Args:
            embeds: [..., hidden], of the token that follows each place.
            hidden: [..., hidden]: the combined states of the target, later the draft's own of the step before.
            attend: what attention mixes in a layer, [..., heads * value_dim], of the layer and the input ``x`` of its
                projections. It decides which keys there are, and where places lie (`model.chain`).

        Returns:
            The state for the next step and the one for the head, [..., hidden] each.
        """
        state = hidden
        for layer in self.layers:
            entered = layer.enter(embeds, state)
            state = layer.leave(attend(layer, entered.x), entered.residual)
        normed = self._parts.norm("norm", state)
        return (normed if self.flags.norm_output else state), normed

    def propose(self, normed: Tensor) -> Tensor:
        """Target-vocabulary ids [tokens] of the draft's argmax for head states [tokens, hidden]."""
        draft_ids = self.linears["lm_head"].argmax(normed)
        d2t = self.weights.get("d2t")
        return draft_ids if d2t is None else draft_ids + d2t[draft_ids]

    def _linear(self, module: str) -> Linear:
        weight = self.weights[f"{module}.weight"]
        if self.dtype == torch.float32 and weight.dtype == torch.bfloat16 and weight.numel() <= 1 << 26:
            weight = weight.float()
        scale, bias, input_scale = (
            self.weights.get(f"{module}.{part}") for part in ("weight_scale", "bias", "input_scale")
        )
        return Linear(weight, scale, bias, input_scale)


def layer_linears(geometry: Geometry) -> Iterator[str]:
    """Canonical names of the linear modules of all layers; ``kv_b_proj`` is taken apart (`model.latent`)."""
    mla = geometry.mla
    attention: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    if mla is not None:
        queries = ("q_proj",) if mla.q_lora_rank is None else ("q_a_proj", "q_b_proj")
        attention = (*queries, "kv_a_proj_with_mqa", "o_proj")
    for layer in range(geometry.num_layers):
        yield from (f"layers.{layer}.self_attn.{name}" for name in attention)
        yield from (f"layers.{layer}.mlp.{name}_proj" for name in ("gate", "up", "down"))
