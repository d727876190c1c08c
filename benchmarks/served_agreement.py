"""Does replay find what a server does? The same drafts served by real vLLM and replayed over the paths that vLLM took.

    python benchmarks/served_agreement.py --target TARGET [--draft DRAFT] [--num-prompts 64] [--max-tokens 64]

(a) Everything in float32: the sequence of accepted lengths is equal, round by round, on every prompt.
(b) In bfloat16, where results depend on a batch's shape: accepted tokens and rounds of the BF16 and of the FP8
    draft, each replayed over its own served path, differ by at most the larger of 1 % and what serving differs from
    itself when the same prompts arrive in another order (A/A, same engine, same session).

Exits with 1 if a bar is missed. On a CPU without BF16 matrix instructions vLLM serves bfloat16 at a few tokens per
second: `--dtypes float32` leaves (b) out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from serve_vllm import Job, Run, serve

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.documents.anchor import relative
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.model.linear import Linear
from quark_eagle.parity.acceptance import walk
from quark_eagle.parity.replay import replay
from quark_eagle.trace.fit import default_aux_layer_ids
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.target_trace import TracedPrompt
from quark_eagle.trace.trace_document import Sampling, TracedPromptInfo
from quark_eagle.trace.transformers_target import TransformersTarget, identify

REPOSITORY = Path(__file__).resolve().parent.parent
FLOOR = 0.01  # the bar of (b): 1 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One arm in one dtype: served, served again in another order, and replayed over the first path."""

    arm: str
    dtype: str
    served: Run
    again: Run
    replayed: list[list[int]]

    @property
    def num_rounds(self) -> int:
        """Rounds of the replayed walk."""
        return sum(map(len, self.replayed))

    @property
    def num_accepted(self) -> int:
        """Tokens accepted by the replayed walk."""
        return sum(map(sum, self.replayed))

    @property
    def identical(self) -> int:
        """Prompts whose rounds are equal one by one."""
        return sum(a == b for a, b in zip(self.served.accepted, self.replayed, strict=True))

    @property
    def difference(self) -> float:
        """The larger relative difference, of accepted tokens and of rounds."""
        return max(
            relative(self.num_accepted, self.served.num_accepted), relative(self.num_rounds, self.served.num_rounds)
        )

    @property
    def noise(self) -> float:
        """A/A: the same difference between the two served runs, per emitted token as their answers may differ."""
        first, second = (rates(run) for run in (self.served, self.again))
        return max(relative(b, a) for a, b in zip(first, second, strict=True))

    @property
    def bar(self) -> float:
        """The largest difference that is still agreement."""
        return 0.0 if self.dtype == "float32" else max(FLOOR, self.noise)

    @property
    def holds(self) -> bool:
        """Whether it agrees."""
        if self.dtype == "float32":
            return self.identical == len(self.replayed)
        return self.difference <= self.bar


def rates(run: Run) -> tuple[float, float]:
    """(accepted, rounds) per token emitted after the first."""
    emitted = max(1, run.num_accepted + run.num_rounds)
    return run.num_accepted / emitted, run.num_rounds / emitted


