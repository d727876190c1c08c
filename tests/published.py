"""Drafts as they are published, a thousand times smaller: true names and config keys, every family and variant.

Heads are 32 wide and latents 512 + 64, which vLLM's CPU kernels need. Sources: the drafts' config.json and model cards,
ModelOpt (``export/plugins/hf_spec_configs.py``), TorchSpec (``configs/draft_models``), speculators, NeMo Automodel.
"""

from __future__ import annotations

from dataclasses import replace

from quark_eagle.checkpoint.family import Convention, DraftFamily
from tests.tiny import TinyDraft

KIMI_YARN = {
    "type": "yarn", "factor": 64.0, "original_max_position_embeddings": 32, "beta_fast": 32.0, "beta_slow": 1.0,
}  # fmt: skip
LATENT_YARN = {**KIMI_YARN, "mscale": 1.0, "mscale_all_dim": 1.0}
GPT_OSS_YARN = {**KIMI_YARN, "factor": 32.0, "truncate": False}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LATENT = {"kv_lora_rank": 512, "qk_nope_head_dim": 32, "qk_rope_head_dim": 64, "v_head_dim": 32}
MODELOPT = {
    "eagle_config": {
        "eagle_aux_hidden_state_layer_ids": [2, 5, 8],
        "use_aux_hidden_state": True,
        "use_input_layernorm_in_first_layer": True,
        "use_last_layernorm": True,
        "use_mtp_layernorm": False,
        "next_layer_regular": True,
        "parallel_draft_step": 1,
        "parallel_draft_heads_num_layers": 1,
    }
}
_LLAMA = TinyDraft(heads=4, kv_heads=2, head_dim=32, embed_tokens=True)
_LAYERS = replace(_LLAMA, convention=Convention.LAYERS)
_SPECULATORS = replace(_LLAMA, convention=Convention.SPECULATORS)
_QWEN3 = replace(_LLAMA, family=DraftFamily.QWEN3)
_MLA = TinyDraft(
    family=DraftFamily.DEEPSEEK_MLA, convention=Convention.LAYERS, heads=2, latent=LATENT, rope_scaling=LATENT_YARN,
    embed_tokens=True, draft_vocab=None,
)  # fmt: skip

# The name is what the draft is; the comment, who publishes such a one.
PUBLISHED: dict[str, TinyDraft] = {
    # yuhuili/EAGLE3-LLaMA3.1-Instruct-8B, SpecForge, AngelSlim
    "Llama": replace(_LLAMA, extra={"architectures": ["LlamaForCausalLM"]}),
    "Llama, llama3 rope": replace(_LLAMA, rope_scaling=LLAMA3),
    # lightseekorg/kimi-k2.5-eagle3
    "Kimi-K2.5: yarn, a KV head for each head, the whole vocabulary": replace(
        _LLAMA, kv_heads=4, draft_vocab=None, rope_scaling=KIMI_YARN
    ),
    # thoughtworks/MiniMax-M2.5-Eagle3, Lorbus/MiniMax-M2.7-EAGLE3
    "MiniMax-M2.5: the target's embedding": replace(_LLAMA, embed_tokens=False),
    # Inferact/MiniMax-M3-EAGLE3, by TorchSpec
    "MiniMax-M3: EAGLE-3.1 (`fc_norm`, `norm_output`)": replace(
        _LAYERS, fc_norm=True, norm_output=True, extra={"architectures": ["Eagle3MiniMaxM2ForCausalLM"]}
    ),
    # RedHatAI's drafts, by speculators
    "speculators, Llama": replace(_SPECULATORS, norm_before_residual=True),
    "speculators, Qwen3": replace(_SPECULATORS, family=DraftFamily.QWEN3),
    "speculators, gpt-oss: `norm_before_fc`, yarn without `truncate`": replace(
        _SPECULATORS, norm_before_fc=True, norm_before_residual=True, rope_scaling=GPT_OSS_YARN
    ),
    "P-EAGLE (parallel drafting)": replace(_LAYERS, extra={"architectures": ["PEagleDraftModel"]}),
    "Qwen3": replace(_QWEN3, extra={"rope_theta": 1000000.0}),
    "Qwen3, `attention_bias`": replace(_QWEN3, attention_bias=True),
    "Llama, `attention_bias`, `mlp_bias`, four aux states": replace(
        _LLAMA, attention_bias=True, mlp_bias=True, num_aux=4, aux_layer_ids=(1, 2, 5, 8)
    ),
    "Llama, `target_hidden_size`": replace(_LLAMA, target_hidden=96),
    "Llama, a sliding window": replace(_LAYERS, extra={"layer_types": ["sliding_attention"], "sliding_window": 6}),
    "Llama, `partial_rotary_factor`": replace(_LLAMA, extra={"partial_rotary_factor": 0.5}),
    # ModelOpt's export of a transformers model
    "NVIDIA ModelOpt: `eagle_config`": replace(_LAYERS, aux_layer_ids=None, extra=MODELOPT),
    # NeMo Automodel
    "NVIDIA NeMo: `model.layers.0`": replace(_LLAMA, convention=Convention.MODEL_LAYERS),
    # ModelOpt's export of a Megatron model of several layers
    "NVIDIA Megatron, several layers": replace(
        _LLAMA, num_layers=2, extra={"architectures": ["LlamaForCausalLMEagle3Deep"]}
    ),
    # lightseekorg/kimi-k2.6-eagle3-mla, k-l-lambda/kimi-k2.7-code-eagle3-mla
    "Kimi-K2.6: latent attention (MLA)": _MLA,
    # lightseekorg/kimi-k2.6-eagle3.1-mla
    "Kimi-K2.6: MLA, EAGLE-3.1": replace(_MLA, fc_norm=True, norm_output=True, norm_before_residual=True),
    # nvidia/Kimi-K2-Thinking-Eagle3, by ModelOpt
    "NVIDIA Kimi: MLA, `model_type` kimi_k2": replace(
        _MLA, aux_layer_ids=None, extra={**MODELOPT, "model_type": "kimi_k2"}
    ),
    "MLA, `model_type` deepseek_v3": replace(_MLA, extra={"model_type": "deepseek_v3"}),
    "MLA, `q_lora_rank` null": replace(_MLA, q_lora_rank=None),
    "Llama, two layers": replace(_LAYERS, num_layers=2, norm_before_residual=True),
    "Qwen3, three layers": replace(_QWEN3, convention=Convention.LAYERS, num_layers=3),
    "MLA, two layers": replace(_MLA, num_layers=2, norm_output=True),
}

NOT_LOADED = (
    "P-EAGLE (parallel drafting)",
    "NVIDIA NeMo: `model.layers.0`",
    "NVIDIA Megatron, several layers",
    "MLA, `model_type` deepseek_v3",
    "MLA, `q_lora_rank` null",
)
"""No vLLM 0.32 loads these."""
NOT_REPLAYED = ("P-EAGLE (parallel drafting)",)
"""What replay would compute otherwise than an engine."""
