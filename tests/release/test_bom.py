"""bom.cdx.json: valid by the library's own schema, the same bytes each time, and nothing in it but evidence."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.manifest import digest
from quark_eagle.release import contents
from quark_eagle.release.bom import bill_of_materials, invalid
from quark_eagle.release.evidence import Evidence
from tests.release.made_evidence import HOSTILE, VARIANTS, evidence_of

Made = Callable[[str], Path]


@pytest.fixture
def evidence(made_bundle: Made) -> Evidence:
    return Evidence.read(made_bundle("static"))


@pytest.fixture
def bom(evidence: Evidence) -> dict[str, Any]:
    return dict(json.loads(bill_of_materials(evidence)))


def components(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All of them, those inside others too."""
    waiting = [document["metadata"]["component"], *document["components"], *document["metadata"]["tools"]["components"]]
    while waiting:
        component = waiting.pop()
        yield component
        waiting += component.get("components", []) + component.get("pedigree", {}).get("ancestors", [])


def named(document: dict[str, Any], reference: str) -> dict[str, Any]:
    (found,) = (it for it in components(document) if it["bom-ref"] == reference)
    return found


def said(component: dict[str, Any]) -> dict[str, str]:
    return {it["name"].removeprefix("quark-eagle:"): it["value"] for it in component.get("properties", [])}


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_valid_strictly_and_with_no_network(
    made_bundle: Made, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)

    assert invalid(bill_of_materials(Evidence.read(made_bundle(variant)))) == []


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda it: it["metadata"]["component"]["modelCard"].update(licence="mit"), "modelCard"),
        (lambda it: it["metadata"]["component"]["modelCard"]["modelParameters"].update(task=1), "task"),
        (lambda it: it["components"][0].update(type="model"), "components.0.type"),
        (lambda it: it.update(extra=1), "document"),
        (lambda it: it.update(serialNumber="1"), "serialNumber"),
        (lambda it: it["metadata"].update(timestamp="yesterday"), "timestamp"),
        (lambda it: it["metadata"]["component"]["components"][0]["hashes"][0].update(content="x"), "hashes"),
    ],
)
def test_what_is_not_valid_is_seen(bom: dict[str, Any], spoil: Callable[[dict[str, Any]], object], where: str) -> None:
    """The model card too, which the library does not model: its schema does."""
    spoil(bom)

    assert any(where in problem for problem in invalid(json.dumps(bom)))


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "null", '{"bomFormat": "CycloneDX"}', "1" * 5000, "NaN"])
def test_what_is_no_bill_at_all_is_a_finding(text: str) -> None:
    assert invalid(text)


def test_the_same_evidence_gives_the_same_bytes(evidence: Evidence, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(evidence.directory, tmp_path / "elsewhere")

    assert bill_of_materials(evidence) == bill_of_materials(Evidence.read(elsewhere))
    assert str(tmp_path) not in bill_of_materials(Evidence.read(elsewhere))


def test_other_evidence_has_another_serial_number(evidence: Evidence, bom: dict[str, Any]) -> None:
    renamed = evidence_of(evidence.directory, release=evidence.release.model_copy(update={"name": "another"}))

    assert json.loads(bill_of_materials(renamed))["serialNumber"] != bom["serialNumber"]


def test_the_files_are_those_of_the_bundle_by_their_own_hashes(evidence: Evidence, bom: dict[str, Any]) -> None:
    """Two roads: the record of `quantize`, and the bytes that lie there."""
    files = {it["name"]: it["hashes"][0]["content"] for it in components(bom) if it["type"] == "file"}

    assert "model.safetensors" in files
    assert contents.PARITY in files
    assert files == {name: digest(evidence.directory / name).sha256 for name in files}
    lying = {path.relative_to(evidence.directory).as_posix() for path in evidence.directory.rglob("*.*")}
    assert files.keys() == {name for name in lying if name not in contents.WRITTEN}


def test_it_names_what_the_draft_is_made_of_and_from(evidence: Evidence, bom: dict[str, Any]) -> None:
    release, bound = evidence.release, evidence.release.bound_to
    draft = bom["metadata"]["component"]

    assert (draft["type"], draft["name"], draft["version"]) == ("machine-learning-model", release.name, "2026-01-02")
    assert draft["licenses"] == [{"license": {"id": "MIT"}}]
    assert said(draft)["weights_sha256"] == bound.candidate.weights_sha256
    (base,) = draft["pedigree"]["ancestors"]
    assert base["purl"] == f"pkg:huggingface/owner/tiny-eagle3@{release.base_model_revision}"
    assert said(base)["weights_sha256"] == bound.baseline.weights_sha256
    assert {"ref": "draft", "dependsOn": ["target"]} in bom["dependencies"]
    assert said(named(bom, "target"))["config_sha256"] == bound.target_config_sha256


def test_it_names_what_it_was_measured_and_made_with(evidence: Evidence, bom: dict[str, Any]) -> None:
    assert evidence.calibration is not None
    datasets = bom["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"]

    assert [it["ref"] for it in datasets] == ["prompts", "trace", "calibration-prompts"]
    assert said(named(bom, "prompts")) == {"prompts_sha256": evidence.parity.provenance.prompts_sha256}
    assert named(bom, "trace")["hashes"][0]["content"] == evidence.parity.provenance.trace_sha256
    assert said(named(bom, "calibration-prompts")) == {"prompts_sha256": evidence.calibration.prompts_sha256}
    versions = {it["name"]: it["version"] for it in bom["components"] if it["type"] == "library"}
    assert versions.keys() == {"quark-eagle", "amd-quark", "torch", "safetensors"}
    assert versions.items() <= evidence.record["versions"].items()


def test_every_metric_is_a_number_of_the_verdict(evidence: Evidence, bom: dict[str, Any]) -> None:
    metrics = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    slices = {None: evidence.verdict.difference} | {it.name: it.difference for it in evidence.verdict.categories}

    assert len(metrics) == 3 * len(slices)
    for metric in metrics:
        difference = slices[metric.get("slice")]
        assert difference is not None
        known = {
            str(value) for name, value in difference.model_dump().items() if "length" in name or name == "estimate"
        }
        assert metric["value"] in known
        if "confidenceInterval" in metric:
            assert difference.interval is not None
            assert metric["confidenceInterval"]["lowerBound"] == str(difference.interval.low)


def test_what_was_set_aside_is_its_first_limitation(made_bundle: Made) -> None:
    evidence = Evidence.read(made_bundle("override"))
    document = json.loads(bill_of_materials(evidence))
    card = document["metadata"]["component"]["modelCard"]

    assert card["considerations"]["technicalLimitations"][:2] == evidence.release.overrides
    assert said(card)["verdict"] == evidence.verdict.outcome == "fail"
    assert "licenses" not in document["metadata"]["component"]


def test_a_name_that_the_hub_does_not_know_has_no_link(made_bundle: Made) -> None:
    document = json.loads(bill_of_materials(Evidence.read(made_bundle("hostile"))))

    assert "purl" not in named(document, "target")
    assert "purl" not in named(document, "base-model")
    assert document["metadata"]["component"]["licenses"] == [{"license": {"name": "no"}}]
    metrics = document["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert HOSTILE in {it.get("slice") for it in metrics}
