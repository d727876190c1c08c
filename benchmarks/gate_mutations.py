"""Which layer catches a silent fault? Known faults, one at a time, on a real FP8 draft over a real trace.

    python benchmarks/gate_mutations.py --trace TRACE --candidate FP8 [--baseline BF16] [--target TARGET]

`make demo` leaves both: ~/.cache/quark-eagle/demo/trace (64 prompts) and …/smollm2-135m-eagle3-fp8; the target, which
only "aux layers shifted by one" needs, is what examples/prepare_target.py prints. Each fault is written as a checkpoint
of its own (`draft_mutations.py`) and put before the three layers, each asked by itself:

* **verify**: `quark-eagle verify FP8`, which knows the engine's rules and not the source;
* **with source**: `verify FP8 --source BF16`, which compares every tensor;
* **gate**: the counts alone, at a margin of 1 %: the tripwire (collapse), the interval, or inconclusive.

A fault of the engine leaves the files as they are, so only the gate can see it: its column is what would be left. The
last rows change the trace, as a target that delivers other states does. Both drafts suffer alike; parity cannot show
it, and `--expect-baseline` with the τ of the sound trace does. Exits with 1 if the good draft does not pass, or a fault
passes that no layer caught and whose loss is not shown to be inside the margin.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from draft_mutations import MUTATIONS
from safetensors.torch import load_file, save_file

from quark_eagle.checkpoint.manifest import digest
from quark_eagle.deploy.verify import verify
from quark_eagle.documents.baseline import BaselineReport
from quark_eagle.documents.parity import ParityReport
from quark_eagle.opening import open_comparison
from quark_eagle.parity.verdict import Judgement, Rules, judge
from quark_eagle.trace.target_trace import TRACE_NAME, TargetTrace, TracedPrompt

REPOSITORY = Path(__file__).resolve().parents[1]
LAYER_OF = {"collapse": "tripwire", "interval": "interval", "unexpected baseline": "expected baseline"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault and what each layer says of it; None where a layer was not asked.

    ``expecting`` is the judgement by rules that know the τ which the baseline has on a sound trace.
    """

    name: str
    judgement: Judgement
    expecting: Judgement | None = None
    verified: bool | None = None
    verified_with_source: bool | None = None

    @property
    def gate(self) -> str:
        """What the counts alone say."""
        return layer_of(self.judgement)

    @property
    def caught_by(self) -> str:
        """The first layer that stops it."""
        if self.verified is False:
            return "verify"
        if self.verified_with_source is False:
            return "verify --source"
        last = self.gate if self.expecting is None else layer_of(self.expecting)
        return "none" if last == "pass" else last

    def line(self) -> str:
        """As the table has it."""
        found = self.judgement.difference
        assert found is not None
        ends = "" if found.interval is None else f"{found.interval.low:+8.2%} … {found.interval.high:+8.2%}"
        answers = [{True: "ok", False: "broken", None: "–"}[it] for it in (self.verified, self.verified_with_source)]
        measured = f"{found.baseline_mean_acceptance_length:6.3f} {found.candidate_mean_acceptance_length:6.3f}"
        said = f"{answers[0]:7} {answers[1]:11} {self.gate:18} {self.caught_by}"
        return f"{self.name:44} {measured} {found.estimate:+8.2%} {ends:20}  {said}"


def layer_of(found: Judgement) -> str:
    """What in the gate stopped it, or its outcome if nothing did."""
    return LAYER_OF.get(found.rule, found.rule) if found.outcome in ("fail", "unusable") else found.outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The good pair, its trace, and the rules."""

    baseline: Path
    candidate: Path
    trace: Path
    num_speculative_tokens: int
    rules: Rules
    only: str

    def measure(self, baseline: Path, candidate: Path, trace: Path) -> ParityReport:
        """The walk's counts; ``baseline`` is a draft, or the file of its counts."""
        k = self.num_speculative_tokens
        return open_comparison(baseline, candidate, trace, num_speculative_tokens=k, walk_only=True).run()

    def row(self, name: str, candidate: Path, report: ParityReport) -> Row:
        """Of a checkpoint that was measured."""
        return Row(
            name=name,
            judgement=judge(report, self.rules),
            verified=verify(candidate).ok,
            verified_with_source=verify(candidate, self.baseline).ok,
        )

    def rows(self, target: Path | None, directory: Path) -> Iterator[Row]:
        """The good draft, every fault of a draft, and those of a target."""
        good = self.measure(self.baseline, self.candidate, self.trace)
        yield self.row("none: the draft as it was quantized", self.candidate, good)
        stored = directory / "baseline.json"  # replayed once: only the candidate has the fault
        stored.write_text(BaselineReport.of(good).to_json(), encoding="utf-8")
        for mutation in MUTATIONS:
            if self.only not in mutation.name:
                continue
            faulty = mutation.write(self.candidate, directory / "draft")
            yield self.row(mutation.name, faulty, self.measure(stored, faulty, self.trace))
            shutil.rmtree(faulty)
        expecting = replace(self.rules, expected_baseline=good.summary.overall.walk.baseline.mean_acceptance_length)
        for name, states in self._faulty_states(target):
            trace = with_states(self.trace, directory / "trace", states)
            report = self.measure(self.baseline, self.candidate, trace)
            yield Row(name=name, judgement=judge(report, self.rules), expecting=judge(report, expecting))
            shutil.rmtree(trace)

    def _faulty_states(self, target: Path | None) -> Iterator[tuple[str, Callable[[TracedPrompt], torch.Tensor]]]:
        yield "target: states of the token before", lambda prompt: _aux(prompt).roll(1, 0)
        if target is not None:
            yield "target: aux layers shifted by one", shifted_by_a_layer(target, self.baseline)


