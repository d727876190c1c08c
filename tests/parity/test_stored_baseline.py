"""A baseline from a file: the same verdict as with the draft beside it, and refused as soon as it is another's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.manifest import Manifest
from quark_eagle.documents.base import write_text
from quark_eagle.documents.baseline import BaselineReport, refuse_replacing_another_file
from quark_eagle.documents.parity import ParityReport
from quark_eagle.errors import CheckpointError, QuarkEagleError, UsageError
from quark_eagle.parity.compare import Comparison
from quark_eagle.parity.gate import gate
from quark_eagle.parity.measurement import Measurement, Settings
from quark_eagle.parity.side import Side
from quark_eagle.parity.stored import measure_baseline
from quark_eagle.parity.verdict import Rules
from quark_eagle.trace.projection import Projection
from quark_eagle.trace.target_trace import TRACE_NAME, TargetTrace
from tests.parity.test_compare import to_fp8
from tests.tiny_trace import write_tiny_trace

Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def fp8_draft(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_fp8(pair[0], tmp_path_factory.mktemp("fp8") / "draft-fp8")


def measured(draft: Path, trace: Path, **settings: Any) -> BaselineReport:
    opened = Measurement.open([("baseline", Side.open(draft))], TargetTrace.open(trace), Settings(**settings))
    return measure_baseline(opened)


@pytest.fixture(scope="module")
def stored(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "baseline.json"
    write_text(path, measured(*pair).to_json())
    return path


def test_a_stored_baseline_gives_the_counts_of_a_replayed_one(pair: Pair, fp8_draft: Path, stored: Path) -> None:
    beside = Comparison.open(pair[0], fp8_draft, pair[1]).run()
    from_file = Comparison.open(stored, fp8_draft, pair[1]).run()
    for one, other in zip(beside.prompts, from_file.prompts, strict=True):
        assert (one.baseline, one.candidate) == (other.baseline, other.candidate)
    assert from_file.baseline == beside.baseline
    assert from_file.summary.overall == beside.summary.overall
    assert from_file.summary.tau_curve == beside.summary.tau_curve


def test_the_report_says_whence_its_baseline_came_and_what_it_cannot_know(
    pair: Pair, fp8_draft: Path, stored: Path, tmp_path: Path
) -> None:
    import hashlib

    report = Comparison.open(stored, fp8_draft, pair[1]).run()
    assert report.provenance.stored_baseline is not None
    assert report.provenance.stored_baseline.sha256 == hashlib.sha256(stored.read_bytes()).hexdigest()
    assert report.provenance.stored_baseline.noted == []
    assert report.summary.num_proposals_compared is None
    write_text(tmp_path / "parity.json", report.to_json())
    assert ParityReport.read(tmp_path / "parity.json") == report


def test_gate_decides_on_a_stored_baseline_as_on_a_replayed_one(pair: Pair, fp8_draft: Path, stored: Path) -> None:
    verdicts = [
        gate(Comparison.open(baseline, fp8_draft, pair[1]).run(), Rules(), parity=Path("parity.json"))
        for baseline in (pair[0], stored)
    ]
    assert verdicts[0].outcome == verdicts[1].outcome
    assert verdicts[0].difference == verdicts[1].difference


def test_only_the_candidate_is_loaded(pair: Pair, fp8_draft: Path, stored: Path) -> None:
    comparison = Comparison.open(stored, fp8_draft, pair[1])
    assert len(comparison.measurement.drafts) == 1
    assert comparison.estimate().draft_bytes == Side.open(fp8_draft).checkpoint.size_bytes


def test_a_whole_parity_report_serves_as_the_baseline_it_holds(pair: Pair, fp8_draft: Path, tmp_path: Path) -> None:
    report = Comparison.open(pair[0], fp8_draft, pair[1]).run()
    write_text(tmp_path / "parity.json", report.to_json())
    again = Comparison.open(tmp_path / "parity.json", fp8_draft, pair[1]).run()
    assert [prompt.baseline for prompt in again.prompts] == [prompt.baseline for prompt in report.prompts]


def test_a_report_whose_baseline_was_stored_itself_is_refused(
    pair: Pair, fp8_draft: Path, stored: Path, tmp_path: Path
) -> None:
    write_text(tmp_path / "parity.json", Comparison.open(stored, fp8_draft, pair[1]).run().to_json())
    with pytest.raises(QuarkEagleError, match=r"not replayed but taken from .*baseline\.json"):
        Comparison.open(tmp_path / "parity.json", fp8_draft, pair[1])


def test_a_projected_trace_walked_alone_needs_no_baseline_draft(pair: Pair, fp8_draft: Path, tmp_path: Path) -> None:
    trace = projected(pair, tmp_path / "projected")
    path = tmp_path / "baseline.json"
    write_text(path, measured(pair[0], trace, walk_only=True).to_json())
    from_file = Comparison.open(path, fp8_draft, trace, walk_only=True).run()
    beside = Comparison.open(pair[0], fp8_draft, pair[1], walk_only=True).run()
    assert from_file.summary.overall == beside.summary.overall


def projected(pair: Pair, directory: Path) -> Path:
    """The same trace, as `quark-eagle trace --project` would have written it."""
    import torch
    from safetensors.torch import load_file, save_file

    from quark_eagle.checkpoint.manifest import digest
    from quark_eagle.trace.trace_document import ShardInfo, StatesId

    side = Side.open(pair[0])
    project = Projection(side.checkpoint, side.layout)
    document = TargetTrace.open(pair[1]).document
    directory.mkdir()
    shards = []
    for shard in document.shards:
        tensors = load_file(pair[1] / shard.file)
        if "states" in tensors:
            with torch.inference_mode():
                tensors["states"] = project(tensors["states"]).clone()
        save_file(tensors, directory / shard.file)
        found = digest(directory / shard.file)
        shards.append(ShardInfo(file=shard.file, size_bytes=found.size_bytes, sha256=found.sha256))
    states = StatesId(dtype="bfloat16", width=project.width, projection=project.sha256)
    changed = replace(document, shards=tuple(shards), states=states)
    (directory / TRACE_NAME).write_bytes(changed.to_bytes())
    return directory


Change = Callable[[dict[str, Any]], None]
STALE: dict[str, tuple[Change, str]] = {
    "trace": (lambda it: it["provenance"].update(trace_sha256="0" * 64), r"trace sha256: wanted \w{64} .*found 0{64}"),
    "prompts": (lambda it: it["provenance"].update(prompts_sha256="0" * 64), "prompts sha256: wanted"),
    "target": (
        lambda it: it["provenance"]["target"].update(name="other"),
        r"target name: wanted tiny-target \(this measurement\), found other \(stored\)",
    ),
    "sampling": (
        lambda it: it["provenance"]["sampling"].update(temperature=0.6),
        r"sampling temperature: wanted 0.0 .*found 0.6",
    ),
    "draft sampling": (
        lambda it: it["provenance"].update(draft_sample_method="probabilistic"),
        "draft sample method: wanted greedy .*found probabilistic",
    ),
    "dtype": (lambda it: it["provenance"].update(dtype="float32"), "dtype of activations: wanted bfloat16"),
    "walk": (lambda it: it["provenance"].update(walk_only=True), "walk only: wanted False .*found True"),
    "engine": (lambda it: it["provenance"]["versions"].update(quark_eagle="0.0.9"), "quark-eagle: .*found 0.0.9"),
    "torch": (lambda it: it["provenance"]["versions"].update(torch="2.1.0+cpu"), "torch release: .*found 2.1.0 "),
    "prompt id": (lambda it: it["prompts"][0].update(id="gone"), r"prompts wanted, but not stored: prompt-0\."),
    "prompt hash": (lambda it: it["prompts"][1].update(sha256="0" * 64), "another hash: prompt-1"),
    "prompt twice": (lambda it: it["prompts"].append(it["prompts"][0]), "more than once: 1"),
}


@pytest.mark.parametrize("what", STALE)
def test_a_stale_or_foreign_baseline_is_refused_with_the_field_that_differs(
    pair: Pair, fp8_draft: Path, stored: Path, tmp_path: Path, what: str
) -> None:
    change, message = STALE[what]
    with pytest.raises(QuarkEagleError, match=message) as refused:
        Comparison.open(changed(stored, tmp_path, change), fp8_draft, pair[1])
    assert refused.value.exit_code == 5
    assert "--update-baseline" in str(refused.value)


def changed(stored: Path, directory: Path, change: Change) -> Path:
    content = json.loads(stored.read_text())
    change(content)
    path = directory / "changed.json"
    path.write_text(json.dumps(content))
    return path


def test_a_walk_is_compared_with_a_baseline_of_which_more_was_counted(
    pair: Pair, fp8_draft: Path, stored: Path
) -> None:
    """The counts are stored once, by `--update-baseline`; the gate in CI measures the walk alone."""
    report = Comparison.open(stored, fp8_draft, pair[1], walk_only=True).run()
    whole = Comparison.open(pair[0], fp8_draft, pair[1], walk_only=True).run()
    assert [it.baseline for it in report.prompts] == [it.baseline for it in whole.prompts]
    assert report.summary.overall.walk == whole.summary.overall.walk


@pytest.mark.parametrize("same", [True, False])
def test_a_candidate_made_from_another_draft_is_refused(
    pair: Pair, fp8_draft: Path, stored: Path, tmp_path: Path, same: bool
) -> None:
    source = Manifest.of(pair[0]).to_json()
    if not same:
        source["model.safetensors"]["sha256"] = "0" * 64
    shutil.copytree(fp8_draft, tmp_path / "candidate")
    (tmp_path / "candidate" / "quark_eagle.json").write_text(json.dumps({"input": source}))
    with nullcontext() if same else pytest.raises(QuarkEagleError, match="was made from another BF16 draft"):
        Comparison.open(stored, tmp_path / "candidate", pair[1])


def test_every_field_that_differs_is_told_at_once(pair: Pair, fp8_draft: Path, stored: Path, tmp_path: Path) -> None:
    other = write_tiny_trace(tmp_path / "other", pair[0], num_generated=12, num_prompts=6)
    with pytest.raises(QuarkEagleError) as refused:
        Comparison.open(stored, fp8_draft, other, num_speculative_tokens=4)
    for part in (
        "k: wanted 4 (this measurement), found 3 (stored).",
        "trace sha256:",
        "prompts sha256:",
        "sampling max_tokens: wanted 12",
        "not stored: prompt-4, prompt-5.",
        "another length: prompt-0",
    ):
        assert part in str(refused.value)


def test_what_only_changes_the_order_of_summation_is_noted_and_not_refused(
    pair: Pair, fp8_draft: Path, stored: Path, tmp_path: Path
) -> None:
    def another_machine(content: dict[str, Any]) -> None:
        content["provenance"].update(arch="aarch64 NEON", num_threads=99)
        content["provenance"]["versions"]["torch"] = content["provenance"]["versions"]["torch"].split("+")[0] + "+rocm"

    comparison = Comparison.open(changed(stored, tmp_path, another_machine), fp8_draft, pair[1])
    assert comparison.stored_from is not None
    assert [note.partition(":")[0] for note in comparison.stored_from.noted] == ["torch build", "processor", "threads"]


def test_counts_that_contradict_themselves_are_refused(pair: Pair, stored: Path, tmp_path: Path) -> None:
    path = changed(stored, tmp_path, lambda it: it["prompts"][2]["baseline"].update(walk=[1, 0, 0, 0]))
    with pytest.raises(QuarkEagleError, match=r"prompt prompt-2: accepted \+ rounds is not 15"):
        BaselineReport.read(path)
    path = changed(stored, tmp_path, lambda it: it["prompts"][2]["baseline"]["walk_num_drafts"].__setitem__(2, 1))
    with pytest.raises(QuarkEagleError, match="1 rounds at k = 3 in walk_num_drafts"):
        BaselineReport.read(path)


def test_what_is_no_baseline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(QuarkEagleError, match=r"not a stored baseline of schema version 1.*--update-baseline"):
        BaselineReport.read(tmp_path / "x.json")


def test_an_fp8_draft_is_not_stored_as_a_baseline(pair: Pair, fp8_draft: Path) -> None:
    with pytest.raises(CheckpointError, match="is quantized, but the baseline is the BF16 draft"):
        measured(fp8_draft, pair[1])


def test_an_update_replaces_a_stored_baseline_and_nothing_else(stored: Path, tmp_path: Path) -> None:
    refuse_replacing_another_file(stored)
    refuse_replacing_another_file(tmp_path / "new.json")
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    for place, message in (
        (tmp_path / "notes.json", "exists and is no stored baseline"),
        (tmp_path, "no place for a file"),
        (tmp_path / "none" / "baseline.json", "no place for a file"),
    ):
        with pytest.raises(UsageError, match=message):
            refuse_replacing_another_file(place)
