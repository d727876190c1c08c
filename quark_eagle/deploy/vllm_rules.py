"""What vLLM does when it loads an Eagle3 draft, written down as data.

Read in vLLM 0.32.0 (paths below ``vllm/model_executor``); tests hold these tables against the installed engine. What
earlier versions did otherwise is in `quark_eagle.deploy.vllm_versions`.

* A module has two runtime names. Its *parameters* count the draft's own layers, ``model.layers.0.self_attn.qkv_proj``;
  the *lookup*, with which ``quantization_config`` is asked, goes on from the target's layers,
  ``model.layers.<N>.self_attn.qkv_proj`` with N the target's number of layers (``Eagle3LlamaForCausalLM.__init__``).
* The lookup meets the exclude list raw. Each draft module gets a fresh ``QuarkConfig`` (``models/utils.py``,
  ``get_draft_quant_config``), to which neither the name mapper nor the table of fused modules was applied. So nothing
  is ever called ``midlayer`` or ``q_proj`` there, and an entry matches if it equals the whole name or, after ``re:``,
  matches from the start (``layers/quantization/utils/config_utils.py``, ``is_equal_or_regex_match``). No globs.
* No missing tensor is noticed: ``load_weights`` of all three files returns None, which switches the check for
  uninitialized weights off, for BF16 drafts too (``model_loader/default_loader.py``).
* A matrix that is longer than config.json says, along the side that tensor parallelism divides, is cut to size without
  a word, on one device too (``parameter.py``: ``narrow`` before the shapes are compared).
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from quark_eagle.deploy.rules import EngineRules, Family, Linear, Norm, Part, Scheme

_GATE_UP = Linear(
    module="mlp.gate_up_proj",
    lookup="mlp.gate_up_proj",
    parts=(Part(name="mlp.gate_proj", rows="intermediate"), Part(name="mlp.up_proj", rows="intermediate")),
    columns="hidden",
    cut="rows",
)
_DOWN = Linear(
    module="mlp.down_proj",
    lookup="mlp.down_proj",
    parts=(Part(name="mlp.down_proj", rows="hidden"),),
    columns="intermediate",
    cut="columns",
)
_QKV = (
    Part(name="self_attn.q_proj", rows="query"),
    Part(name="self_attn.k_proj", rows="key_value"),
    Part(name="self_attn.v_proj", rows="key_value"),
)
_FC = Linear(
    module="fc", lookup="fc", parts=(Part(name="fc", rows="hidden"),), columns="fc_input", cut=None, when="aux"
)


def _single(
    name: str,
    rows: str,
    columns: str,
    cut: Literal["rows", "columns"] | None,
    *,
    when: str = "",
    bias: tuple[str, ...] = (),
    why: str = "",
) -> Linear:
    return Linear(
        module=name,
        lookup=name,
        parts=(Part(name=name, rows=rows),),
        columns=columns,
        cut=cut,
        when=when,
        bias=bias,
        high_precision=why,
    )


_LAYER_NORMS = (
    Norm(module="input_layernorm", size="hidden"),
    Norm(module="hidden_norm", size="hidden", first_layer_only=True),
    Norm(module="post_attention_layernorm", size="hidden"),
)
_MODEL_NORMS = (Norm(module="norm", size="hidden"), Norm(module="fc_norm.*", size="target_hidden", when="fc_norm"))
_INPUT_NORM = Norm(module="input_norm", size="fc_input", when="norm_before_fc")
_STACKED_LLAMA = MappingProxyType(
    {
        ".q_proj": ".qkv_proj",
        ".k_proj": ".qkv_proj",
        ".v_proj": ".qkv_proj",
        ".gate_proj": ".gate_up_proj",
        ".up_proj": ".gate_up_proj",
    }
)
_STACKED_MLA = MappingProxyType(
    {
        ".gate_proj": ".gate_up_proj",
        ".up_proj": ".gate_up_proj",
        ".q_a_proj": ".fused_qkv_a_proj",
        ".kv_a_proj_with_mqa": ".fused_qkv_a_proj",
    }
)
_SKIPPED_LLAMA = MappingProxyType({"mask_hidden": "parallel_drafting", "fc.": "aux", "input_norm.": "norm_before_fc"})
_NESTED_AUX_IDS = "eagle_config.eagle_aux_hidden_state_layer_ids"

LLAMA = Family(
    source="models/llama_eagle3.py",
    layer_linears=(
        Linear(
            module="self_attn.qkv_proj",
            lookup="self_attn.qkv_proj",
            parts=_QKV,
            columns="attention_input",
            cut="rows",
            bias=("attention_bias",),
        ),
        # models/llama.py: o_proj also listens to `bias`, which the overridden qkv_proj does not.
        _single("self_attn.o_proj", "hidden", "query", "columns", bias=("attention_bias", "bias")),
        replace(_GATE_UP, bias=("mlp_bias",)),
        replace(_DOWN, bias=("mlp_bias",)),
    ),
    layer_norms=_LAYER_NORMS,
    linears=(_FC,),
    norms=(*_MODEL_NORMS, _INPUT_NORM),
    stacked=_STACKED_LLAMA,
    # Not the aux ids at the top level: with four of them there, fc is still built for three.
    aux_count=("num_aux_hidden_states", _NESTED_AUX_IDS),
    skipped=_SKIPPED_LLAMA,
)

QWEN3 = Family(
    source="models/qwen3_eagle3.py",
    layer_linears=(
        # Its qkv_proj is built a second time by the draft, with a prefix that lacks `self_attn`.
        Linear(
            module="self_attn.qkv_proj",
            lookup="qkv_proj",
            parts=_QKV,
            columns="attention_input",
            cut="rows",
            bias=("attention_bias",),
        ),
        _single("self_attn.o_proj", "hidden", "query", "columns"),
        _GATE_UP,
        _DOWN,
    ),
    layer_norms=(
        *_LAYER_NORMS,
        Norm(module="self_attn.q_norm", size="head"),
        Norm(module="self_attn.k_norm", size="head"),
    ),
    linears=(_FC,),
    norms=(*_MODEL_NORMS, _INPUT_NORM),
    stacked=_STACKED_LLAMA,
    aux_count=("num_aux_layers", "num_aux_hidden_states", "eagle_aux_hidden_state_layer_ids", _NESTED_AUX_IDS),
    skipped=_SKIPPED_LLAMA,
)

DEEPSEEK_MLA = Family(
    source="models/deepseek_eagle3.py",
    layer_linears=(
        Linear(
            module="self_attn.fused_qkv_a_proj",
            lookup="self_attn.fused_qkv_a_proj",
            parts=(
                Part(name="self_attn.q_a_proj", rows="query_rank"),
                Part(name="self_attn.kv_a_proj_with_mqa", rows="key_value_rank_and_rope"),
            ),
            columns="attention_input",
            cut="rows",
            when="query_rank",
        ),
        _single("self_attn.q_b_proj", "query", "query_rank", "rows", when="query_rank"),
        # Without a query rank vLLM 0.32 builds these two, but its loader renames kv_a_proj_with_mqa all the same.
        _single("self_attn.q_proj", "query", "attention_input", "rows", when="no_query_rank"),
        _single(
            "self_attn.kv_a_proj_with_mqa", "key_value_rank_and_rope", "attention_input", None, when="no_query_rank"
        ),
        _single(
            "self_attn.kv_b_proj",
            "key_value_up",
            "key_value_rank",
            "rows",
            why="vLLM takes it apart into the absorbed matrices W_UK and W_UV and multiplies in the model's dtype",
        ),
        _single("self_attn.o_proj", "hidden", "value", "columns"),
        _GATE_UP,
        _DOWN,
    ),
    layer_norms=(
        *_LAYER_NORMS,
        Norm(module="self_attn.q_a_layernorm", size="query_rank", when="query_rank"),
        Norm(module="self_attn.kv_a_layernorm", size="key_value_rank"),
    ),
    linears=(_FC,),
    norms=_MODEL_NORMS,
    stacked=_STACKED_MLA,
    aux_count=("num_aux_hidden_states", _NESTED_AUX_IDS),
    skipped=MappingProxyType({}),
    passes_config_to_head=False,
    knows_cache_scales=False,
)

# Static inputs are quantized by an operator that the CPU build lacks (_custom_ops.py, scaled_fp8_quant).
_NO_STATIC_INPUTS_ON_CPU = MappingProxyType({"CPU": "its build has no static_scaled_fp8_quant"})
# kernels/linear: of ROCm's kernels only ChannelWiseTorchFP8ScaledMMLinearKernel takes the pair (`can_implement` of the
# others), and its `apply_scaled_mm` narrows the input's scale to one row per token, where a static one has no rows.
_NO_STATIC_INPUTS_BESIDE_CHANNELS = MappingProxyType(
    {
        **_NO_STATIC_INPUTS_ON_CPU,
        "ROCm": "no kernel multiplies one input scale by one per channel, and the first forward pass stops",
    }
)

VLLM_0_32 = EngineRules(
    name="vllm-0.32",
    families=MappingProxyType({"llama": LLAMA, "qwen3": QWEN3, "deepseek_mla": DEEPSEEK_MLA}),
    # models/registry.py
    architectures=MappingProxyType(
        {
            "LlamaForCausalLMEagle3": "llama",
            "Eagle3LlamaForCausalLM": "llama",
            "Eagle3MiniMaxM2ForCausalLM": "llama",
            "Eagle3Qwen2_5vlForCausalLM": "llama",
            "Eagle3Qwen3vlForCausalLM": "llama",
            "PEagleDraftModel": "llama",
            "PeagleLlamaForCausalLM": "llama",
            "Eagle3Qwen3ForCausalLM": "qwen3",
            "PeagleQwen3ForCausalLM": "qwen3",
            "Eagle3DeepseekV2ForCausalLM": "deepseek_mla",
            "Eagle3DeepseekV3ForCausalLM": "deepseek_mla",
        }
    ),
    eagle_prefix="Eagle3",  # transformers_utils/configs/eagle.py
    # config/speculative.py, hf_config_override: the MTP layers of these models have no model_type of their own.
    other_drafts=MappingProxyType(
        dict.fromkeys(("deepseek_v3", "deepseek_v32", "deepseek_v4", "deepseek_v41", "glm_moe_dsa"), "deepseek_v2")
    ),
    speculators_types=("eagle3", "peagle"),  # transformers_utils/configs/speculators/algos.py
    speculators_flags=("fc_norm", "norm_output"),
    speculators_model_types=MappingProxyType({"llama": "Eagle3LlamaForCausalLM", "qwen3": "Eagle3Qwen3ForCausalLM"}),
    # layers/quantization/quark/quark.py: from_config, get_quant_method_target, _find_matched_config
    required_keys=MappingProxyType(
        {
            "export": (dict, "vLLM stops with ValueError"),
            "export.kv_cache_group": (list, "vLLM stops with TypeError"),
            "exclude": (list, "vLLM stops with TypeError: 'NoneType' object is not iterable"),
            "layer_type_quant_config": (
                dict,
                "vLLM stops with AttributeError: 'NoneType' object has no attribute 'get'",
            ),
            "global_quant_config": (dict, "vLLM stops with AttributeError: 'NoneType' object has no attribute 'get'"),
        }
    ),
    # quark.py: _is_fp8_w8a8
    schemes=(
        Scheme(name="ptpc_fp8", weight="per_channel", input="per_channel", dynamic=True),
        Scheme(name="fp8, dynamic", weight="per_tensor", input="per_tensor", dynamic=True),
        Scheme(name="fp8", weight="per_tensor", input="per_tensor", dynamic=False, fails_on=_NO_STATIC_INPUTS_ON_CPU),
        Scheme(name="fp8, per-channel weight, dynamic", weight="per_channel", input="per_tensor", dynamic=True),
        Scheme(
            name="fp8_channel_static",
            weight="per_channel",
            input="per_tensor",
            dynamic=False,
            fails_on=_NO_STATIC_INPUTS_BESIDE_CHANNELS,
        ),
        Scheme(name="fp8, per-tensor weight, per token", weight="per_tensor", input="per_channel", dynamic=True),
        Scheme(name="fp8, blocks of 128 × 128", weight="per_block", input="per_group", dynamic=True),
    ),
    fp8_dtype="fp8_e4m3",
    # models/utils.py: AutoWeightsLoader.REMOVE_UNUSED_ROTARY_EMBEDS_MAPPER
    harmless=("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "rotary_pos_emb.inv_freq"),
    # layers/quantization/base_config.py: _ignore_unexpected_suffixes and get_cache_scale_mapper
    kv_scales=(
        *(".q_scale", ".k_scale", ".v_scale", ".kv_scale", ".output_scale", ".prob_output_scale"),
        *(".q_zero_point", ".k_zero_point", ".v_zero_point"),
    ),
    left_alone=(
        r".*\.attn\.(q|k|v|prob)_scale",  # of a KV cache in FP8; layers/quantization/kv_cache.py sets them to 1
        r".*\.attn\.(q|k|v)_zero_point",  # compressed_tensors.py, CompressedTensorsKVCacheMethod: never used
        r"model\.layers\.[1-9]\d*\.hidden_norm\.weight",  # built in every layer, used in the first
    ),
)
