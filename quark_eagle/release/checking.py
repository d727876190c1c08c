"""The checks of a bundle, by name and in order: each answers with what holds, or with everything that does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from quark_eagle import __version__
from quark_eagle.checkpoint.manifest import RECORD_NAME, Manifest
from quark_eagle.checkpoint.reader import CONFIG_NAME, Checkpoint
from quark_eagle.deploy.verify import VerifyReport
from quark_eagle.documents.release_check import Name
from quark_eagle.errors import QuarkEagleError, StorageError, TraceError, findings
from quark_eagle.parity.arch import measured_elsewhere
from quark_eagle.progress import Progress
from quark_eagle.release import bom, checksums, contents, made_again, sane_json, signature_check
from quark_eagle.release.binding import TRACE_NAME, unlike_source, unlike_trace
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.signature_check import Trusted, trusting


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be checked beyond what every bundle is checked for.

    Attributes:
        trusted: who should have signed; None: a signature is not checked.
        source: the BF16 draft that it should have been made from.
        trace: that should have been replayed.
        arch: on which everything should have been measured.
    """

    trusted: Trusted | None = None
    source: Path | None = None
    trace: Path | None = None
    arch: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of one check: what holds if there are no differences."""

    holds: str
    differences: list[str]


class LeftOpenError(Exception):
    """A check that was not made, and why; never leaves `verify_release`."""

    def __init__(self, why: str, *, asked: bool = False) -> None:
        super().__init__(why)
        self.asked = asked


class Opened:
    """A bundle as far as it has been read: what several checks need is read once."""

    def __init__(self, directory: Path, asked: Asked, progress: Progress) -> None:
        self.directory, self.asked, self.progress = directory, asked, progress
        # What the user may have named wrongly is told before the work: it is nothing about the bundle.
        self.verifier = None if asked.trusted is None else trusting(asked.trusted)
        if asked.source is not None:
            Checkpoint.open(asked.source)
        if asked.trace is not None and not (asked.trace / TRACE_NAME).is_file():
            raise TraceError(f"{asked.trace}: holds no {TRACE_NAME}. Point at a trace's directory.")
        self.found = checksums.listing(directory)
        self.has_evidence = False

    @cached_property
    def signature_problems(self) -> list[str]:
        """Why nobody who is trusted vouches for every file; empty if somebody does."""
        assert self.asked.trusted is not None
        return signature_check.problems(
            self.directory, self.found, self.asked.trusted, verifier=self.verifier, progress=self.progress
        )

    def left_open(self, other: str, differences: list[str]) -> LeftOpenError:
        """What another version worded: not made again here, and so not known to be what it wrote.

        Whoever changes a bundle may name any version. Where a trusted signature held, its signer vouches for the words;
        elsewhere the question was not answered, and an answer is what was asked for.
        """
        is_there = self.asked.trusted is not None and contents.SIGNATURE in self.found.files
        vouched = is_there and not self.signature_problems
        how = "whoever signed vouches for it" if vouched else f"install {other} to check it"
        return LeftOpenError(f"{differences[0]} It cannot be checked here: {how}.", asked=not vouched)

    def is_wanted(self, name: Name) -> bool:
        """Whether a check has a place in the table: some are made only where somebody asks."""
        asked = {"source": self.asked.source, "trace": self.asked.trace, "arch": self.asked.arch}
        return name not in asked or asked[name] is not None

    @cached_property
    def files(self) -> Manifest:
        """All plain files, hashed."""
        return checksums.hashed(self.found, progress=self.progress)

    @cached_property
    def evidence(self) -> Evidence:
        """What the bundle says, from plain files of sound JSON alone.

        Raises:
            LeftOpenError: something lies there that no release holds: through a link it could be read from anywhere.
            QuarkEagleError: it cannot be read; all findings.
        """
        if self.found.foreign:
            raise LeftOpenError(
                "Something lies in the bundle that no release holds; it was read no further.", asked=True
            )
        insane = [f"{name} {problem}." for name in self._read if (problem := sane_json.problem(self.directory / name))]
        if insane:
            raise QuarkEagleError(findings("evidence", insane, "Nothing was read of it. Fetch the bundle again."))
        evidence = Evidence.read(self.directory)
        self.has_evidence = True
        return evidence

    @property
    def _read(self) -> list[str]:
        """The JSON files that are read for what they say."""
        ours = (CONFIG_NAME, RECORD_NAME)
        return [
            name
            for name in self.found.files
            if name in ours or name.endswith(".index.json") or name.startswith(f"{contents.EVIDENCE}/")
        ]

    @property
    def said(self) -> Evidence:
        """The evidence, for a check that can do nothing without it.

        Raises:
            LeftOpenError: it cannot be read, which its own check tells.
        """
        try:
            return self.evidence
        except (QuarkEagleError, LeftOpenError) as error:
            raise LeftOpenError("The evidence could not be read.") from error

    @cached_property
    def engine(self) -> VerifyReport:
        """What an engine will do with the weights.

        Raises:
            QuarkEagleError: it cannot be told.
        """
        return made_again.engine(self.said, self.asked.source, self.progress)

    @property
    def engine_if_known(self) -> VerifyReport | None:
        """The same; None where it cannot be told, which its own check says."""
        try:
            return self.engine
        except QuarkEagleError:
            return None


def _files(bundle: Opened) -> Answer:
    found = [f"{path} {what}." for path, what in bundle.found.foreign]
    if contents.SUMS not in bundle.found.files:
        found.append(f"{contents.SUMS} is missing.")
    else:
        try:
            found += checksums.differences(checksums.read(bundle.directory), bundle.files)
        except StorageError:
            raise
        except QuarkEagleError as error:  # told beside what lies there and should not
            found.append(str(error).replace("\n", " "))
    number = len(bundle.files.files)
    return Answer(holds=f"{number} files are as {contents.SUMS} says, and nothing else is there.", differences=found)


def _signature(bundle: Opened) -> Answer:
    """A signature that lacks, or that nobody gave a key for: said plainly, and never taken for good."""
    trusted, is_there = bundle.asked.trusted, contents.SIGNATURE in bundle.found.files
    if trusted is None and is_there:
        raise LeftOpenError("It has a signature, but no option says whose it should be (--public-key).")
    if trusted is None:
        raise LeftOpenError("It has no signature: nobody vouches for it.")
    if not is_there:
        return Answer(holds="", differences=[f"{contents.SIGNATURE} is missing, but {trusted} should have signed."])
    return Answer(holds=f"Every file was signed by {trusted}.", differences=bundle.signature_problems)


def _evidence(bundle: Opened) -> Answer:
    number = sum(name.startswith(f"{contents.EVIDENCE}/") for name in bundle.found.files)
    assert bundle.evidence is not None  # reads it
    return Answer(holds=f"{number} documents, and {RECORD_NAME}, can be read.", differences=[])


def _binding(bundle: Opened) -> Answer:
    return Answer(
        holds="The evidence is about these weights, byte for byte.",
        differences=made_again.binding(bundle.said, bundle.files),
    )


def _engine(bundle: Opened) -> Answer:
    evidence, report = bundle.said, bundle.engine
    found = [f"{finding.subject}: {finding.message}" for finding in report.errors]
    differs = made_again.verification_differs(evidence, report)
    if differs and not found and (other := _other_version(evidence.release.versions)):
        raise bundle.left_open(other, differs)
    number = f"{report.num_quantized} of {len(report.modules)} modules in FP8"
    return Answer(
        holds=f"It loads as it was meant by the rules of {report.engine}: {number}.", differences=found + differs
    )


def _verdict(bundle: Opened) -> Answer:
    evidence = bundle.said
    outcome, number = evidence.verdict.outcome, len(evidence.parity.prompts)
    found = made_again.verdict(evidence, bundle.engine_if_known)
    if found.reworded and not found.differences and (other := _other_version(evidence.verdict.versions)):
        raise bundle.left_open(other, found.reworded)
    return Answer(
        holds=f"The verdict ({outcome}) follows from the counts of {number} prompts.",
        differences=found.differences + found.reworded,
    )


def _weights(bundle: Opened) -> Answer:
    evidence, source = bundle.said, bundle.asked.source
    errors = "scales and errors" if source else "scales (errors need --source)"
    number = len(evidence.weights.modules)
    return Answer(
        holds=f"Statistics of {number} tensors are those of the weights: {errors}.",
        differences=made_again.weights(evidence, source, bundle.progress),
    )


def _record(bundle: Opened) -> Answer:
    found = made_again.record(bundle.said, bundle.engine_if_known)
    if found.reworded and not found.differences and (other := _other_version(bundle.said.release.versions)):
        raise bundle.left_open(other, found.reworded)
    aside = len(bundle.said.release.overrides)
    said = f"{aside} rule{'s' if aside != 1 else ''} set aside" if aside else "no rule set aside"
    return Answer(
        holds=f"The release says of itself what follows from its evidence: {said}.",
        differences=found.differences + found.reworded,
    )


def _prose(bundle: Opened) -> Answer:
    config, report = bundle.files.files.get(CONFIG_NAME), bundle.engine_if_known if bundle.said else None
    if config != Manifest.from_json(bundle.said.record["output"]).files.get(CONFIG_NAME):
        raise LeftOpenError(f"It is not made again: {CONFIG_NAME}, which it speaks of, is another.")
    if report is None or report.errors:
        raise LeftOpenError("It is not made again: no engine runs what lies there, so it would speak of nothing.")
    found = made_again.prose(bundle.said)
    if found and (others := made_again.other_writers(bundle.said)):
        raise bundle.left_open(", ".join(others), found)
    return Answer(holds=f"{', '.join(contents.RENDERED)} say what the evidence says, byte for byte.", differences=found)


def _bom(bundle: Opened) -> Answer:
    path = bundle.found.files.get(contents.BOM)
    if path is None:
        return Answer(holds="", differences=[f"{contents.BOM} is missing."])
    problem = sane_json.problem(path)
    found = [problem] if problem else bom.invalid(path.read_text(encoding="utf-8"))
    return Answer(holds=f"{contents.BOM} is valid CycloneDX 1.6.", differences=[f"{contents.BOM} {it}" for it in found])


def _source(bundle: Opened) -> Answer:
    source = bundle.asked.source
    assert source is not None
    found = [str(it) for it in unlike_source(bundle.said, source, bundle.progress)]
    return Answer(holds=f"It was made from {source}.", differences=found)


def _trace(bundle: Opened) -> Answer:
    trace = bundle.asked.trace
    assert trace is not None
    holds = f"{trace / TRACE_NAME} is that of the trace that was replayed; of its tensors the sizes were compared."
    return Answer(holds=holds, differences=[str(it) for it in unlike_trace(bundle.said, trace)])


def _arch(bundle: Opened) -> Answer:
    arch = bundle.asked.arch
    assert arch is not None
    elsewhere = [
        f"{name}: {part}." for name, report in bundle.said.reports.items() for part in measured_elsewhere(report, arch)
    ]
    return Answer(holds=f"All was measured on {arch}.", differences=elsewhere)


def _other_version(versions: Mapping[str, str]) -> str | None:
    """The quark-eagle that a document says wrote it; None if it is this one."""
    return (
        made_again.called("quark-eagle", made_by) if (made_by := versions.get("quark_eagle")) != __version__ else None
    )


CHECKS: Mapping[Name, Callable[[Opened], Answer]] = {
    "files": _files,
    "signature": _signature,
    "evidence": _evidence,
    "binding": _binding,
    "engine": _engine,
    "verdict": _verdict,
    "weights": _weights,
    "record": _record,
    "prose": _prose,
    "bom": _bom,
    "source": _source,
    "trace": _trace,
    "arch": _arch,
}
"""Every check, in the order in which they are made and shown."""
