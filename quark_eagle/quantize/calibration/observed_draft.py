"""ObservedDraft: a draft as a torch module that Quark can put its observers into, and what it does with one prompt.

Its children are ``nn.Linear`` under the draft's canonical names, one for each linear to be quantized; where the draft's
forward pass looks for such a layer it finds the child. Quark exchanges each child for one with an observer at its
input. Nothing is quantized meanwhile, so every activation is the BF16 draft's own.

What a served draft computes falls into two parts, and a scale has to hold for both:

* step 1, at every row of the text, prompt and answer: the target's state and the embedding of the next token. An engine
  computes these rows when it reads the prompt and again whenever the target has verified some tokens;
* steps 2 … k, at every start of an answer: the draft's own output state and the token that it proposed itself, whose
  keys and values are seen by that start alone (`model.chain`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from quark_eagle.model.attention import chain_attention
from quark_eagle.model.chain import Chain, Past
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.model.layer import DecoderLayer
from quark_eagle.model.linear import Linear
from quark_eagle.quantize.calibration.magnitudes import Magnitudes, Place
from quark_eagle.quantize.calibration.observed_linear import ObservedLinear, add_under, torch_linear
from quark_eagle.trace.target_trace import TracedPrompt


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was run so far.

    Attributes:
        rows: [k], rows that went through each step.
        own: tokens fed to steps 2 … k that were the draft's own proposals.
        recorded: tokens of the recorded path in their place, because the trace lends no embedding of the proposal.
        ended: chains that ended early, as there was neither.
    """

    rows: list[int]
    own: int = 0
    recorded: int = 0
    ended: int = 0


class ObservedDraft(nn.Module):
    """A draft whose quantized linears are children that can be observed, and so are its keys and values.

    Attributes:
        draft: whose forward pass it is.
        linears: canonical names of the observed linears, which are the children's.
        caches: names of the children that keys and values pass on their way into the cache.
        magnitudes: of what enters each linear, and of keys and values, by name.
        tally: what was run so far.
    """

    def __init__(self, draft: Eagle3Draft, linears: Sequence[str], num_speculative_tokens: int) -> None:
        """Takes over a draft, whose linears are exchanged for children of this module.

        Args:
            draft: in BF16.
            linears: canonical names of the linears to observe, ``layers.0.self_attn.q_proj``.
            num_speculative_tokens: k.
        """
        super().__init__()
        self.draft, self.num_speculative_tokens = draft, num_speculative_tokens
        self.linears = tuple(linears)
        self.caches = tuple(
            f"layers.{layer.index}.self_attn.{kind}" for layer in draft.layers for kind in ("keys", "values")
        )
        for name in self.linears:
            layer = draft.linears[name]
            assert isinstance(layer, Linear)
            add_under(self, name, torch_linear(layer))
            draft.linears[name] = ObservedLinear(partial(self._linear, name), layer.out_features)
        for name in self.caches:
            add_under(self, name, nn.Identity())
            draft.caches[name] = partial(self._cache, name)
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.magnitudes = {name: Magnitudes() for name in (*self.linears, *self.caches)}
        self.tally = Tally(rows=[0] * self.num_speculative_tokens)
        self._place = Place(prompt="", step=1, positions=torch.zeros(0, dtype=torch.int64))

    @torch.no_grad()
    def forward(self, traced: TracedPrompt) -> None:
        """Run all steps of all starts of one prompt; what matters is what passes the observers."""
        draft = self.draft
        token_ids = traced.token_ids.to(draft.device)
        rows = torch.arange(len(token_ids) - 1, device=draft.device)
        self._at(traced, 1, rows)
        past, states, normed = self._whole_text(traced, token_ids, rows)
        # The starts of replay: answer tokens 0 … s are known, and there is a token after them to propose.
        starts = rows[traced.info.prompt_length - 1 : -1]
        states, normed = states[starts], normed[starts]
        chain = Chain(draft, [(past, starts)], num_steps=1)
        for step in range(1, self.num_speculative_tokens):
            next_ids, going = self._next_tokens(draft.propose(normed), token_ids, chain.rows + step + 1)
            if not going.any():
                break
            chain.keep(going)
            self._at(traced, step + 1, chain.rows + step)
            states, normed = chain.step(draft.embed(next_ids[going]), states[going])

    def _whole_text(self, traced: TracedPrompt, token_ids: Tensor, rows: Tensor) -> tuple[Past, Tensor, Tensor]:
        """Step 1 at every row: keys and values, states for the next step and those for the head [n - 1, hidden]."""
        draft = self.draft
        if traced.projected is not None:
            combined = traced.projected.to(draft.device, draft.dtype)
        else:
            assert traced.aux_hidden_states is not None
            combined = draft.combine(traced.aux_hidden_states)
        keys: list[Tensor] = []
        values: list[Tensor] = []

        def attend(layer: DecoderLayer, x: Tensor) -> Tensor:
            attention = layer.attention
            for kept, made in zip((keys, values), attention.keys_values(x, rows), strict=True):
                kept.append(made)
            visible = rows <= rows[:, None]
            if attention.window is not None:
                visible = visible & (rows > rows[:, None] - attention.window)
            return chain_attention(attention.queries(x, rows), keys[-1], values[-1], visible, scale=attention.scale)

        states, normed = draft.step(draft.embed(token_ids[1:]), combined, attend)
        return Past(keys=tuple(keys), values=tuple(values)), states, normed

    def _linear(self, name: str, x: Tensor) -> Tensor:
        """The output of a child for ``x`` [tokens, in_features], which is counted first."""
        self.magnitudes[name].see(name, x, self._place)
        child = self.get_submodule(name)
        assert isinstance(child, nn.Linear)  # and so is what Quark puts in its place
        y: Tensor = child(x.to(child.weight.dtype))
        return y.to(x.dtype)

    def _cache(self, name: str, x: Tensor) -> Tensor:
        """Keys, turned already, or values [tokens, kv_heads, head_dim], which are counted and left as they are."""
        self.magnitudes[name].see(name, x, self._place)
        y: Tensor = self.get_submodule(name)(x)
        return y

    def _next_tokens(self, proposed: Tensor, token_ids: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """What the chains are fed next: target-vocabulary ids [A], and which chains can go on [A] bool.

        An engine feeds a draft its own proposals, right or wrong. Where the trace lends no embedding of one, the token
        of the recorded path stands in, which is the same wherever the proposal was right.

        Args:
            proposed: [A], by the draft.
            token_ids: [n], of the recorded path.
            places: [A], where on the path a proposal stands.
        """
        weights = self.draft.weights
        is_lent = "embed_tokens.weight" not in weights
        known = torch.isin(proposed, weights["embed_ids"]) if is_lent else torch.ones_like(proposed, dtype=torch.bool)
        is_recorded = places < len(token_ids)
        going = known | is_recorded
        self.tally.own += int(known.sum())
        self.tally.recorded += int((going & ~known).sum())
        self.tally.ended += int((~going).sum())
        return torch.where(known, proposed, token_ids[places.clamp(max=len(token_ids) - 1)]), going

    def _at(self, traced: TracedPrompt, step: int, positions: Tensor) -> None:
        self._place = Place(prompt=traced.info.id, step=step, positions=positions)
        self.tally.rows[step - 1] += len(positions)
