"""Evidence about other bytes is none: every way of being about something else is found, and named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.manifest import RECORD_NAME
from quark_eagle.documents.parity import ParityReport
from quark_eagle.errors import CheckpointError, TraceError
from quark_eagle.release import contents
from quark_eagle.release.binding import (
    Mismatch,
    checkpoint_files,
    unbound,
    unlike_source,
    unlike_target,
    unlike_trace,
)
from quark_eagle.release.evidence import Given
from quark_eagle.trace.target_identity import TargetGeometry, identify_as
from tests.release.made_out import measured_again
from tests.reports import AT_PAR, served_report
from tests.tiny import write_tiny_draft
from tests.tiny_trace import write_tiny_trace

Bundle = Callable[[str], Path]


@pytest.fixture
def bundle(made_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle to spoil."""
    return shutil.copytree(made_bundle("pass"), tmp_path / "bundle")


def about(found: list[Mismatch]) -> set[tuple[str, str]]:
    """What the mismatches are of: (file, what)."""
    return {(it.where, it.what) for it in found}


def mismatches(bundle: Path) -> list[Mismatch]:
    return unbound(Given.read(bundle), checkpoint_files(bundle))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("variant", ["pass", "override", "served", "static", "two layers"])
def test_evidence_of_these_files_is_bound_to_them(made_bundle: Bundle, variant: str) -> None:
    assert mismatches(made_bundle(variant)) == []


def test_one_byte_of_a_weight_unbinds_record_and_measurement(bundle: Path) -> None:
    path = bundle / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert about(mismatches(bundle)) == {
        (RECORD_NAME, "model.safetensors"),
        (contents.PARITY, "candidate's weights"),
    }


def test_config_is_bound_as_weights_are(bundle: Path) -> None:
    edit(bundle / "config.json", lambda config: config.update(rope_theta=1.0))
    assert about(mismatches(bundle)) == {(RECORD_NAME, "config.json"), (contents.PARITY, "candidate's config.json")}


def test_files_that_nobody_quantized_are_named_and_so_are_those_that_are_gone(bundle: Path) -> None:
    (bundle / "extra.json").write_text("{}")
    (bundle / "config.json").rename(bundle / "conf.json")
    found = {it.what: (it.wanted, it.found) for it in mismatches(bundle) if it.where == RECORD_NAME}
    assert found["extra.json"] == ("none", f"2 bytes, sha256 {hashlib.sha256(b'{}').hexdigest()[:16]}…")
    assert found["config.json"][1] == "none"
    assert set(found) == {"extra.json", "config.json", "conf.json"}


def test_a_draft_from_elsewhere_is_not_the_one_that_was_measured(bundle: Path) -> None:
    edit(bundle / RECORD_NAME, lambda it: it["input"]["model.safetensors"].update(sha256="ab" * 32))
    assert about(mismatches(bundle)) == {(contents.PARITY, "baseline's weights")}


def test_a_verdict_is_on_one_measurement_by_its_hash(bundle: Path) -> None:
    path = bundle / contents.PARITY
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")  # a blank line more, and nothing else
    assert about(mismatches(bundle)) == {(contents.VERDICT, "sha256 of the measurement")}


@pytest.mark.parametrize(
    ("part", "value"),
    [("arch", "gfx950"), ("engine", "vLLM 0.32.0"), ("trace_sha256", "0" * 64), ("dtype", "float32")],
)
def test_a_verdict_says_nothing_of_its_evidence_that_the_evidence_does_not(bundle: Path, part: str, value: str) -> None:
    edit(bundle / contents.VERDICT, lambda it: it["evidence"]["provenance"].update({part: value}))
    assert about(mismatches(bundle)) == {(contents.VERDICT, "evidence.provenance")}


