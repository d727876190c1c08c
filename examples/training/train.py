"""Train the demo draft on the target's own answers with EAGLE-3's training-time test, on the CPU.

The draft starts from the target: its layer from the target's last one, its head and norm from the target's, its `fc`
from the identity on the last aux state. Each step of the training-time test (arXiv 2503.01840) feeds the draft its
own output of the step before, with the attention that replay and an engine use
(`quark_eagle.model.chain.Chain`). The loss is the mean of two cross-entropies over the draft's
vocabulary: to the target's distribution and to its argmax.

    python train.py --target DIR --shards SHARDS --output DRAFT --minutes 60

With `--start DRAFT` training goes on from a trained draft, whose vocabulary stays.
"""

import argparse
import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import linear, log_softmax, softmax
from transformers import AutoTokenizer

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.model.chain import Chain, Past
from quark_eagle.model.eagle3 import Eagle3Draft

LAYER_LINEARS = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
STEPS = 3
STEP_WEIGHTS = (1.0, 0.8, 0.64)
DRAFT_VOCAB = 8192
BATCH_TOKENS = 1200
ONE_STEP_SHARE = (
    0.3  # of the time goes to the first step alone: three times the tokens, before chains are worth teaching
)


class Conversations:
    """Recorded conversations: tokens [n], states [n, 3 * hidden] and the target's final normed states [n, hidden]."""

    def __init__(self, shards: Path, hidden: int) -> None:
        self.items: list[tuple[Tensor, int, Tensor]] = []
        for path in sorted(shards.glob("*.safetensors")):
            data = load_file(path)
            lengths = data["lengths"].tolist()
            tokens, states = data["token_ids"].long().split(lengths), data["states"].split(lengths)
            self.items += list(zip(tokens, data["prompt_lengths"].tolist(), states, strict=True))
        self.hidden = hidden

    def drop_prompts_like(self, tokenizer: AutoTokenizer, parity: list[str]) -> int:
        """Leave out conversations whose prompt shares an 8-gram of words with a parity prompt; how many were."""
        seen = {gram for text in parity for gram in eight_grams(text)}
        before = len(self.items)
        self.items = [
            item
            for item in self.items
            if not seen & eight_grams(tokenizer.decode(item[0][: item[1]], skip_special_tokens=True))
        ]
        return before - len(self.items)

    def write_prompts(self, tokenizer: AutoTokenizer, path: Path) -> None:
        """What the target was asked, one JSON line for each conversation, so that anyone can look for overlap."""
        with path.open("w", encoding="utf-8") as file:
            for tokens, prompt, _ in self.items:
                text = tokenizer.decode(tokens[:prompt]).split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
                file.write(json.dumps({"prompt": text}, ensure_ascii=False) + "\n")

    def batches(self, items: list[int], generator: torch.Generator) -> Iterator[list[int]]:
        """Indices in batches of similar length and about BATCH_TOKENS tokens, in random order."""
        shuffled = [items[i] for i in torch.randperm(len(items), generator=generator)]
        chunks = [sorted(shuffled[i : i + 512], key=lambda j: len(self.items[j][0])) for i in range(0, len(items), 512)]
        batches: list[list[int]] = []
        for chunk in chunks:
            batch: list[int] = []
            for j in chunk:
                if batch and (len(batch) + 1) * len(self.items[j][0]) > BATCH_TOKENS:
                    batches.append(batch)
                    batch = []
                batch.append(j)
            batches.append(batch)
        for i in torch.randperm(len(batches), generator=generator):
            yield batches[i]

    def padded(self, batch: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens [B, n] padded with 0, prompt lengths and lengths [B, 2], states [B, n, 4 * hidden] float32)."""
        longest = max(len(self.items[j][0]) for j in batch)
        tokens = torch.zeros(len(batch), longest, dtype=torch.long)
        states = torch.zeros(len(batch), longest, 4 * self.hidden)
        for b, j in enumerate(batch):
            ids, _, recorded = self.items[j]
            tokens[b, : len(ids)], states[b, : len(ids)] = ids, recorded.float()
        return tokens, torch.tensor([(self.items[j][1], len(self.items[j][0])) for j in batch]), states


def eight_grams(text: str) -> set[tuple[str, ...]]:
    """Runs of eight words, lower case."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}


