"""Prompts and answers of the target itself, with the hidden states a draft learns from.

The target writes its own prompts: an instruction-tuned model that is shown an empty user turn completes it (Magpie,
arXiv 2406.08464). A third of the turns start from nothing, a third from a short opener (`openers.txt`) so that code,
mathematics, other languages and the rest all occur, and a third from the beginning of a prompt of `--prompts` (its
`calibration` split only; no parity prompt is ever read), cut at a random place. The prompt is sampled at temperature
1, the answer is greedy, because greedy answers are what a draft must predict (on-policy data, EAGLE-3, arXiv
2503.01840).

One decode loop serves every slot, each at its own place in its own conversation, so nothing is prefilled twice and the
states come for free. float32 on the CPU. Run it as long as you like: each shard is complete.

    python record_answers.py --target DIR --output SHARDS --tokens 500000 --prompts calib/prompts/*.jsonl
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from transformers import AutoModelForCausalLM, AutoTokenizer

AUX_LAYERS = (2, 15, 27)  # vLLM's choice for 30 layers: 2, n // 2, n - 3
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
MAX_OPENER, MAX_WRITTEN, MAX_ANSWER, TOP_K = 96, 72, 160, 300
SHARD_TOKENS = 40_000


class DecodingTarget:
    """A Llama target that decodes one token for each of B slots per call; slot b stands at its own position."""

    def __init__(self, directory: Path, slots: int, length: int) -> None:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        config = model.config
        self.eps, self.heads, self.kv_heads = (
            config.rms_norm_eps,
            config.num_attention_heads,
            config.num_key_value_heads,
        )
        self.head_dim, self.hidden = config.head_dim, config.hidden_size
        self.weights = dict(model.named_parameters())
        self.layers = config.num_hidden_layers
        self.embed = self.weights["model.embed_tokens.weight"]
        self.qkv = [
            torch.cat([self.weights[f"model.layers.{i}.self_attn.{p}_proj.weight"] for p in "qkv"])
            for i in range(self.layers)
        ]
        shape = (self.layers, slots, self.kv_heads, length, self.head_dim)
        self.keys, self.values = torch.zeros(shape), torch.zeros(shape)
        theta = config.rope_parameters["rope_theta"]
        inverse = theta ** -(torch.arange(0, self.head_dim, 2) / self.head_dim)
        angles = torch.arange(length)[:, None] * inverse  # [length, head_dim / 2]
        self.cos, self.sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)

    def step(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tokens, positions [B] -> logits [B, vocab], aux states [B, 3 * hidden], final normed state [B, hidden]."""
        rows, span = torch.arange(len(tokens)), int(positions.max()) + 1
        seen = (torch.arange(span) <= positions[:, None])[:, None, None]  # [B, 1, 1, span]
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        state, aux = self.embed[tokens], []
        for i in range(self.layers):
            if i in AUX_LAYERS:
                aux.append(state)
            name = f"model.layers.{i}."
            x = rms_norm(state, (self.hidden,), self.weights[name + "input_layernorm.weight"], self.eps)
            q, k, v = (
                linear(x, self.qkv[i])
                .view(len(tokens), -1, self.head_dim)
                .split((self.heads, self.kv_heads, self.kv_heads), 1)
            )
            self.keys[i][rows, :, positions] = rotate(k, cos, sin)
            self.values[i][rows, :, positions] = v
            grouped = rotate(q, cos, sin).unflatten(1, (self.kv_heads, -1))  # [B, kv_heads, heads / kv_heads, d]
            keys, values = self.keys[i][:, :, :span], self.values[i][:, :, :span]
            mixed = scaled_dot_product_attention(grouped, keys, values, attn_mask=seen).flatten(1)
            state = state + linear(mixed, self.weights[name + "self_attn.o_proj.weight"])
            x = rms_norm(state, (self.hidden,), self.weights[name + "post_attention_layernorm.weight"], self.eps)
            gate, up = (
                linear(x, self.weights[name + "mlp.gate_proj.weight"]),
                linear(x, self.weights[name + "mlp.up_proj.weight"]),
            )
            state = state + linear(silu(gate) * up, self.weights[name + "mlp.down_proj.weight"])
        final = rms_norm(state, (self.hidden,), self.weights["model.norm.weight"], self.eps)
        return linear(final, self.embed), torch.cat(aux, -1), final


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, halves convention (Llama). x [B, heads, head_dim]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