def test_everything_that_does_not_fit_is_said_at_once(bundle: Path) -> None:
    (bundle / "extra.json").write_text("{}")
    edit(bundle / RECORD_NAME, lambda it: it["input"]["config.json"].update(sha256="ab" * 32))
    edit(bundle / contents.VERDICT, lambda it: it["evidence"].update(num_prompts=7))
    assert about(mismatches(bundle)) == {
        (RECORD_NAME, "extra.json"),
        (contents.PARITY, "baseline's config.json"),
        (contents.VERDICT, "evidence.num_prompts"),
    }


def test_static_scales_stand_on_the_calibration_in_the_bundle(made_bundle: Bundle, tmp_path: Path) -> None:
    bundle = shutil.copytree(made_bundle("static"), tmp_path / "static")
    edit(bundle / contents.CALIBRATION, lambda it: it.update(arch="gfx950", draft_config_sha256="ab" * 32))
    assert about(mismatches(bundle)) == {
        (contents.CALIBRATION, "sha256 that quark_eagle.json names"),
        (contents.CALIBRATION, "config.json that was calibrated"),
    }
    (bundle / contents.CALIBRATION).unlink()
    assert about(mismatches(bundle)) == {(contents.CALIBRATION, "sha256 that quark_eagle.json names")}


def test_a_measurement_beside_the_judged_one_is_of_the_same_drafts_and_target(
    made_bundle: Bundle, tmp_path: Path
) -> None:
    bundle = shutil.copytree(made_bundle("pass"), tmp_path / "bundle")
    other = served_report(AT_PAR)
    target = {**other.provenance.target, "config_sha256": "ab" * 32}
    other = other.model_copy(update={"provenance": other.provenance.model_copy(update={"target": target})})
    (bundle / contents.SERVED).write_text(other.to_json(), encoding="utf-8")
    assert about(mismatches(bundle)) == {
        (contents.SERVED, what)
        for arm in ("baseline", "candidate")
        for what in (f"{arm}'s weights", f"{arm}'s config.json", "target's config_sha256")
    }


@pytest.mark.parametrize("forgets", ["config_sha256", "trace_sha256"])
def test_a_measurement_that_names_no_target_or_no_trace_is_bound_to_nothing(bundle: Path, forgets: str) -> None:
    given = Given.read(bundle)
    told: dict[str, Any] = {"trace_sha256": None}
    if forgets == "config_sha256":
        told = {"target": {key: it for key, it in given.parity.provenance.target.items() if key != forgets}}
    provenance = given.parity.provenance.model_copy(update=told)
    found = unbound(
        measured_again(given, given.parity.model_copy(update={"provenance": provenance})), checkpoint_files(bundle)
    )
    what = "trace" if forgets == "trace_sha256" else "target's config.json"
    assert about(found) == {(contents.PARITY, what)}
    assert "bound to nothing" in str(found[0])


def test_only_served_drafts_have_no_trace(bundle: Path, tmp_path: Path) -> None:
    given = Given.read(bundle)
    provenance = given.parity.provenance.model_copy(update={"trace_sha256": None})
    given = measured_again(given, given.parity.model_copy(update={"provenance": provenance}))
    (tmp_path / "trace.json").write_text("any")
    (found,) = unlike_trace(given, tmp_path)
    assert "the drafts were served" not in str(found)
    assert found.wanted == "none"


def test_a_served_run_and_a_replay_of_one_target_fit_together_as_they_record_it(made_bundle: Bundle) -> None:
    """Each hashes the weights in its own way; what both name has to agree."""
    made = made_bundle("served")
    given = Given.read(made)
    assert given.replayed is not None
    sizes, hashed = {"weights_size_sha256": "cd" * 32}, {"weights_sha256": "ef" * 32}
    assert _beside(given, sizes, hashed) == set()
    assert _beside(given, sizes | hashed, hashed) == set()
    assert _beside(given, sizes | {"weights_sha256": "ab" * 32}, hashed) == {
        (contents.REPLAYED, "target's weights_sha256")
    }