def steps_loss(
    draft: Eagle3Draft, target: dict[str, Tensor], batch: tuple[Tensor, Tensor, Tensor], steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """(loss, hits [steps + 1]): hits counts starts, then those whose first 1, 2, … proposals are recorded tokens."""
    tokens, bounds, states = batch
    hidden_size = draft.geometry.hidden_size
    aux, final = states[..., : 3 * hidden_size], states[..., 3 * hidden_size :]
    n = tokens.shape[1]
    rows = torch.arange(n - 2)  # row t sees token t + 1, proposes token t + 2
    hidden, loss = draft.combine(aux[:, : n - 2]), torch.zeros(())
    prompt, length = bounds[:, :1], bounds[:, 1:]
    chain = (rows >= prompt - 1) & (rows + 2 < length)  # [B, n - 2]: step 1 proposes a recorded answer token
    hits = [chain.sum()]
    past = Past.of(draft, target["embed"][tokens[:, rows + 1]], hidden)
    rounds = Chain(draft, [(past, rows)])
    alive = chain
    for step in range(steps):
        ahead = (rows + 1 + step).clamp(max=n - 1)
        hidden, normed = rounds.step(target["embed"][tokens[:, ahead]], hidden)
        scored = chain & (rows + 2 + step < length)
        wanted = tokens[:, (rows + 2 + step).clamp(max=n - 1)][scored]
        known = target["t2d"][wanted]
        logits = linear(normed[scored], draft.weights["lm_head.weight"])  # [M, draft vocab]
        with torch.no_grad():
            truth = softmax(linear(final[:, ahead][scored], target["head"]), dim=-1)
            best = logits.argmax(-1)
            right = torch.zeros_like(scored)
            right[scored] = target["d2t"][best] + best == wanted
            alive = alive & right
            hits.append(alive.sum())
        log_probs = log_softmax(logits, dim=-1)
        soft = -(truth * log_probs).sum(-1)
        hard = -log_probs.gather(-1, target["draft_id"][wanted][:, None])[:, 0]
        loss = loss + STEP_WEIGHTS[step] * (0.5 * (soft + hard))[known].mean()
    return loss, torch.stack(hits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a trained draft to go on from")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--exclude-prompts", type=Path, nargs="*", default=[], help="JSONL: prompts like these are left out"
    )
    train(parser.parse_args())


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    config = json.loads((args.target / "config.json").read_text())
    conversations = Conversations(args.shards, config["hidden_size"])
    tokenizer = AutoTokenizer.from_pretrained(args.target)
    excluded = [
        message["content"]
        for path in args.exclude_prompts
        for line in map(json.loads, path.read_text().splitlines())
        if line.get("split") != "calibration"  # training may begin with those, acceptance is measured on the others
        for message in line["messages"]
    ]
    print(f"{conversations.drop_prompts_like(tokenizer, excluded)} conversations left out for an 8-gram", flush=True)
    conversations.write_prompts(tokenizer, Path(__file__).parent / "prompts.jsonl")
    target = start_from_target(args, config, conversations)
    checkpoint = Checkpoint.open(args.output)
    layout = Eagle3Layout.of(checkpoint)
    start = Eagle3Draft.load(checkpoint, layout, {"embed_tokens.weight": target["embed"]}, dtype=torch.float32)
    trainable = {
        name: torch.nn.Parameter(tensor.float())
        for name, tensor in start.weights.items()
        if tensor.dtype == torch.bfloat16 and name != "embed_tokens.weight"
    }
    draft = Eagle3Draft(layout.geometry, layout.flags, start.weights | trainable, torch.float32)
    held_out = list(range(0, len(conversations.items), 50))  # by the shards' order: new shards are added behind
    train_items = sorted(set(range(len(conversations.items))) - set(held_out))
    fit(draft, trainable, target, conversations, train_items, held_out, args)


def fit(draft, trainable, target, conversations, train_items, held_out, args) -> None:
    optimizer = torch.optim.AdamW(trainable.values(), lr=args.rate, betas=(0.9, 0.95), weight_decay=0.01)
    generator = torch.Generator().manual_seed(args.seed)
    started, step, seen, epoch = time.monotonic(), 0, 0, 0
    running = torch.zeros(STEPS + 1)
    while (elapsed := time.monotonic() - started) < 60 * args.minutes:
        epoch += 1
        for batch in conversations.batches(train_items, generator):
            elapsed = time.monotonic() - started
            share = elapsed / (60 * args.minutes)
            if share >= 1:
                break
            rate = args.rate * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            steps = 1 if share < ONE_STEP_SHARE and args.start is None else STEPS
            loss, hits = steps_loss(draft, target, conversations.padded(batch), steps)
            hits = torch.nn.functional.pad(hits, (0, STEPS + 1 - len(hits)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable.values(), 0.5)
            optimizer.step()
            step, seen, running = step + 1, seen + int(hits[0]), 0.98 * running + hits
            if step % 25 == 0:
                rates = (running[1:] / running[0]).tolist()
                print(
                    f"{elapsed / 60:5.1f} min, epoch {epoch}, step {step}, {seen / elapsed:.0f} tokens/s, "
                    f"loss {loss:.3f},"
                    f" marginal {' '.join(f'{r:.3f}' for r in rates)}  tau {1 + sum(rates):.3f}",
                    flush=True,
                )
            if step % 300 == 0:
                report(draft, target, conversations, held_out)
                export(args.output, trainable)
    report(draft, target, conversations, held_out)
    export(args.output, trainable)


@torch.no_grad()
def report(draft, target, conversations, held_out) -> None:
    """Acceptance at every start of held-out conversations."""
    hits = torch.zeros(STEPS + 1)
    for i in range(0, len(held_out), 12):
        hits += steps_loss(draft, target, conversations.padded(held_out[i : i + 12]))[1]
    rates = (hits[1:] / hits[0]).tolist()
    print(
        f"held out: {int(hits[0])} starts, marginal {' '.join(f'{r:.3f}' for r in rates)}, tau {1 + sum(rates):.3f}",
        flush=True,
    )


def start_from_target(args: argparse.Namespace, config: dict, conversations: Conversations) -> dict[str, Tensor]:
    """Write the untrained draft to --output; what training needs of the target."""
    with safe_open(args.target / "model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    embed, last = weights["model.embed_tokens.weight"].float(), f"model.layers.{config['num_hidden_layers'] - 1}."
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    counts = torch.zeros(vocab, dtype=torch.long)
    for tokens, prompt, _ in conversations.items:
        counts += torch.bincount(tokens[prompt:], minlength=vocab)
    kept = counts.argsort(descending=True, stable=True)[:DRAFT_VOCAB].sort().values
    if args.start is not None:
        kept = load_file(args.start / "model.safetensors")["t2d"].nonzero()[:, 0]
    print(
        f"{len(conversations.items)} conversations, {int(counts.sum())} answer tokens, "
        f"{counts[kept].sum() / counts.sum():.4f} in the draft vocabulary",
        flush=True,
    )
    t2d = torch.zeros(vocab, dtype=torch.bool)
    t2d[kept] = True
    d2t = kept - torch.arange(DRAFT_VOCAB)
    draft = {"d2t": d2t, "t2d": t2d, "lm_head.weight": embed[kept], "norm.weight": weights["model.norm.weight"]}
    draft["fc.weight"] = torch.cat([0.01 * torch.randn(hidden, 2 * hidden) / hidden**0.5, torch.eye(hidden)], dim=1)
    for name in LAYER_LINEARS:
        weight = weights[f"{last}{name}.weight"].float()
        if name[-6] in "qkv" and name.startswith("self_attn"):
            weight = torch.cat([0.3 * weight.std() * torch.randn_like(weight), weight], dim=1)
        draft[f"midlayer.{name}.weight"] = weight
    draft["midlayer.hidden_norm.weight"] = weights[f"{last}input_layernorm.weight"]
    draft["midlayer.input_layernorm.weight"] = torch.full((hidden,), 1.0)
    draft["midlayer.post_attention_layernorm.weight"] = weights[f"{last}post_attention_layernorm.weight"]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "config.json").write_text(json.dumps(draft_config(config), indent=2) + "\n")
    save(args.output, draft if args.start is None else load_file(args.start / "model.safetensors"))
    draft_id = torch.zeros(vocab, dtype=torch.long)
    draft_id[kept] = torch.arange(DRAFT_VOCAB)
    return {"embed": embed, "head": embed[kept], "t2d": t2d, "d2t": d2t, "draft_id": draft_id}


def draft_config(target: dict) -> dict:
    """The draft's config.json: the target's geometry, one layer, a pruned vocabulary."""
    same = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act",
            "max_position_embeddings", "vocab_size", "rms_norm_eps", "attention_bias", "mlp_bias", "bos_token_id",
            "eos_token_id")  # fmt: skip
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        **{key: target[key] for key in same if key in target},
        "rope_theta": target["rope_parameters"]["rope_theta"],
        "num_hidden_layers": 1,
        "draft_vocab_size": DRAFT_VOCAB,
        "target_hidden_size": target["hidden_size"],
        "eagle_aux_hidden_state_layer_ids": [2, target["num_hidden_layers"] // 2, target["num_hidden_layers"] - 3],
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def export(output: Path, trainable: dict[str, Tensor]) -> None:
    """The trained weights in BF16 under their names on disk, replacing the file at once."""
    current = load_file(output / "model.safetensors")
    save(
        output,
        {
            name: trainable.get(name.replace("midlayer.", "layers.0."), tensor).detach()
            for name, tensor in current.items()
        },
    )


def save(output: Path, tensors: dict[str, Tensor]) -> None:
    typed = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
    part = output / "model.safetensors.part"
    save_file({name: tensor.contiguous() for name, tensor in typed.items()}, part, metadata={"format": "pt"})
    part.rename(output / "model.safetensors")


if __name__ == "__main__":
    main()
