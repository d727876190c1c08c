"""With what all of it was made, on which machine, and the hashes that bind the evidence to these weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from quark_eagle.documents.release import MeasuredWith, RecordedWith
from quark_eagle.release import contents
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.html.blocks import Commands, Facts, Hash, Section, Table, Text
from quark_eagle.reporting.wording import NOTHING, how_measured


def environment(evidence: Evidence) -> Section:
    """Machines and versions."""
    found = evidence.environment
    stages: list[tuple[str, str, str, Mapping[str, str]]] = [("quantized", NOTHING, NOTHING, found.quantized)]
    if found.recorded is not None:
        stages.append(("target recorded", *_machine(found.recorded), found.recorded.versions))
    stages.append(("measured", *_machine(found.measured), found.measured.versions))
    if found.replayed is not None:
        stages.append(("replayed beside it", *_machine(found.replayed), found.replayed.versions))
    stages += [("judged", NOTHING, NOTHING, found.judged), ("released", NOTHING, NOTHING, found.released)]
    return Section(
        anchor="environment",
        title="Environment",
        lead=how_measured(evidence.parity.provenance),
        blocks=[
            Table(
                caption="Machines and versions of each stage",
                headers=("stage", "on", "by", "versions"),
                rows=[(stage, on, by, _versions(versions)) for stage, on, by, versions in stages],
                is_open=True,
                hides=(2,),
            )
        ],
    )


def provenance(evidence: Evidence) -> Section:
    """What the evidence is about, by hash."""
    bound = evidence.release.bound_to
    taken = {
        "BF16 draft, weights": bound.baseline.weights_sha256,
        "BF16 draft, config": bound.baseline.config_sha256,
        "FP8 draft, weights": bound.candidate.weights_sha256,
        "FP8 draft, config": bound.candidate.config_sha256,
        "target, config": bound.target_config_sha256,
        "target, weights": bound.target_weights_sha256,
        "trace": bound.trace_sha256,
        "prompts": bound.prompts_sha256,
        "measurement": bound.parity_sha256,
        "verdict": bound.verdict_sha256,
    }
    return Section(
        anchor="provenance",
        title="Provenance",
        lead="The evidence is about exactly these, by sha256. A byte changed in any of them makes it evidence about "
        "something else.",
        blocks=[
            Facts(
                rows=[(what, "not taken" if sha256 is None else Hash(sha256=sha256)) for what, sha256 in taken.items()]
            ),
            Table(
                caption="The same hashes in full",
                headers=("of", "sha256"),
                rows=[(what, sha256 or "not taken") for what, sha256 in taken.items()],
            ),
            Text(lines=list(_how_to_check())),
            Commands(text="quark-eagle verify-release ."),
        ],
    )


def _how_to_check() -> Iterator[str]:
    yield (
        f"Every number on this page comes from a file in {contents.EVIDENCE}/ beside it. This hashes all files, works "
        "the verdict out again from the counts of every prompt, renders this page again and compares:"
    )


def _machine(found: MeasuredWith | RecordedWith) -> tuple[str, str]:
    on = found.arch or NOTHING
    return (f"{on}, {found.device}" if isinstance(found, RecordedWith) else on), f"{found.engine}, {found.dtype}"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name.replace('_', '-')} {version}" for name, version in sorted(versions.items()))