@dataclass
class Slot:
    """One conversation being written: tokens so far and what must be said next."""

    tokens: list[int]
    forced: list[int]
    given: int  # tokens that the user turn starts from
    prompt_length: int = 0  # 0 while the user turn is being written
    states: list[Tensor] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, nargs="*", default=[], help="JSONL; the calibration split is read")
    parser.add_argument("--tokens", type=int, default=500_000, help="answer tokens to record")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    record(parser.parse_args())


@torch.inference_mode()
def record(args: argparse.Namespace) -> None:
    tokenizer = AutoTokenizer.from_pretrained(args.target)
    opening = tokenizer.encode(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n", add_special_tokens=False)
    answering = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
    openers = [line for line in (Path(__file__).parent / "openers.txt").read_text().splitlines() if line]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    begun = calibration_prompts(args.prompts)
    longest = len(opening) + MAX_OPENER + MAX_WRITTEN + len(answering) + MAX_ANSWER + 8
    target = DecodingTarget(args.target, args.slots, longest)
    generator = torch.Generator().manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)

    def fresh() -> Slot:
        kind, pick, share = torch.rand(3, generator=generator).tolist()
        given: list[int] = []
        if kind < 1 / 3:
            given = tokenizer.encode(openers[int(pick * len(openers))], add_special_tokens=False)
        elif kind < 2 / 3 and begun:
            whole = tokenizer.encode(begun[int(pick * len(begun))], add_special_tokens=False)
            given = whole[: 3 + int(share * min(len(whole), MAX_OPENER - 3))]
        return Slot(tokens=opening[:1], forced=opening[1:] + given, given=len(given))

    slots, done = [fresh() for _ in range(args.slots)], []
    answer_tokens, shard, started = 0, 0, time.monotonic()
    while answer_tokens < args.tokens:
        logits, aux, final = target.step(
            torch.tensor([s.tokens[-1] for s in slots]), torch.tensor([len(s.tokens) - 1 for s in slots])
        )
        rows = torch.cat((aux, final), -1).to(torch.bfloat16)  # [B, 4 * hidden]
        greedy = logits.argmax(-1).tolist()
        top, ids = logits.topk(TOP_K, -1)
        sampled = ids.gather(1, top.softmax(-1).multinomial(1, generator=generator))[:, 0].tolist()
        for i, slot in enumerate(slots):
            slot.states.append(rows[i])
            if slot.forced:
                slot.tokens.append(slot.forced.pop(0))
            elif not slot.prompt_length:
                written = len(slot.tokens) - len(opening) - slot.given
                if sampled[i] == end and slot.given + written >= 3:
                    slot.forced, slot.prompt_length = answering[1:], len(slot.tokens) + len(answering)
                    slot.tokens.append(end)
                elif sampled[i] == end or written >= MAX_WRITTEN:
                    slots[i] = fresh()  # an empty or endless prompt is not one
                else:
                    slot.tokens.append(sampled[i])
            else:
                slot.tokens.append(greedy[i])
                if greedy[i] == end or len(slot.tokens) - slot.prompt_length >= MAX_ANSWER:
                    done.append(slot)
                    answer_tokens += len(slot.tokens) - slot.prompt_length
                    slots[i] = fresh()
        if sum(len(s.states) for s in done) >= SHARD_TOKENS:
            write_shard(args.output / f"shard-{args.seed:02d}-{shard:04d}.safetensors", done)
            done, shard = [], shard + 1
            print(f"{answer_tokens} answer tokens, {answer_tokens / (time.monotonic() - started):.0f}/s", flush=True)


def calibration_prompts(paths: list[Path]) -> list[str]:
    """The user's words of every prompt of the calibration split."""
    lines = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [line["messages"][-1]["content"] for line in lines if line["split"] == "calibration"]


def write_shard(path: Path, slots: list[Slot]) -> None:
    """Tokens of the last position have no state: each conversation keeps len(states) tokens plus the final one."""
    part = path.with_suffix(".part")
    save_file(
        {
            "token_ids": torch.tensor([t for s in slots for t in s.tokens], dtype=torch.int32),
            "lengths": torch.tensor([len(s.tokens) for s in slots]),
            "prompt_lengths": torch.tensor([s.prompt_length for s in slots]),
            "states": torch.cat([torch.stack([*s.states, torch.zeros_like(s.states[0])]) for s in slots]),
        },
        part,
    )
    part.rename(path)


if __name__ == "__main__":
    main()
