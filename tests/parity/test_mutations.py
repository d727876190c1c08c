"""Silent faults on a tiny FP8 draft: none passes all layers. `benchmarks/gate_mutations.py` takes a real pair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.draft_mutations import MUTATIONS, Mutation
from quark_eagle.deploy.verify import verify
from quark_eagle.fp8 import quantize_per_channel
from quark_eagle.opening import open_comparison
from quark_eagle.parity.verdict import Judgement, Rules, judge
from quark_eagle.quantize.quantization_config import quantization_config
from quark_eagle.quantize.scheme import PTPC_FP8
from tests.tiny import write_config, write_tensors, write_tiny_draft
from tests.tiny_trace import write_tiny_trace

EXCLUDE = ("fc", "model.fc", "lm_head")
MARGIN = 0.10  # a draft of random weights is unsure of every token: rounding alone costs it some percent
# What verify cannot see without the source, and a draft of random weights shows in its counts.
SEEN_IN_COUNTS = ("every scale × 2", "stale d2t", "head one row off", "aux states in reverse order")
BY_NAME = {mutation.name: mutation for mutation in MUTATIONS}


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_draft(tmp_path_factory.mktemp("mutations") / "bf16", draft_vocab=8)


@pytest.fixture(scope="module")
def fp8(draft: Path) -> Path:
    """The draft in FP8, by the definition."""
    tensors = load_file(draft / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        quantized = quantize_per_channel(tensors[name])
        tensors |= {name: quantized.q, f"{name}_scale": quantized.scale}
    directory = draft.parent / "fp8"
    directory.mkdir()
    write_tensors(directory, tensors)
    config = json.loads((draft / "config.json").read_text())
    write_config(directory, config | {"quantization_config": quantization_config(PTPC_FP8, EXCLUDE)})
    return directory


@pytest.fixture(scope="module")
def trace(draft: Path) -> Path:
    return write_tiny_trace(draft.parent / "trace", draft, num_prompts=64, num_generated=20, obeys=0.9)


def judged(draft: Path, candidate: Path, trace: Path) -> Judgement:
    report = open_comparison(draft, candidate, trace, walk_only=True).run()
    return judge(report, Rules(margin=MARGIN, num_resamples=999))


def test_the_draft_without_a_fault_passes_every_layer(draft: Path, fp8: Path, trace: Path) -> None:
    assert verify(fp8, draft).ok
    assert judged(draft, fp8, trace).outcome == "pass"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_no_fault_passes_a_comparison_with_the_source(
    draft: Path, fp8: Path, tmp_path: Path, mutation: Mutation
) -> None:
    assert not verify(mutation.write(fp8, tmp_path / "faulty"), draft).ok


@pytest.mark.parametrize("name", SEEN_IN_COUNTS)
def test_the_counts_alone_catch_what_verify_without_the_source_cannot_see(
    draft: Path, fp8: Path, trace: Path, tmp_path: Path, name: str
) -> None:
    faulty = BY_NAME[name].write(fp8, tmp_path / "faulty")
    assert verify(faulty).ok
    found = judged(draft, faulty, trace)
    assert (found.outcome, found.rule) in [("fail", "interval"), ("fail", "collapse")]


def test_an_fc_that_the_engine_casts_is_seen_by_every_layer(
    draft: Path, fp8: Path, trace: Path, tmp_path: Path
) -> None:
    faulty = BY_NAME["excluded fc read as FP8"].write(fp8, tmp_path / "faulty")
    assert not verify(faulty).ok
    assert judged(draft, faulty, trace).rule == "collapse"


def test_there_are_at_least_twelve_faults_and_each_has_its_own_name() -> None:
    assert len(BY_NAME) == len(MUTATIONS) >= 12
