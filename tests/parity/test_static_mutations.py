"""Silent faults of static scales: which layer catches each, and that none passes them all.

FP8 is a floating-point format: a scale ten times too large, or that of a module with activations of another size, moves
numbers along its exponents and costs next to nothing until they leave its range. So the counts show scales that cut
activations off, and KV caches without scales; the others are found by the record of what was meant.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.draft_mutations import Mutation
from benchmarks.static_mutations import CACHE_MUTATIONS, LAYER_MUTATIONS, STATIC_MUTATIONS
from quark_eagle.checkpoint.family import Convention
from quark_eagle.deploy.verify import verify
from quark_eagle.model.kv_cache import KvCacheDtype
from quark_eagle.opening import open_comparison
from quark_eagle.parity.verdict import Judgement, Rules, judge
from quark_eagle.quantize.scheme import Scheme
from tests.static_draft import write_static_draft
from tests.tiny import write_tensors, write_tiny_draft
from tests.tiny_trace import write_tiny_trace

MARGIN = 0.10  # a draft of random weights is unsure of every token: rounding alone costs it some percent
RECORD = "quark_eagle.json"
WITHOUT_RECORD = {
    "q_proj and o_proj have each other's activation scale",
    "an activation scale left behind",
    "an activation scale as an engine begins",
    "no scales for the FP8 KV cache",
}
"""What `verify` finds by the engine's rules alone."""
IN_THE_COUNTS: tuple[tuple[str, KvCacheDtype], ...] = (
    ("activation scales 10 × too small", "auto"),
    ("o_proj and down_proj have each other's activation scale", "auto"),
    ("an activation scale left behind", "auto"),
    ("an activation scale as an engine begins", "auto"),
    ("no scales for the FP8 KV cache", "fp8"),
    ("no scales for the FP8 KV cache, and none declared", "fp8"),
    ("scales of the FP8 KV cache 10 × too small", "fp8"),
)
BY_NAME = {mutation.name: mutation for mutation in (*STATIC_MUTATIONS, *CACHE_MUTATIONS)}


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its values are so small that an FP8 cache without a scale loses them; o_proj makes up for it."""
    directory = write_tiny_draft(tmp_path_factory.mktemp("static") / "bf16", draft_vocab=8)
    tensors = load_file(directory / "model.safetensors")
    tensors["midlayer.self_attn.v_proj.weight"] *= 2.0**-12
    tensors["midlayer.self_attn.o_proj.weight"] *= 2.0**12
    write_tensors(directory, tensors)
    return directory


@pytest.fixture(scope="module")
def trace(draft: Path) -> Path:
    return write_tiny_trace(draft.parent / "trace", draft, num_prompts=64, num_generated=20, obeys=0.9)


@pytest.fixture(scope="module")
def static(draft: Path, trace: Path) -> Path:
    return write_static_draft(draft, trace, draft.parent / "static", Scheme.FP8_CHANNEL_STATIC)


def faulty(mutation: Mutation, good: Path, directory: Path, *, record: bool) -> Path:
    mutation.write(good, directory)
    if record:
        shutil.copy(good / RECORD, directory / RECORD)
    return directory


def judged(draft: Path, candidate: Path, trace: Path, cache: KvCacheDtype) -> Judgement:
    report = open_comparison(draft, candidate, trace, walk_only=True, kv_cache_dtype=cache).run()
    told = report.provenance.candidate_fp8
    assert told is not None
    assert (told.products, told.activation_scales, told.kv_cache_dtype) == ("emulated", "static", cache)
    return judge(report, Rules(margin=MARGIN, num_resamples=999))


@pytest.mark.parametrize("cache", ["auto", "fp8"])
def test_the_draft_without_a_fault_passes_every_layer(
    draft: Path, static: Path, trace: Path, cache: KvCacheDtype
) -> None:
    assert verify(static, draft).ok
    assert judged(draft, static, trace, cache).outcome == "pass"


@pytest.mark.parametrize("mutation", BY_NAME.values(), ids=lambda mutation: mutation.name)
def test_no_fault_passes_the_record_of_what_was_meant(static: Path, tmp_path: Path, mutation: Mutation) -> None:
    with_record = verify(faulty(mutation, static, tmp_path / "record", record=True))
    alone = verify(faulty(mutation, static, tmp_path / "alone", record=False))
    assert alone.ok is (mutation.name not in WITHOUT_RECORD)
    caught_by_counts = {name for name, _ in IN_THE_COUNTS}
    assert not with_record.ok or mutation.name in caught_by_counts


@pytest.mark.parametrize(("name", "cache"), IN_THE_COUNTS)
def test_the_counts_alone_catch_what_cuts_activations_off(
    draft: Path, static: Path, trace: Path, tmp_path: Path, name: str, cache: KvCacheDtype
) -> None:
    found = judged(draft, faulty(BY_NAME[name], static, tmp_path / "faulty", record=False), trace, cache)
    assert (found.outcome, found.rule) in [("fail", "interval"), ("fail", "collapse")]


def test_fp8_forgives_a_scale_that_is_too_large(draft: Path, static: Path, trace: Path, tmp_path: Path) -> None:
    """Why the record is looked at: it loses nothing that counts could show."""
    too_large = BY_NAME["activation scales 10 × too large"]
    found = judged(draft, faulty(too_large, static, tmp_path / "faulty", record=False), trace, "auto")
    assert found.outcome == "pass"


def test_scales_of_another_layer_are_not_those_of_the_record(tmp_path: Path) -> None:
    draft = write_tiny_draft(tmp_path / "bf16", draft_vocab=8, num_layers=2, convention=Convention.LAYERS)
    trace = write_tiny_trace(tmp_path / "trace", draft)
    good = write_static_draft(draft, trace, tmp_path / "static", Scheme.FP8)
    assert verify(good, draft).ok
    report = verify(faulty(LAYER_MUTATIONS[0], good, tmp_path / "faulty", record=True))
    assert any("but quark_eagle.json says that a calibration found" in finding.message for finding in report.errors)
