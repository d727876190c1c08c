"""Run by a Python that has vLLM: the draft steps of many drafts, each by vLLM's own module and attention kernels.

A whole engine takes half a minute to start and serves one draft. What its drafter does in a step is: the module that
`get_model` built and loaded is called, in a forward context that holds what the attention backend's own builder made of
the batch (v1/spec_decode/llm_base_proposer.py of vLLM 0.32). Here that is done without the rest: a text is prefilled
and then continued one token at a time, with real KV caches, in a second a draft.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from safetensors.torch import load_file, save_file

NUM_BLOCKS = 4


class Engine:
    """One draft as vLLM builds it, with a KV cache for each of its layers."""

    def __init__(self, draft: str, target: str, dtype: str) -> None:
        from load_many import built
        from vllm.config import set_current_vllm_config

        self.config, self.model = built(draft, target, dtype)
        self.layers = dict(self.config.compilation_config.static_forward_context)
        with set_current_vllm_config(self.config):
            self.builders = {name: self._builder(name, layer) for name, layer in self.layers.items()}

    def _builder(self, name: str, layer: Any) -> Any:
        spec = layer.get_kv_cache_spec(self.config)
        # v1/kv_cache_interface.py: [blocks, heads, tokens, content]; MLA holds one latent where others hold K and V.
        is_latent = type(spec).__name__ == "MLAAttentionSpec"
        width = spec.head_size * (1 if is_latent else 2)
        layer.bind_kv_cache(torch.zeros(NUM_BLOCKS, spec.num_kv_heads, spec.block_size, width, dtype=spec.dtype))
        return layer.get_attn_backend().get_builder_cls()(spec, [name], self.config, torch.device("cpu"))

    def step(self, token_ids: torch.Tensor, first: int, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(head states, states for the next step) of tokens at positions ``first`` and on; the cache holds the rest."""
        from vllm.config import set_current_vllm_config
        from vllm.forward_context import set_forward_context
        from vllm.v1.attention.backend import CommonAttentionMetadata

        num, positions = len(token_ids), torch.arange(first, first + len(token_ids))
        bounds, length = torch.tensor([0, num], dtype=torch.int32), torch.tensor([first + num], dtype=torch.int32)
        common = CommonAttentionMetadata(
            query_start_loc=bounds,
            query_start_loc_cpu=bounds,
            seq_lens=length,
            seq_lens_cpu_upper_bound=length,
            num_reqs=1,
            num_actual_tokens=num,
            max_query_len=num,
            max_seq_len=first + num,
            block_table_tensor=torch.arange(NUM_BLOCKS, dtype=torch.int32)[None],
            slot_mapping=positions,
            positions=positions,
            is_prefilling=torch.tensor([first == 0]),
        )
        metadata = {name: builder.build(0, common) for name, builder in self.builders.items()}
        slots = dict.fromkeys(metadata, positions)
        with (
            set_current_vllm_config(self.config),
            set_forward_context(metadata, self.config, num_tokens=num, slot_mapping=slots),
        ):
            return self.model(token_ids, positions, hidden)


@torch.inference_mode()
def chain(engine: Engine, asked: dict[str, torch.Tensor], num_rows: int, num_steps: int) -> dict[str, torch.Tensor]:
    """A prefill of ``num_rows`` rows and a chain of steps after it, fed the recorded tokens."""
    dtype = engine.config.model_config.dtype
    combined = engine.model.combine_hidden_states(asked["aux"][:num_rows].to(dtype))
    normed, state = engine.step(asked["token_ids"][1 : num_rows + 1], 0, combined)
    found = {"combined": combined, "prefilled": normed}
    for step in range(num_steps):
        if step:
            place = num_rows + step
            normed, state = engine.step(asked["token_ids"][place : place + 1], place - 1, state)
        normed, state = normed[-1:], state[-1:]
        found |= {
            f"normed.{step}": normed,
            f"state.{step}": state,
            f"logits.{step}": engine.model.compute_logits(normed),
        }
    return {name: tensor.float().clone(memory_format=torch.contiguous_format) for name, tensor in found.items()}


if __name__ == "__main__":
    job = json.load(sys.stdin)
    sys.path.insert(0, job["scripts"])
    from load_many import prepare

    prepare()
    for one in job["drafts"]:
        engine = Engine(one["draft"], one["target"], one["dtype"])
        save_file(chain(engine, load_file(one["asked"]), one["num_rows"], one["num_steps"]), one["answered"])
        print(f"{one['draft']} done", file=sys.stderr, flush=True)
