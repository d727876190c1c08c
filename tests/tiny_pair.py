"""A tiny target and a draft that guesses it often and not always: what a served measurement needs, without training.

The target's layers whisper: its next token depends on the last one above all, and on what came before a little. The
draft says what the last token alone would give, so it is right where the whisper does not matter. It is built, not
trained: its attention looks at the current place only (queries and keys are one constant vector, which rotary positions
turn away from every other place), takes the current token's embedding in and what came down from the step before out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny import write_tensors, write_tiny_draft
from tests.tiny_target import END, VOCAB, write_tiny_target

HIDDEN, HEAD = 128, 64
NUM_LAYERS = 8
AUX_LAYERS = (2, 4, 5)
WHISPER = 0.0015  # of the target's layers
CONSTANT = 1.0  # the first component of every embedding, from which queries and keys are made
PEAK = 10.0  # of queries and keys
PLANES = 6  # that they are turned in


def write_tiny_pair(directory: Path) -> tuple[Path, Path]:
    """Writes a target and its BF16 draft and returns their directories."""
    from safetensors.torch import load_file

    target = write_tiny_target(
        directory / "target",
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=HIDDEN // HEAD,
        num_key_value_heads=HIDDEN // HEAD,
        head_dim=HEAD,
    )
    weights = load_file(target / "model.safetensors")
    weights["model.embed_tokens.weight"][:, 0] = CONSTANT
    weights["lm_head.weight"][:, 0] = 0
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.mul_(WHISPER)
    write_tensors(target, weights)
    _answer_at_length(target)
    draft = write_tiny_draft(
        directory / "draft",
        hidden=HIDDEN,
        intermediate=HIDDEN,
        heads=HIDDEN // HEAD,
        kv_heads=HIDDEN // HEAD,
        head_dim=HEAD,
        vocab=VOCAB,
        draft_vocab=None,
        aux_layer_ids=AUX_LAYERS,
    )
    write_tensors(draft, _draft_tensors(draft, target, weights))
    return target, draft


def _draft_tensors(draft: Path, target: Path, weights: dict[str, Any]) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    tensors = load_file(draft / "model.safetensors")
    layer = "midlayer."
    constant = torch.zeros(HIDDEN, 2 * HIDDEN)
    for plane in range(PLANES):  # halves of a head are turned together (rotate_half)
        constant[plane :: HEAD // 2, 0] = PEAK
    identity = torch.eye(HIDDEN)
    made = {
        f"{layer}self_attn.q_proj.weight": constant,
        f"{layer}self_attn.k_proj.weight": constant,
        f"{layer}self_attn.v_proj.weight": torch.cat([identity, -identity], dim=1),
        f"{layer}self_attn.o_proj.weight": identity,
        f"{layer}mlp.down_proj.weight": tensors[f"{layer}mlp.down_proj.weight"] * 0.02,
        "fc.weight": _of_unit_size(tensors["fc.weight"], target),
        "lm_head.weight": weights["lm_head.weight"],
        **{name: torch.ones_like(value) for name, value in tensors.items() if name.endswith("norm.weight")},
    }
    return tensors | {name: value.to(tensors[name].dtype).contiguous() for name, value in made.items()}


def _of_unit_size(fc: Any, target: Path) -> Any:
    """``fc``, so scaled that what it makes of the target's states has a root mean square of 1."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    with torch.inference_mode():
        states = model(torch.arange(VOCAB)[None], output_hidden_states=True).hidden_states
    combined = torch.cat([states[layer][0] for layer in AUX_LAYERS], dim=-1) @ fc.float().T
    return fc.float() / combined.square().mean().sqrt()


def _answer_at_length(target: Path) -> None:
    """One token ends an answer, not a fifth of them."""
    for name in ("config.json", "generation_config.json"):
        config = json.loads((target / name).read_text())
        (target / name).write_text(json.dumps(config | {"eos_token_id": END}, indent=2))
