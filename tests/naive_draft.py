"""An Eagle3 round written the slow way: one start, one row, one head at a time. The second road to `parity.replay`.

Every family, from the papers and vLLM's modules, sharing no code with `quark_eagle.model`: latent attention makes keys
and values of every head from the latent instead of absorbing ``kv_b_proj``, and positions turn complex numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Cache = list[list[tuple[Tensor, Tensor]]]
"""Keys and values [heads, width] of each row, for each layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A row that was read from the target's state: what it was made of, and what it gave."""

    token: int
    aux: Tensor
    state: Tensor
    normed: Tensor


class NaiveDraft:
    """A draft in float64, with a growing list of keys and values in each layer, as a server has it."""

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any], embed: Tensor) -> None:
        """``weights`` by canonical name; ``config`` as config.json; ``embed`` [vocabulary, hidden]."""
        self.weights = {
            name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in weights.items()
        }
        self.config: dict[str, Any] = dict(config.get("transformer_layer_config", {})) | dict(config)
        self.embed = embed.double()
        self.num_layers = int(self.config["num_hidden_layers"])
        self._read: list[_Row] = []
        self._cache: Cache = [[] for _ in range(self.num_layers)]

    def accepted(self, token_ids: list[int], aux: Tensor, row: int, k: int) -> tuple[int, list[int]]:
        """(leading proposals that equal the recorded tokens, all k proposals) of the round that starts at ``row``.

        As a server does it: the cache holds the rows up to ``row`` from the target's states, each proposal is fed back,
        right or wrong, and verification compares afterwards.
        """
        state, normed, cache = self.read(token_ids, aux, row)
        proposals = [self._token(normed)]
        for step in range(1, k):
            state, normed = self.row(state, proposals[-1], row + step, cache)
            proposals.append(self._token(normed))
        matched = 0
        for proposal, recorded in zip(proposals, token_ids[row + 2 :], strict=False):
            if proposal != recorded:
                break
            matched += 1
        return matched, proposals

    def read(self, token_ids: Sequence[int], aux: Tensor, row: int) -> tuple[Tensor, Tensor, Cache]:
        """(state, head state, keys and values of every layer) after rows 0 … ``row``, made from the target's states.

        Rows that were read before, with the same token and state, are not read again.
        """
        for t in range(row + 1):
            known = t < len(self._read) and self._read[t].token == token_ids[t + 1]
            if not (known and torch.equal(self._read[t].aux, aux[t])):
                del self._read[t:]
                cache = [entries[:t] for entries in self._cache]
                state, normed = self.row(self._combined(aux[t].double()), token_ids[t + 1], t, cache)
                self._cache = cache
                self._read.append(_Row(token=token_ids[t + 1], aux=aux[t], state=state, normed=normed))
        return self._read[row].state, self._read[row].normed, [entries[: row + 1] for entries in self._cache]

    def _combined(self, aux: Tensor) -> Tensor:
        if "input_norm.weight" in self.weights:
            aux = self._norm("input_norm", aux)
        width = int(self.config.get("target_hidden_size", self.config["hidden_size"]))
        parts = list(aux.split(width))
        if "fc_norm.0.weight" in self.weights:
            parts = [self._norm(f"fc_norm.{i}", part) for i, part in enumerate(parts)]
        return self._linear("fc", torch.cat(parts))

    def row(self, hidden: Tensor, token: int, position: int, cache: Cache) -> tuple[Tensor, Tensor]:
        """(state for the next step, head state) of one row, whose keys and values are added to the cache."""
        state = hidden
        for index in range(self.num_layers):
            layer = f"layers.{index}."
            if index == 0:
                normed_hidden = self._norm(layer + "hidden_norm", state)
                residual = normed_hidden if self.config.get("norm_before_residual") else state
                x = torch.cat((self._norm(layer + "input_layernorm", self.embed[token]), normed_hidden))
            else:
                residual, x = state, self._norm(layer + "input_layernorm", state)
            latent = "kv_lora_rank" in self.config
            attend = self._latent_attention if latent else self._attention
            residual = residual + self._linear(layer + "self_attn.o_proj", attend(index, x, position, cache[index]))
            x = self._norm(layer + "post_attention_layernorm", residual)
            gate, up = self._linear(layer + "mlp.gate_proj", x), self._linear(layer + "mlp.up_proj", x)
            state = residual + self._linear(layer + "mlp.down_proj", gate * torch.sigmoid(gate) * up)
        normed = self._norm("norm", state)
        return (normed if self.config.get("norm_output") else state), normed

    def _attention(self, index: int, x: Tensor, position: int, cache: list[tuple[Tensor, Tensor]]) -> Tensor:
        at, heads = f"layers.{index}.self_attn.", int(self.config["num_attention_heads"])
        kv_heads = int(self.config["num_key_value_heads"])
        width = int(self.config.get("head_dim") or self.config["hidden_size"] // heads)
        query, key = self._linear(at + "q_proj", x).view(heads, width), self._linear(at + "k_proj", x).view(-1, width)
        if at + "q_norm.weight" in self.weights:
            query, key = self._norm(at + "q_norm", query), self._norm(at + "k_norm", key)
        cache.append((self._halves(key, position), self._linear(at + "v_proj", x).view(kv_heads, width)))
        query = self._halves(query, position)
        kinds = self.config.get("layer_types") or []
        slides = index < len(kinds) and kinds[index] == "sliding_attention"
        seen = cache[-int(self.config["sliding_window"]) :] if slides else cache
        group = heads // kv_heads
        return torch.cat(
            [
                self._mix(query[head], [(keys[head // group], values[head // group]) for keys, values in seen])
                for head in range(heads)
            ]
        )

    def _latent_attention(self, index: int, x: Tensor, position: int, cache: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Keys and values of every head made anew from what the latent holds: no absorption."""
        at, heads = f"layers.{index}.self_attn.", int(self.config["num_attention_heads"])
        rank, nope = int(self.config["kv_lora_rank"]), int(self.config["qk_nope_head_dim"])
        if self.config.get("q_lora_rank") is None:
            query = self._linear(at + "q_proj", x)
        else:
            query = self._linear(at + "q_b_proj", self._norm(at + "q_a_layernorm", self._linear(at + "q_a_proj", x)))
        query = query.view(heads, -1)
        query = torch.cat((query[:, :nope], self._pairs(query[:, nope:], position)), dim=1)
        down = self._linear(at + "kv_a_proj_with_mqa", x)
        up = self._linear(at + "kv_b_proj", self._norm(at + "kv_a_layernorm", down[:rank])).view(heads, -1)
        place = self._pairs(down[None, rank:], position).expand(heads, -1)
        cache.append((torch.cat((up[:, :nope], place), dim=1), up[:, nope:]))
        rope = self._rope()
        grown = 0.1 * float(rope.get("mscale_all_dim") or 0) * math.log(float(rope.get("factor", 1))) + 1
        return torch.cat(
            [
                self._mix(query[head] * grown**2, [(keys[head], values[head]) for keys, values in cache])
                for head in range(heads)
            ]
        )

    @staticmethod
    def _mix(query: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        scores = torch.stack([query @ key for key, _ in seen]) / len(query) ** 0.5
        return torch.stack([weight * value for weight, (_, value) in zip(scores.softmax(0), seen, strict=True)]).sum(0)

    def _token(self, normed: Tensor) -> int:
        best = int(self.logits(normed).argmax())
        return best + int(self.weights["d2t"][best]) if "d2t" in self.weights else best

    def logits(self, normed: Tensor) -> Tensor:
        """[draft vocabulary] of a head state."""
        return self._linear("lm_head", normed)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        y = self.weights[name + ".weight"] @ x
        return y + self.weights[name + ".bias"] if name + ".bias" in self.weights else y

    def _norm(self, name: str, x: Tensor) -> Tensor:
        mean = x.square().mean(-1, keepdim=True)
        return x / (mean + float(self.config["rms_norm_eps"])).sqrt() * self.weights[name + ".weight"]

    def _halves(self, x: Tensor, position: int) -> Tensor:
        """Llama's: dimension i is turned with dimension i + width / 2; those past the turned part stay."""
        turned = int(x.shape[-1] * float(self.config.get("partial_rotary_factor", 1)))
        half = turned // 2
        complex_ = torch.complex(x[:, :half], x[:, half:turned]) * self._turn(turned, position, latent=False)
        return torch.cat((complex_.real, complex_.imag, x[:, turned:]), dim=1)

    def _pairs(self, x: Tensor, position: int) -> Tensor:
        """DeepSeek's: dimension 2 i is turned with dimension 2 i + 1."""
        turned = torch.view_as_complex(x.reshape(len(x), -1, 2).contiguous())
        return torch.view_as_real(turned * self._turn(x.shape[-1], position, latent=True)).flatten(1)

    def _rope(self) -> dict[str, Any]:
        return dict(self.config.get("rope_scaling") or {})

    def _turn(self, width: int, position: int, *, latent: bool) -> Tensor:
        """[width / 2] complex numbers; YaRN one dimension at a time, as its paper has it."""
        rope, theta = self._rope(), float(self.config["rope_theta"])
        factor = float(rope.get("factor", 1))
        speeds = []
        for i in range(width // 2):
            speed = theta ** (-2 * i / width)
            if rope.get("rope_type") == "llama3":
                turns = float(rope["original_max_position_embeddings"]) * speed / (2 * math.pi)
                low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
                kept = min(max((turns - low) / (high - low), 0), 1)
                speed = speed * kept + speed / factor * (1 - kept)
            elif rope:
                length, slow = float(rope["original_max_position_embeddings"]), speed / factor
                ends = [
                    width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))
                    for turns in (float(rope.get("beta_fast", 32)), float(rope.get("beta_slow", 1)))
                ]
                if rope.get("truncate", True):
                    ends = [math.floor(ends[0]), math.ceil(ends[1])]
                low, high = max(ends[0], 0), min(ends[1], width - 1)
                share = min(max((i - low) / (high - low if high != low else 0.001), 0), 1)
                speed = slow * share + speed * (1 - share)
            speeds.append(speed)
        angles = torch.tensor(speeds, dtype=torch.float64) * position
        all_dim = float(rope.get("mscale_all_dim") or 0) if latent else 0.0
        if rope.get("rope_type") == "llama3":
            return torch.polar(torch.ones_like(angles), angles)
        magnitude = (0.1 * float(rope.get("mscale", 1)) * math.log(factor) + 1) / (0.1 * all_dim * math.log(factor) + 1)
        return torch.polar(torch.full_like(angles, magnitude), angles)
