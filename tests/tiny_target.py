"""A Llama target with random weights and a byte tokenizer, as transformers saves one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCAB = 264  # 256 bytes and eight special tokens
END = 256
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|a|>", "<|b|>", "<|c|>", "<|d|>")
# A fifth of the vocabulary ends an answer, so that random answers end early and at different lengths.
STOP_TOKEN_IDS = [END, *range(120, 160)]


def write_tiny_target(directory: Path, *, kind: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """Writes a tiny target and returns its directory; ``changes`` go into its config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCAB,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,  # wide, so that no two tokens are nearly tied
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": STOP_TOKEN_IDS,
        "pad_token_id": None,
    }
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **(settings | changes))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = settings["eos_token_id"]
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return directory


def write_tokenizer(directory: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)


def write_prompts(path: Path, contents: list[str], *, category: str = "coding") -> Path:
    lines = [
        {"id": f"p{i}", "category": category, "split": "parity", "messages": [{"role": "user", "content": content}]}
        for i, content in enumerate(contents)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_config(directory: Path, content: dict[str, Any]) -> Path:
    """A target that is nothing but its config."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(content))
    return directory