def load_target(directory: Path, draft: Path, dtype: str) -> TransformersTarget:
    """The target as transformers runs it; in bfloat16 its products are summed in float32, as hardware does."""
    geometry = Eagle3Layout.of(Checkpoint.open(draft)).geometry
    identity = identify(
        directory,
        str(directory),
        lambda n: geometry.aux_layer_ids or default_aux_layer_ids(n),
        dtype=dtype,
        device="cpu",
    )
    target = TransformersTarget.load(directory, identity)
    for module in target.model.modules():
        if isinstance(module, torch.nn.Linear) and dtype == "bfloat16":
            exact = Linear(module.weight.detach(), bias=None if module.bias is None else module.bias.detach())
            module.forward = lambda x, exact=exact: exact(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
    return target


@torch.inference_mode()
def trace_path(target: TransformersTarget, prompt: list[int], answer: list[int], place: int) -> TracedPrompt:
    """The target's states along a given path: one causal pass over prompt and answer."""
    token_ids = torch.tensor(prompt + answer)
    output = target.model(input_ids=token_ids[None, :-1], output_hidden_states=True, logits_to_keep=1, use_cache=False)
    states = torch.cat([output.hidden_states[i][0] for i in target.id.aux_layer_ids], dim=-1)  # [n - 1, aux * hidden]
    info = TracedPromptInfo(
        id=str(place),
        category="served",
        split="parity",
        sha256="",
        num_tokens=len(token_ids),
        prompt_length=len(prompt),
        stop_reason="length",
        shard="",
        first_token=0,
        first_generated=0,
        first_row=0,
    )
    unknown = torch.zeros(len(answer))
    return TracedPrompt(
        info=info, token_ids=token_ids, aux_hidden_states=states, projected=None, log_probs=unknown, top2_margin=unknown
    )


def replay_served(
    target: TransformersTarget, draft: Path, prompts: list[list[int]], run: Run, k: int
) -> list[list[int]]:
    """Accepted lengths of every round, prompt by prompt, by replay over the path that was served."""
    checkpoint = Checkpoint.open(draft)
    everything = torch.arange(target.id.vocab_size)
    rows = {"embed_ids": everything, "embed_rows": target.embedding_rows(everything), "lm_head.weight": target.head()}
    dtype = getattr(torch, target.id.dtype)
    model = Eagle3Draft.load(checkpoint, Eagle3Layout.of(checkpoint), rows, dtype)
    paths = enumerate(zip(prompts, run.answers, strict=True))
    traced = (trace_path(target, prompt, answer, place) for place, (prompt, answer) in paths)
    return [[accepted for _, accepted in walk(replay(model, path, k).matched, k)] for path in traced]


def measure(arguments: argparse.Namespace, fp8: Path) -> Iterator[Agreement]:
    """Every arm in every dtype, as it is done; vLLM runs an FP8 draft in bfloat16 only."""
    prompt_set = PromptSet.load(arguments.prompts, "parity").limited(arguments.num_prompts)
    for dtype in arguments.dtypes.split(","):
        target = load_target(arguments.target, arguments.draft, dtype)
        requests = target.encode(list(prompt_set), Sampling(max_tokens=arguments.max_tokens))
        prompts = [list(request.token_ids) for request in requests]
        arms = [("bf16", arguments.draft)] + ([("fp8", fp8)] if dtype == "bfloat16" else [])
        for arm, draft in arms:
            job = Job(
                target=str(arguments.target),
                draft=str(draft),
                dtype=dtype,
                num_speculative_tokens=arguments.num_speculative_tokens,
                max_tokens=arguments.max_tokens,
                max_num_seqs=arguments.max_num_seqs,
                prompts=prompts,
                # float32 has to agree in every round: how serving differs from itself makes no bar there.
                orders=["forward", "reversed"] if dtype == "bfloat16" else ["forward"],
            )
            served, *others = serve(job, arguments.threads)
            again = others[0] if others else served
            started = time.perf_counter()
            replayed = replay_served(target, draft, prompts, served, arguments.num_speculative_tokens)
            print(
                f"{arm} draft in {dtype}: served in {served.seconds:.0f} s and {again.seconds:.0f} s, "
                f"target pass and replay {time.perf_counter() - started:.0f} s",
                file=sys.stderr,
            )
            yield Agreement(arm=arm, dtype=dtype, served=served, again=again, replayed=replayed)


def row(found: Agreement) -> str:
    served, again, total = found.served, found.again, len(found.replayed)
    tau = 1 + served.num_accepted / max(1, served.num_rounds)
    return (
        f"{found.dtype:9} {found.arm:5} {served.num_rounds:7} {found.num_rounds:9} {served.num_accepted:9} "
        f"{found.num_accepted:9} {tau:6.4f} {1 + found.num_accepted / max(1, found.num_rounds):9.4f} "
        f"{found.identical:4}/{total:<4} {found.difference:8.2%} {found.noise:7.2%} {found.bar:7.2%}  "
        f"{again.num_rounds}/{again.num_accepted}  {'holds' if found.holds else 'MISSED'}"
    )


def quantized(draft: Path, directory: Path) -> Path:
    """The draft in FP8, by the command line of this package."""
    output = directory / "draft-fp8"
    command = [sys.executable, "-m", "quark_eagle", "quantize", str(draft), "--output", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output


def main() -> int:
    """Serve, replay, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--target", type=Path, required=True, help="directory of the target (examples/prepare_target.py)"
    )
    parser.add_argument("--draft", type=Path, default=REPOSITORY / "examples" / "smollm2-135m-eagle3")
    parser.add_argument("--fp8", type=Path, help="its FP8 checkpoint; made with `quark-eagle quantize` if not given")
    parser.add_argument("--prompts", type=Path, help="JSON Lines; the packaged parity split if not given")
    parser.add_argument("--num-prompts", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--max-num-seqs", type=int, default=16, help="requests that vLLM runs at a time")
    parser.add_argument("-k", "--num-speculative-tokens", type=int, default=3)
    parser.add_argument("--dtypes", default="float32,bfloat16", help="of everything, comma-separated")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, help="write the accepted lengths of every round as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as directory:
        needs_fp8 = "bfloat16" in arguments.dtypes and arguments.fp8 is None
        fp8 = quantized(arguments.draft, Path(directory)) if needs_fp8 else arguments.fp8
        print(
            f"\n{arguments.num_prompts} prompts, at most {arguments.max_tokens} tokens, greedy, "
            f"k = {arguments.num_speculative_tokens}; served | replayed"
        )
        print(
            "dtype     draft  rounds            accepted              τ              equal     differ     A/A     bar  "
            "again     bar"
        )
        found = []
        for agreement in measure(arguments, fp8):
            found.append(agreement)
            print(row(agreement), flush=True)
    if arguments.output:
        content = [{"dtype": a.dtype, "arm": a.arm, "served": a.served.accepted, "replayed": a.replayed} for a in found]
        arguments.output.write_text(json.dumps(content))
    return 0 if all(agreement.holds for agreement in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
