"""Geometry and Flags: what config.json says about the draft's sizes and its variations.

A size has no default. What the format itself makes optional is filled in as transformers 5.16 and vLLM
0.32 do it: `head_dim` is hidden_size / num_attention_heads in Llama, a missing `num_key_value_heads` means
as many as query heads, a missing `draft_vocab_size` the whole vocabulary. Qwen3's classes would put fixed
numbers there (128 and 32), so in that family both keys are required.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quark_eagle.checkpoint.config_keys import ConfigKeys
from quark_eagle.checkpoint.family import DraftFamily, is_speculators
from quark_eagle.checkpoint.positions import read_rope, read_sliding_windows

# EAGLE-3 takes three target layers: low, middle, high (arXiv 2503.01840); vLLM falls back on it as well.
USUAL_NUM_AUX = 3
_AUX_IDS = "eagle_aux_hidden_state_layer_ids"


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaGeometry:
    """Sizes of multi-head latent attention; `q_lora_rank` None means that queries have no bottleneck."""

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The sizes of a draft.

    Attributes:
        target_hidden_size: width of one aux hidden state; `hidden_size` unless config.json says otherwise.
        head_dim: of queries and keys; for MLA `qk_nope_head_dim + qk_rope_head_dim`.
        num_aux_hidden_states: how many target layers `fc` reads.
        aux_layer_ids: which ones, ascending; None if config.json leaves it to the engine.
        sliding_windows: for each layer how many tokens a query sees, itself included; None sees all.
        rope: `rope_type`, `rope_theta` and whatever else the rotary embedding needs, in one mapping.
        mla: None unless the family is DEEPSEEK_MLA.
    """

    hidden_size: int
    target_hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_layers: int
    vocab_size: int
    draft_vocab_size: int
    num_aux_hidden_states: int
    aux_layer_ids: tuple[int, ...] | None
    rms_norm_eps: float
    sliding_windows: tuple[int | None, ...]
    rope: Mapping[str, Any]
    mla: MlaGeometry | None

    @property
    def has_pruned_vocabulary(self) -> bool:
        """Whether the draft proposes from a part of the target's vocabulary."""
        return self.draft_vocab_size != self.vocab_size

    def within(self, window: int | None) -> Geometry:
        """The same draft where an engine lends this window to every layer that names none; MLA takes none."""
        if window is None or self.mla is not None:
            return self
        return replace(self, sliding_windows=tuple(own or window for own in self.sliding_windows))

    @property
    def cache_width(self) -> int:
        """Numbers that one token leaves in the KV cache: keys and values of every layer, or MLA's latents."""
        if self.mla is not None:
            return self.num_layers * (self.mla.kv_lora_rank + self.mla.qk_rope_head_dim)
        return self.num_layers * 2 * self.num_key_value_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The switches between variants of Eagle3.

    Attributes:
        norm_before_residual: `hidden_norm` comes before the residual branches off, not after.
        norm_before_fc: one RMSNorm, `input_norm`, over the concatenated aux hidden states.
        fc_norm: one RMSNorm for each aux hidden state.
        norm_output: the next step is fed the normed output, not the residual stream.
        use_aux_hidden_state: False means that there is no `fc`: the draft is fed a state of its own width.
    """

    norm_before_residual: bool
    norm_before_fc: bool
    fc_norm: bool
    norm_output: bool
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    use_aux_hidden_state: bool = True


def effective_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json as an engine flattens it; a config that is not nested is returned as it is.

    Source: vLLM 0.32, transformers_utils/configs/speculators/algos.py, `update_eagle3` and `update_peagle`;
    the missing `norm_before_residual` is True for the one and False for the other.
    """
    if not is_speculators(config):
        return config
    flat = dict(config.get("transformer_layer_config") or {})
    flat["draft_vocab_size"] = config.get("draft_vocab_size")
    is_eagle3 = config.get("speculators_model_type") == "eagle3"
    flat["norm_before_residual"] = config.get("norm_before_residual", is_eagle3)
    flat["norm_before_fc"] = config.get("norm_before_fc", False)
    if is_eagle3:
        flat["fc_norm"] = config.get("fc_norm", False)
        flat["norm_output"] = config.get("norm_output", False)
    for key in ("target_hidden_size", _AUX_IDS):
        if config.get(key):
            flat[key] = config[key]
    return flat


def read_flags(config: Mapping[str, Any]) -> Flags:
    """The switches of an effective config; each is off unless it is on, as in vLLM's `getattr(…, False)`."""
    eagle = _eagle_config(config)
    return Flags(
        norm_before_residual=bool(config.get("norm_before_residual", False)),
        norm_before_fc=bool(eagle.get("norm_before_fc", config.get("norm_before_fc", False))),
        fc_norm=bool(config.get("fc_norm", False)),
        norm_output=bool(config.get("norm_output", False)),
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        use_aux_hidden_state=bool(eagle.get("use_aux_hidden_state", True)),
    )


