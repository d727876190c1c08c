"""One draft step in BF16 against the same step in FP8, timed on this machine's GPU, or on its CPU to see that it runs.

    python benchmarks/draft_step.py                        # the shape of Kimi-K2.5's draft
    python benchmarks/draft_step.py --scale 0.0625         # a sixteenth of each width, for a CPU

Random weights in the shape of lightseekorg/kimi-k2.5-eagle3, fused as vLLM fuses them: q, k and v in one product, gate
and up in another. Attention over a cache of the given length and the LM head are BF16 in both. On a GPU each step is
one graph, timed with device events; both arms take turns, and the median is printed. What is not in it: vLLM's fused
quantization kernels (here each token's scale is made by several small ones, inside the graph), sampling, and the
target. With the published k it is what `quark-eagle throughput --draft-step-ms` wants.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from quark_eagle.fp8 import quantize_per_channel
from quark_eagle.model.fp8_product import fp8_product, gpu_arch
from quark_eagle.model.linear import Linear

BATCHES = (1, 2, 4, 8, 16, 32, 64)
GRAPH_WARM_UPS = 3  # PyTorch's own recipe for capturing


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of a draft with one decoder layer and a head over the whole vocabulary; the defaults are Kimi-K2.5's."""

    hidden: int = 7168
    intermediate: int = 12288
    heads: int = 64
    head_dim: int = 128
    vocab: int = 163840
    num_aux: int = 3

    def scaled(self, scale: float) -> Shape:
        """Each width times ``scale``, rounded to whole heads and to multiples of 64."""

        def width(size: int) -> int:
            return max(64, round(size * scale / 64) * 64)

        return Shape(
            hidden=width(self.hidden),
            intermediate=width(self.intermediate),
            heads=max(1, round(self.heads * scale)),
            vocab=width(self.vocab),
        )

    @property
    def attention(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    def layers(self) -> dict[str, tuple[int, int]]:
        """[out, in] of the decoder layer's products: what FP8 makes smaller."""
        return {
            "qkv": (3 * self.attention, 2 * self.hidden),
            "o": (self.hidden, self.attention),
            "gate_up": (2 * self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The products of a draft step."""

    shape: Shape
    layers: dict[str, Linear]
    head: Linear
    fc: Linear

    @classmethod
    def random(cls, shape: Shape, device: torch.device) -> tuple[Draft, Draft]:
        """In BF16, and with the layer's products in FP8; head and fc are the same tensors."""
        generator = torch.Generator(device).manual_seed(0)

        def weight(rows: int, columns: int) -> Tensor:
            made = torch.randn(rows, columns, generator=generator, device=device, dtype=torch.bfloat16)
            return made * columns**-0.5

        weights = {name: weight(*size) for name, size in shape.layers().items()}
        shared = {
            "head": Linear(weight(shape.vocab, shape.hidden)),
            "fc": Linear(weight(shape.hidden, shape.num_aux * shape.hidden)),
        }
        quantized = {name: quantize_per_channel(it) for name, it in weights.items()}
        return (
            cls(shape=shape, layers={name: Linear(it) for name, it in weights.items()}, **shared),
            cls(shape=shape, layers={name: Linear(it.q, it.scale) for name, it in quantized.items()}, **shared),
        )

    def layer(self, embeds: Tensor, hidden: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The state [batch, hidden] that the head reads, for one token of each request.

        Args:
            embeds: [batch, hidden].
            hidden: likewise, of the step before.
            keys: [batch, heads, context, head_dim].
            values: as ``keys``.
        """
        shape, run = self.shape, self.layers
        q, k, v = run["qkv"](torch.cat((norm(embeds), norm(hidden)), dim=-1)).chunk(3, dim=-1)
        own = (len(hidden), shape.heads, 1, shape.head_dim)
        keys[:, :, -1:], values[:, :, -1:] = k.reshape(own), v.reshape(own)
        mixed = scaled_dot_product_attention(q.reshape(own), keys, values).reshape(len(hidden), shape.attention)
        residual = hidden + run["o"](mixed)
        gate, up = run["gate_up"](norm(residual)).chunk(2, dim=-1)
        return norm(residual + run["down"](silu(gate) * up))

    @property
    def step_bytes(self) -> int:
        """Of the weights that a step reads."""
        held = [*self.layers.values(), self.head]
        return sum(it.weight.nbytes + (0 if it.scale is None else it.scale.nbytes) for it in held)


def norm(x: Tensor) -> Tensor:
    return rms_norm(x, x.shape[-1:], eps=1e-6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Median milliseconds at one batch size."""

    batch: int
    bf16: float
    fp8: float
    head: float
    fc: float


def measure(drafts: tuple[Draft, Draft], batch: int, context: int, rounds: int, device: torch.device) -> Times:
    """Both steps, and their head and the round's fc alone."""
    bf16, fp8 = drafts
    shape = bf16.shape
    x, hidden, aux = (
        torch.randn(batch, width, device=device, dtype=torch.bfloat16)
        for width in (shape.hidden, shape.hidden, shape.num_aux * shape.hidden)
    )
    keys, values = torch.randn(2, batch, shape.heads, context, shape.head_dim, device=device, dtype=torch.bfloat16)
    work: list[Callable[[], object]] = [
        lambda: bf16.head.argmax(bf16.layer(x, hidden, keys, values)),
        lambda: fp8.head.argmax(fp8.layer(x, hidden, keys, values)),
        lambda: bf16.head.argmax(hidden),
        lambda: bf16.fc(aux),
    ]
    timed = [on_gpu(each) if device.type == "cuda" else on_cpu(each) for each in work]
    taken: list[list[float]] = [[] for _ in work]
    for number in range(rounds):
        order = range(len(work)) if number % 2 == 0 else reversed(range(len(work)))
        for place in order:
            taken[place].append(timed[place]())
    return Times(batch=batch, **dict(zip(("bf16", "fp8", "head", "fc"), map(statistics.median, taken), strict=True)))


def on_gpu(work: Callable[[], object], repeats: int = 20) -> Callable[[], float]:
    """Milliseconds of ``work`` as a graph, by device events around several replays."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(GRAPH_WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()

    def once() -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(repeats):
            graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / repeats

    return once


def on_cpu(work: Callable[[], object]) -> Callable[[], float]:
    """Milliseconds of ``work`` by the wall clock, after one run to warm it up."""
    work()

    def once() -> float:
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) * 1000

    return once


def table(found: Sequence[Times]) -> str:
    """One line for each batch size."""
    lines = ["batch   BF16 ms    FP8 ms   FP8/BF16   head ms   head's share (BF16, FP8)   fc ms, once a round"]
    lines += [
        f"{it.batch:5d}  {it.bf16:8.3f}  {it.fp8:8.3f}  {it.fp8 / it.bf16:9.3f}  {it.head:8.3f}"
        f"  {it.head / it.bf16:17.0%} {it.head / it.fp8:7.0%}  {it.fc:19.3f}"
        for it in found
    ]
    return "\n".join(lines)


def describe(drafts: tuple[Draft, Draft], device: torch.device) -> str:
    """What is timed, and where."""
    bf16, fp8 = drafts
    arch = gpu_arch(device)
    where = torch.cuda.get_device_name(device) if arch else f"CPU {torch.backends.cpu.get_cpu_capability()}"
    products = {fp8_product(arch, *size, torch.bfloat16).value for size in bf16.shape.layers().values()}
    lines = [
        f"{where} ({arch or platform.machine()}), torch {torch.__version__}, FP8 by {' and '.join(sorted(products))}",
        f"{bf16.shape}",
        f"weights of a step: {bf16.step_bytes / 1e6:,.0f} MB in BF16, {fp8.step_bytes / 1e6:,.0f} MB in FP8: "
        f"{fp8.step_bytes / bf16.step_bytes:.3f} of the time, were reading them all that takes time",
    ]
    if device.type == "cpu":
        lines.append("RUN ON A CPU: FP8 is emulated here. These times show that it runs, and mean nothing.")
    return "\n".join(lines)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of each width; 1 is Kimi's")
    parser.add_argument("--batch", default=",".join(map(str, BATCHES)), help="requests in a step, separated by commas")
    parser.add_argument("--context", type=int, default=1024, help="tokens in each request's cache")
    parser.add_argument("--rounds", type=int, default=15, help="of which the median is taken")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    told = parser.parse_args()
    device = torch.device(told.device)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    drafts = Draft.random(Shape().scaled(told.scale), device)
    print(describe(drafts, device), flush=True)
    batches = [int(batch) for batch in told.batch.split(",")]
    print(table([measure(drafts, batch, told.context, told.rounds, device) for batch in batches]))


if __name__ == "__main__":
    main()
