"""A 64-wide Eagle3 draft with the true tensor names, built in milliseconds, in every variant there is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quark_eagle.checkpoint.family import Convention, DraftFamily

if TYPE_CHECKING:
    import torch

ARCHITECTURE = {
    DraftFamily.LLAMA: "LlamaForCausalLMEagle3",
    DraftFamily.QWEN3: "Eagle3Qwen3ForCausalLM",
    DraftFamily.DEEPSEEK_MLA: "Eagle3DeepseekV2ForCausalLM",
}
MODEL_TYPE = {
    DraftFamily.LLAMA: "llama",
    DraftFamily.QWEN3: "qwen3",
    DraftFamily.DEEPSEEK_MLA: "deepseek_v2",
}
FIRST_LAYER = {
    Convention.MIDLAYER: "midlayer.",
    Convention.LAYERS: "layers.0.",
    Convention.MODEL_LAYERS: "model.layers.0.",
    Convention.SPECULATORS: "layers.0.",
}
MLA = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyDraft:
    """What to build; the defaults are the commonest draft: Llama, ``midlayer.``, pruned vocabulary, no embedding.

    ``draft_vocab`` None means the whole vocabulary, without d2t and t2d; ``extra`` goes into the layer's config.
    """

    convention: Convention = Convention.MIDLAYER
    family: DraftFamily = DraftFamily.LLAMA
    seed: int = 0
    hidden: int = 64
    target_hidden: int | None = None
    intermediate: int = 128
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None
    num_layers: int = 1
    vocab: int = 256
    draft_vocab: int | None = 96
    num_aux: int = 3
    aux_layer_ids: tuple[int, ...] | None = (2, 5, 8)
    aux_ids_in_eagle_config: bool = False
    embed_tokens: bool = False
    lm_head: bool = True
    t2d: bool = True
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False
    norm_output: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    q_lora_rank: int | None = 24
    latent: Mapping[str, Any] = field(default_factory=lambda: MLA)
    rope_scaling: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "bfloat16"
    sharded: bool = False

    @property
    def width(self) -> int:
        """Of one attention head."""
        return self.head_dim or self.hidden // self.heads


def write_tiny_draft(directory: Path, draft: TinyDraft | None = None, **changes: Any) -> Path:
    """Writes a tiny draft and returns its directory; ``changes`` are fields of TinyDraft."""
    from dataclasses import replace

    draft = replace(draft or TinyDraft(), **changes)
    directory.mkdir(parents=True, exist_ok=True)
    write_config(directory, tiny_config(draft))
    tensors = tiny_tensors(draft)
    if draft.sharded:
        write_sharded(directory, tensors)
    else:
        write_tensors(directory, tensors)
    return directory


def write_config(directory: Path, config: dict[str, Any]) -> None:
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def write_tensors(directory: Path, tensors: dict[str, torch.Tensor], shard: str = "model.safetensors") -> None:
    from safetensors.torch import save_file

    save_file(tensors, directory / shard, metadata={"format": "pt"})


def write_sharded(directory: Path, tensors: dict[str, torch.Tensor], shards: int = 2) -> None:
    """The tensors dealt out over several files, in turn, with an index."""
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    weight_map = {name: names[i % shards] for i, name in enumerate(sorted(tensors))}
    for shard in names:
        write_tensors(directory, {name: tensors[name] for name in tensors if weight_map[name] == shard}, shard)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def tiny_config(draft: TinyDraft) -> dict[str, Any]:
    """config.json as the publishers of such a draft write it."""
    layer: dict[str, Any] = {
        "model_type": MODEL_TYPE[draft.family],
        "hidden_size": draft.hidden,
        "intermediate_size": draft.intermediate,
        "num_attention_heads": draft.heads,
        "num_key_value_heads": draft.kv_heads,
        "num_hidden_layers": draft.num_layers,
        "vocab_size": draft.vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": draft.attention_bias,
        "mlp_bias": draft.mlp_bias,
        "tie_word_embeddings": False,
        "torch_dtype": draft.dtype,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if draft.family is DraftFamily.DEEPSEEK_MLA:
        layer |= {**draft.latent, "q_lora_rank": draft.q_lora_rank}
    elif draft.head_dim is not None or draft.family is DraftFamily.QWEN3:
        layer["head_dim"] = draft.width
    if draft.rope_scaling is not None:
        layer["rope_scaling"] = dict(draft.rope_scaling)
    layer |= draft.extra
    eagle = _eagle_keys(draft)
    if draft.convention is not Convention.SPECULATORS:
        return {"architectures": [ARCHITECTURE[draft.family]], **layer, **eagle}
    return {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
            "verifier": {"name_or_path": "tiny-target", "architectures": ["LlamaForCausalLM"]},
        },
        "transformer_layer_config": layer,
        **eagle,
    }


def _eagle_keys(draft: TinyDraft) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "norm_before_residual": draft.norm_before_residual,
        "norm_before_fc": draft.norm_before_fc,
        "fc_norm": draft.fc_norm,
        "norm_output": draft.norm_output,
    }
    if draft.draft_vocab is not None:
        keys["draft_vocab_size"] = draft.draft_vocab
    if draft.target_hidden is not None:
        keys["target_hidden_size"] = draft.target_hidden
    if draft.num_aux != 3:
        keys["num_aux_hidden_states"] = draft.num_aux
    ids = {} if draft.aux_layer_ids is None else {"eagle_aux_hidden_state_layer_ids": list(draft.aux_layer_ids)}
    return keys | ({"eagle_config": ids} if draft.aux_ids_in_eagle_config else ids)


def tiny_tensors(draft: TinyDraft) -> dict[str, torch.Tensor]:
    """The tensors of such a draft by name on disk: weights about as large as trained ones, norms near 1."""
    import torch

    generator = torch.Generator().manual_seed(draft.seed)
    dtype = getattr(torch, draft.dtype)

    def value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        noise = torch.randn(shape, generator=generator)
        if "norm" in name:
            return (1 + 0.1 * noise).to(dtype)
        return (noise * (0.1 if len(shape) == 1 else shape[-1] ** -0.5)).to(dtype)

    tensors = {name: value(name, shape) for name, shape in _shapes(draft).items()}
    if draft.draft_vocab is not None:
        targets = torch.randperm(draft.vocab, generator=generator)[: draft.draft_vocab].sort().values
        tensors["d2t"] = targets - torch.arange(draft.draft_vocab)  # offsets, int64
        if draft.t2d:
            tensors["t2d"] = torch.zeros(draft.vocab, dtype=torch.bool).index_fill(0, targets, True)
    return {_on_disk(name, draft.convention): tensor for name, tensor in tensors.items()}


def tiny_shapes(draft: TinyDraft) -> dict[str, tuple[int, ...]]:
    """The shapes of such a draft's weights by name on disk, without d2t and t2d; for drafts too large to build."""
    return {_on_disk(name, draft.convention): shape for name, shape in _shapes(draft).items()}