def _beside(given: Given, served: dict[str, str], replayed: dict[str, str]) -> set[tuple[str, str]]:
    """Mismatches of the targets of a served run and of a replay beside it."""
    assert given.replayed is not None
    parity, beside = (
        report.model_copy(
            update={
                "provenance": report.provenance.model_copy(update={"target": {"config_sha256": "0" * 64, **target}})
            }
        )
        for report, target in ((given.parity, served), (given.replayed, replayed))
    )
    found = unbound(replace(given, parity=parity, replayed=beside), checkpoint_files(given.directory))
    return {it for it in about(found) if it[1].startswith("target's")}


def test_the_source_is_what_the_record_says_went_in(made_bundle: Bundle, tmp_path: Path) -> None:
    made = made_bundle("pass")
    given, draft = Given.read(made), made.with_name(f"{made.name}.draft")
    assert unlike_source(given, draft) == []
    other = shutil.copytree(draft, tmp_path / "draft")
    (other / "README.md").write_text("not named by the record, and not looked at")
    (other / "config.json").write_text("{}")
    (other / "model.safetensors").unlink()
    assert {it.what for it in unlike_source(given, other)} == {"config.json", "model.safetensors"}


def test_a_trace_is_known_by_its_document(made_bundle: Bundle, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text("another")
    assert about(unlike_trace(Given.read(bundle), tmp_path)) == {(str(tmp_path), f"trace of {contents.PARITY}")}
    with pytest.raises(TraceError, match=r"trace\.json could not be read"):
        unlike_trace(Given.read(bundle), tmp_path / "nowhere")
    served = shutil.copytree(made_bundle("served"), tmp_path / "served")
    (served / contents.REPLAYED).unlink()
    assert "served" in str(unlike_trace(Given.read(served), tmp_path)[0])


def test_a_trace_that_lost_part_of_its_tensors_is_not_the_one_that_was_replayed(bundle: Path, tmp_path: Path) -> None:
    trace = write_tiny_trace(tmp_path / "trace", write_tiny_draft(tmp_path / "draft"))
    document = (trace / "trace.json").read_bytes()
    given = Given.read(bundle)
    provenance = given.parity.provenance.model_copy(update={"trace_sha256": hashlib.sha256(document).hexdigest()})
    given = replace(given, parity=given.parity.model_copy(update={"provenance": provenance}))
    assert unlike_trace(given, trace) == []
    shard = next(trace.glob("shard-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert about(unlike_trace(given, trace)) == {(str(trace), f"bytes of {shard.name}")}
    shard.unlink()
    assert about(unlike_trace(given, trace)) == {(str(trace), f"bytes of {shard.name}")}


def test_a_target_is_known_as_its_trace_knows_it(bundle: Path, tmp_path: Path) -> None:
    """The hashes are worked out twice, here and where a trace is recorded, and compared."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "config.json").write_text(json.dumps({"num_hidden_layers": 2, "hidden_size": 8, "vocab_size": 8}))
    for place in (2, 1):
        (target / f"model-{place}.safetensors").write_bytes(bytes(place))
    identity = identify_as(
        target, "t", TargetGeometry.read(target), lambda layers: (1,), dtype="float32", engine="tests", device="cpu"
    )
    known = {"config_sha256": identity.config_sha256, "weights_sha256": identity.weights_sha256, "name": "t"}
    given = with_target(Given.read(bundle), known)
    assert unlike_target(given, target) == []
    (target / "model-2.safetensors").write_bytes(b"other")
    found = unlike_target(given, target)
    assert about(found) == {(str(target), f"weights_sha256 of the target of {contents.PARITY}")}
    forgetful = with_target(Given.read(bundle), {"name": "t"})
    assert len(unlike_target(forgetful, target)) == 2, "what is not named is not the same"
    with pytest.raises(CheckpointError, match=r"config\.json could not be read"):
        unlike_target(given, tmp_path)


def with_target(given: Given, target: dict[str, Any]) -> Given:
    provenance = given.parity.provenance.model_copy(update={"target": target})
    report: ParityReport = given.parity.model_copy(update={"provenance": provenance})
    return measured_again(given, report)