def read_geometry(config: Mapping[str, Any], family: DraftFamily) -> tuple[Geometry | None, list[str]]:
    """The sizes in an effective config, or None and everything that is wrong with it."""
    keys = ConfigKeys(config)
    hidden_size = keys.size("hidden_size")
    num_heads = keys.size("num_attention_heads")
    vocab_size = keys.size("vocab_size")
    mla = _read_mla(keys) if family is DraftFamily.DEEPSEEK_MLA else None
    aux_layer_ids = _aux_layer_ids(config, keys)
    num_layers = keys.size("num_hidden_layers")
    geometry = Geometry(
        hidden_size=hidden_size,
        target_hidden_size=keys.size("target_hidden_size", hidden_size),
        intermediate_size=keys.size("intermediate_size"),
        num_attention_heads=num_heads,
        num_key_value_heads=_num_key_value_heads(keys, family, num_heads),
        head_dim=_head_dim(keys, family, hidden_size, num_heads)
        if mla is None
        else mla.qk_nope_head_dim + mla.qk_rope_head_dim,
        num_layers=num_layers,
        vocab_size=vocab_size,
        draft_vocab_size=keys.size("draft_vocab_size", vocab_size),
        num_aux_hidden_states=_num_aux(keys, aux_layer_ids),
        aux_layer_ids=aux_layer_ids,
        rms_norm_eps=keys.positive_number("rms_norm_eps"),
        sliding_windows=read_sliding_windows(keys, family, num_layers),
        rope=read_rope(keys),
        mla=mla,
    )
    if geometry.draft_vocab_size > geometry.vocab_size:
        keys.conflicts.append(
            f"draft_vocab_size {geometry.draft_vocab_size} is larger than vocab_size {geometry.vocab_size}."
        )
    if config.get("hidden_act", "silu") != "silu":
        keys.problems.append(
            f"hidden_act is {config['hidden_act']!r}, but the layers of an Eagle3 draft know silu only."
        )
    problems = keys.problems or keys.conflicts
    return (None if problems else geometry), problems


def _eagle_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = config.get("eagle_config")
    return nested if isinstance(nested, Mapping) else {}


def _num_key_value_heads(keys: ConfigKeys, family: DraftFamily, num_heads: int) -> int:
    found = keys.size("num_key_value_heads", None if family is DraftFamily.QWEN3 else num_heads)
    if num_heads % found:
        keys.conflicts.append(f"num_attention_heads {num_heads} is not a multiple of num_key_value_heads {found}.")
    return found


def _head_dim(keys: ConfigKeys, family: DraftFamily, hidden_size: int, num_heads: int) -> int:
    if keys.config.get("head_dim") is None and family is not DraftFamily.QWEN3 and hidden_size % num_heads:
        keys.conflicts.append(
            f"head_dim is missing, and hidden_size {hidden_size} is not a multiple of {num_heads} heads."
        )
    return keys.size("head_dim", None if family is DraftFamily.QWEN3 else max(1, hidden_size // num_heads))


def _read_mla(keys: ConfigKeys) -> MlaGeometry:
    if "q_lora_rank" not in keys.config:
        keys.problems.append("q_lora_rank is missing; write null if queries have no bottleneck.")
    return MlaGeometry(
        q_lora_rank=None if keys.config.get("q_lora_rank") is None else keys.size("q_lora_rank"),
        kv_lora_rank=keys.size("kv_lora_rank"),
        qk_nope_head_dim=keys.size("qk_nope_head_dim"),
        qk_rope_head_dim=keys.size("qk_rope_head_dim"),
        v_head_dim=keys.size("v_head_dim"),
    )


def _aux_layer_ids(config: Mapping[str, Any], keys: ConfigKeys) -> tuple[int, ...] | None:
    """Top level first, then `eagle_config`, then none (vLLM 0.32, v1/worker/gpu_model_runner.py)."""
    found = config.get(_AUX_IDS) or _eagle_config(config).get(_AUX_IDS)
    if not found:
        return None
    if not isinstance(found, Sequence) or not all(isinstance(i, int) and not isinstance(i, bool) for i in found):
        keys.problems.append(f"{_AUX_IDS} is {found!r}, but a list of layer numbers was needed.")
        return None
    if len(set(found)) != len(found) or min(found) < 0:
        keys.problems.append(f"{_AUX_IDS} is {list(found)}, but distinct layer numbers from 0 on were needed.")
    return tuple(sorted(found))


def _num_aux(keys: ConfigKeys, aux_layer_ids: tuple[int, ...] | None) -> int:
    """`num_aux_layers` is what vLLM's Qwen3 draft calls `num_aux_hidden_states`."""
    key = "num_aux_layers" if keys.config.get("num_aux_layers") is not None else "num_aux_hidden_states"
    found = keys.size(key, len(aux_layer_ids) if aux_layer_ids else USUAL_NUM_AUX)
    if aux_layer_ids and found != len(aux_layer_ids):
        keys.conflicts.append(f"{key} is {found}, but {_AUX_IDS} lists {len(aux_layer_ids)}.")
    return found