def _on_disk(canonical: str, convention: Convention) -> str:
    if canonical.startswith("layers.0."):
        return FIRST_LAYER[convention] + canonical.removeprefix("layers.0.")
    is_prefixed = convention is Convention.MODEL_LAYERS and canonical not in ("lm_head.weight", "d2t", "t2d")
    return f"model.{canonical}" if is_prefixed else canonical


def _shapes(draft: TinyDraft) -> dict[str, tuple[int, ...]]:
    hidden, target_hidden = draft.hidden, draft.target_hidden or draft.hidden
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (hidden, draft.num_aux * target_hidden),
        "norm.weight": (hidden,),
    }
    for layer in range(draft.num_layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in _layer_shapes(draft, layer).items()}
    if draft.norm_before_fc:
        shapes["input_norm.weight"] = (draft.num_aux * target_hidden,)
    if draft.fc_norm:
        shapes |= {f"fc_norm.{i}.weight": (target_hidden,) for i in range(draft.num_aux)}
    if draft.embed_tokens:
        shapes["embed_tokens.weight"] = (draft.vocab, hidden)
    if draft.lm_head:
        shapes["lm_head.weight"] = (draft.draft_vocab or draft.vocab, hidden)
    return shapes


def _layer_shapes(draft: TinyDraft, layer: int) -> dict[str, tuple[int, ...]]:
    hidden, inner = draft.hidden, draft.intermediate
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    if layer == 0:
        shapes["hidden_norm.weight"] = (hidden,)
    if draft.mlp_bias and draft.family is DraftFamily.LLAMA:
        shapes |= {"mlp.gate_proj.bias": (inner,), "mlp.up_proj.bias": (inner,), "mlp.down_proj.bias": (hidden,)}
    reads = 2 * hidden if layer == 0 else hidden
    attention = (
        _mla_shapes(draft, reads) if draft.family is DraftFamily.DEEPSEEK_MLA else _attention_shapes(draft, reads)
    )
    return shapes | {f"self_attn.{name}": shape for name, shape in attention.items()}


def _attention_shapes(draft: TinyDraft, reads: int) -> dict[str, tuple[int, ...]]:
    queries, keys = draft.heads * draft.width, draft.kv_heads * draft.width
    shapes: dict[str, tuple[int, ...]] = {
        "q_proj.weight": (queries, reads),
        "k_proj.weight": (keys, reads),
        "v_proj.weight": (keys, reads),
        "o_proj.weight": (draft.hidden, queries),
    }
    if draft.attention_bias:
        shapes |= {"q_proj.bias": (queries,), "k_proj.bias": (keys,), "v_proj.bias": (keys,)}
        if draft.family is DraftFamily.LLAMA:
            shapes["o_proj.bias"] = (draft.hidden,)
    if draft.family is DraftFamily.QWEN3:
        shapes |= {"q_norm.weight": (draft.width,), "k_norm.weight": (draft.width,)}
    return shapes


def _mla_shapes(draft: TinyDraft, reads: int) -> dict[str, tuple[int, ...]]:
    mla = draft.latent
    head_dim = mla["qk_nope_head_dim"] + mla["qk_rope_head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "kv_a_proj_with_mqa.weight": (mla["kv_lora_rank"] + mla["qk_rope_head_dim"], reads),
        "kv_a_layernorm.weight": (mla["kv_lora_rank"],),
        "kv_b_proj.weight": (draft.heads * (mla["qk_nope_head_dim"] + mla["v_head_dim"]), mla["kv_lora_rank"]),
        "o_proj.weight": (draft.hidden, draft.heads * mla["v_head_dim"]),
    }
    if draft.q_lora_rank is None:
        return shapes | {"q_proj.weight": (draft.heads * head_dim, reads)}
    return shapes | {
        "q_a_proj.weight": (draft.q_lora_rank, reads),
        "q_a_layernorm.weight": (draft.q_lora_rank,),
        "q_b_proj.weight": (draft.heads * head_dim, draft.q_lora_rank),
    }
