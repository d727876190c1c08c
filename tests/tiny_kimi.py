"""A tiny target of Kimi-K2.5's kind: MLA throughout, YaRN positions, its text config nested, its weights random.

The latent is as wide as the CPU's kernel takes it (512 + 64), all else is small. There are no experts and no vision
weights: no image is asked about, and vLLM then builds no tower.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.tiny_target import STOP_TOKEN_IDS, VOCAB, write_tokenizer

# vLLM's defaults to run it with.
ENGINE_OPTIONS: dict[str, Any] = {"limit_mm_per_prompt": {"vision_chunk": 0}}
# Its image processor imports numba, and vLLM 0.32's CPU worker then dies in the process that did
# (`triton_utils/dispatcher.py` asks an object of llvmlite for its ``__dict__``). So the engine is put into another one.
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}

_TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 6,
    "kv_lora_rank": 512,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": STOP_TOKEN_IDS,
    "pad_token_id": None,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 50000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
}
_VISION = {
    "model_type": "kimi_k25_vision",
    "pos_emb_height": 4,
    "pos_emb_width": 4,
    "pos_emb_time": 2,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
}
_IMAGES = {
    "patch_size": 14,
    "merge_kernel_size": 2,
    "in_patch_limit": 64,
    "patch_limit_on_one_side": 16,
    "fixed_output_tokens": None,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "in_patch_limit_each_frame": 16,
    "in_patch_limit_video": 64,
    "max_num_frames_each_video": None,
    "sample_fps": 2.0,
    "temporal_merge_kernel_size": 4,
    "timestamp_mode": "hh:mm:ss.fff",
}


def write_tiny_kimi(directory: Path, *, seed: int = 0, emits: Sequence[int] | None = None) -> tuple[Path, Path]:
    """Writes the target, and its text part alone as transformers knows it; returns both directories.

    With ``emits`` it says nothing but these tokens, so that a draft of as few is right now and then.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    torch.manual_seed(seed)
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**_TEXT)).float()
    model.generation_config.eos_token_id = STOP_TOKEN_IDS
    if emits is not None:
        silent = torch.ones(VOCAB, dtype=torch.bool).index_fill(0, torch.tensor(emits), False)
        model.lm_head.weight.data[silent] = 0
    text, whole = directory / "text", directory / "kimi"
    model.save_pretrained(text)
    whole.mkdir()
    config = {
        "architectures": ["KimiK25ForConditionalGeneration"],
        "model_type": "kimi_k25",
        "text_config": model.config.to_dict() | {"model_type": "kimi_k2"},
        "vision_config": _VISION,
        "image_token_id": VOCAB - 1,
        "media_placeholder_token_id": VOCAB - 1,  # the drafter asks for it
        "dtype": "float32",
        "tie_word_embeddings": False,
    }
    (whole / "config.json").write_text(json.dumps(config, indent=1))
    images = {"image_processor_type": "KimiK25FusedVisionProcessor", "media_proc_cfg": _IMAGES}
    (whole / "preprocessor_config.json").write_text(json.dumps(images))
    shutil.copy(text / "generation_config.json", whole)
    weights = {f"language_model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, whole / "model.safetensors", {"format": "pt"})
    for place in (text, whole):
        write_tokenizer(place)
    return whole, text
