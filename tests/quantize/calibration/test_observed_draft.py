"""What is observed is what a served draft computes, found again by a loop over single rows."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.quantize.calibration.observed_draft import ObservedDraft
from quark_eagle.quantize.exclude import module_of
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.trace.target_trace import TargetTrace, TracedPrompt
from tests.naive_draft import NaiveDraft
from tests.quantize.calibration.calibration_trace import write_calibration_trace
from tests.tiny import write_tiny_draft

K = 3


class Watching(NaiveDraft):
    """Keeps what enters each linear, row by row."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: dict[str, list[torch.Tensor]] = defaultdict(list)

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        self.seen[name].append(x)
        return super()._linear(name, x)

    def run(self, traced: TracedPrompt) -> None:
        """Step 1 at every row; then, from every start, the draft's own proposals."""
        assert traced.aux_hidden_states is not None
        tokens, n = traced.token_ids.tolist(), len(traced.token_ids)
        cache: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(self.num_layers)]
        after = [
            self.row(self._combined(traced.aux_hidden_states[t].double()), tokens[t + 1], t, cache)
            for t in range(n - 1)
        ]
        self._keep(cache, 0)
        for row in range(traced.info.prompt_length - 1, n - 2):
            own = [layer[: row + 1] for layer in cache]
            state, normed = after[row]
            for step in range(1, K):
                state, normed = self.row(state, self._token(normed), row + step, own)
            self._keep(own, row + 1)

    def _keep(self, cache: list[list[tuple[torch.Tensor, torch.Tensor]]], first: int) -> None:
        for index, layer in enumerate(cache):
            for keys, values in layer[first:]:
                self.seen[f"layers.{index}.self_attn.keys"].append(keys.flatten())
                self.seen[f"layers.{index}.self_attn.values"].append(values.flatten())


def opened(directory: Path, draft: Path, **options: Any) -> tuple[ObservedDraft, TargetTrace]:
    """A draft in float32, ready to be observed, fc included, and a trace for it."""
    trace = TargetTrace.open(write_calibration_trace(directory / "trace", draft, num_prompts=2, num_generated=8))
    checkpoint = Checkpoint.open(draft)
    layout = Eagle3Layout.of(checkpoint)
    plan = QuantPlan.of(layout, quantize_fc=True)
    loaded = Eagle3Draft.load(checkpoint, layout, trace.rows.weights, torch.float32)
    linears = [module_of(layout.slots[name].canonical) for name in plan.quantized]
    return ObservedDraft(loaded, linears, K), trace


@pytest.mark.parametrize("num_layers", [1, 2])
def test_what_is_observed_is_what_a_loop_over_rows_computes(tmp_path: Path, num_layers: int) -> None:
    draft = write_tiny_draft(tmp_path / "draft", num_layers=num_layers)
    module, trace = opened(tmp_path, draft)
    config = json.loads((draft / "config.json").read_text())
    embed = torch.zeros(config["vocab_size"], config["hidden_size"])
    embed[module.draft.weights["embed_ids"]] = module.draft.weights["embed_rows"].float()
    naive = Watching(module.draft.weights, config, embed)
    for traced in trace:
        module(traced)
        naive.run(traced)
    for name, magnitudes in module.magnitudes.items():
        expected = torch.stack(naive.seen[name]).abs().flatten().sort().values
        assert magnitudes.num_values == len(expected), name
        for percent in (25, 50, 90, 99, 100):
            # To the rounding of bfloat16, in which magnitudes are counted.
            found = magnitudes.percentile(percent)
            wanted = expected[-(-len(expected) * percent // 100) - 1].item()
            assert found == pytest.approx(wanted, rel=2**-7), (name, percent)


def test_step_1_runs_every_row_and_later_steps_every_start(tmp_path: Path, tiny_draft: Path) -> None:
    module, trace = opened(tmp_path, tiny_draft)
    for traced in trace:
        module(traced)
    rows = sum(info.num_tokens - 1 for info in trace.prompts)
    starts = sum(info.num_generated - 1 for info in trace.prompts)
    assert module.tally.rows == [rows, starts, starts]
    assert (module.tally.own, module.tally.recorded, module.tally.ended) == (2 * starts, 0, 0)


def test_the_recorded_token_stands_in_for_a_proposal_without_embedding(tmp_path: Path, tiny_draft: Path) -> None:
    module, trace = opened(tmp_path, tiny_draft)
    whole = Eagle3Draft.embed
    held = torch.cat([traced.token_ids for traced in trace]).unique()
    weights = module.draft.weights
    weights["embed_rows"], weights["embed_ids"] = weights["embed_rows"][held], held
    fed: list[torch.Tensor] = []
    module.draft.embed = lambda ids: fed.append(ids) or whole(module.draft, ids)  # type: ignore[method-assign,func-returns-value]
    traced = trace.prompt(0)
    module(traced)
    tally = module.tally
    assert tally.recorded > 0
    assert tally.own > 0
    assert tally.own + tally.recorded + tally.ended == sum(len(ids) for ids in fed[1:]) + tally.ended
    path = traced.token_ids
    starts = torch.arange(traced.info.prompt_length - 1, len(path) - 2)
    proposed = fed[1]
    replaced = proposed == path[starts[: len(proposed)] + 2]
    assert torch.isin(proposed, held).all()
    assert replaced.any()


def test_a_draft_of_its_own_embedding_is_fed_its_own_proposals_alone(tmp_path: Path, tiny_draft: Path) -> None:
    module, trace = opened(tmp_path, tiny_draft)
    weights = module.draft.weights
    weights["embed_tokens.weight"] = weights.pop("embed_rows")
    held = weights.pop("embed_ids")
    assert torch.equal(held, torch.arange(len(held)))
    module(trace.prompt(0))
    assert module.tally.recorded == module.tally.ended == 0