def shifted_by_a_layer(target: Path, draft: Path) -> Callable[[TracedPrompt], torch.Tensor]:
    """The states that the target has one layer later, on the recorded path."""
    from served_agreement import load_target

    loaded = load_target(target, draft, "bfloat16")
    layers = [layer + 1 for layer in loaded.id.aux_layer_ids]

    @torch.inference_mode()
    def states(prompt: TracedPrompt) -> torch.Tensor:
        path = prompt.token_ids[None, :-1]
        output = loaded.model(input_ids=path, output_hidden_states=True, logits_to_keep=1, use_cache=False)
        return torch.cat([output.hidden_states[layer][0] for layer in layers], dim=-1)

    return states


def with_states(trace: Path, directory: Path, change: Callable[[TracedPrompt], torch.Tensor]) -> Path:
    """A copy of a trace whose prompts have other states, with the hashes that belong to them."""
    opened = TargetTrace.open(trace)
    shutil.copytree(trace, directory)
    shards = []
    for shard in opened.document.shards:
        tensors = load_file(trace / shard.file)
        for place, info in enumerate(opened.prompts):
            if info.shard == shard.file:
                rows = slice(info.first_row, info.first_row + info.num_tokens - 1)
                tensors["states"][rows] = change(opened.prompt(place)).to(tensors["states"].dtype)
        save_file(tensors, directory / shard.file)
        found = digest(directory / shard.file)
        shards.append(replace(shard, size_bytes=found.size_bytes, sha256=found.sha256))
    document = replace(opened.document, shards=tuple(shards))
    (directory / TRACE_NAME).write_bytes(document.to_bytes())
    return directory


def _aux(prompt: TracedPrompt) -> torch.Tensor:
    if prompt.aux_hidden_states is None:
        raise SystemExit("A projected trace has no aux states to change. Record one without --project.")
    return prompt.aux_hidden_states


def inside(row: Row, margin: float) -> bool:
    """Whether its loss is shown to be smaller than the margin, by both methods."""
    found = row.judgement.difference
    both = () if found is None else (found.interval, found.second_interval)
    return bool(both) and all(interval is not None and interval.low > -margin for interval in both)


def main() -> int:
    cache = Path.home() / ".cache" / "quark-eagle" / "demo"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, default=cache / "trace")
    parser.add_argument("--baseline", type=Path, default=REPOSITORY / "examples" / "smollm2-135m-eagle3")
    parser.add_argument("--candidate", type=Path, default=cache / "smollm2-135m-eagle3-fp8")
    parser.add_argument("--target", type=Path, help="directory of the target, for the states one layer on")
    parser.add_argument("--margin", type=float, default=0.01)
    parser.add_argument("-k", "--num-speculative-tokens", type=int, default=3)
    parser.add_argument("--only", default="", help="of the draft's faults, those whose name holds this")
    arguments = parser.parse_args()
    bench = Bench(
        baseline=arguments.baseline,
        candidate=arguments.candidate,
        trace=arguments.trace,
        num_speculative_tokens=arguments.num_speculative_tokens,
        rules=Rules(margin=arguments.margin),
        only=arguments.only,
    )
    print(f"{'':44} {'τ':>9} {'':4} {'change':>8} {'90 % interval':20}  each layer by itself{'':19} caught by")
    print(f"{'fault':44} {'bf16':>6} {'fp8':>6} {'of τ':>8} {'':20}  {'verify':7} {'with source':11} {'gate':18}")
    with tempfile.TemporaryDirectory() as directory:
        found = []
        for row in bench.rows(arguments.target, Path(directory)):
            found.append(row)
            print(row.line(), flush=True)
    good, *faulty = found
    passing = [row for row in faulty if row.gate == "pass"]
    print(f"\nThe good draft {'passes' if good.caught_by == 'none' else 'DOES NOT PASS'}.")
    print(
        f"Of {len(faulty)} faults the counts alone pass {len(passing)}, as the drafts differ by less than the margin:"
    )
    for row in passing:
        assert row.judgement.difference is not None
        print(f"  {row.name} ({row.judgement.difference.estimate:+.2%}); caught by: {row.caught_by}")
    silent = [row.name for row in passing if row.caught_by == "none" and not inside(row, arguments.margin)]
    return 0 if good.caught_by == "none" and not silent else 1


if __name__ == "__main__":
    raise SystemExit(main())
