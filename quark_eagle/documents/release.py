"""`evidence/release.json` and `evidence/environment.json`, schema version 1: what a release says of itself.

Neither holds a path, a host or a time of day: the same inputs write the same bytes.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from quark_eagle.documents.base import Document, Sha256, read_document

RELEASE_SCHEMA_VERSION = 1
ENVIRONMENT_SCHEMA_VERSION = 1

RepoId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", max_length=96)]
"""A repository of the Hugging Face hub: ``owner/name``."""
_NAME = r"^[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)?$"
"""One name or ``owner/name``; never a path."""
Name = Annotated[str, Field(pattern=_NAME, max_length=128)]


def _on_the_calendar(day: str) -> str:
    date.fromisoformat(day)
    return day


Date = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_on_the_calendar)]


class DraftIdentity(Document):
    """A draft by the bytes of its files.

    Attributes:
        weights_sha256: of the names and hashes of its safetensors files.
        config_sha256: of its config.json.
    """

    weights_sha256: Sha256
    config_sha256: Sha256


class BoundTo(Document):
    """What the evidence of a release is about. A change to any of it makes it evidence about something else.

    Attributes:
        baseline: the BF16 draft.
        candidate: the draft that is released.
        target_config_sha256: of the target's config.json.
        target_weights_sha256: of its weights; null where they were too large to be hashed, or the drafts were served.
        trace_sha256: of the trace.json that was replayed; null where the drafts were served.
        prompts_sha256: of the ids and hashes of the prompts, in order.
        parity_sha256: of evidence/parity.json.
        verdict_sha256: of evidence/verdict.json.
    """

    baseline: DraftIdentity
    candidate: DraftIdentity
    target_config_sha256: Sha256 | None
    target_weights_sha256: Sha256 | None
    trace_sha256: Sha256 | None
    prompts_sha256: Sha256
    parity_sha256: Sha256
    verdict_sha256: Sha256


class ReleaseRecord(Document):
    """`evidence/release.json`: what is released, as which name, and with which leave.

    Attributes:
        name: of the release.
        repo_id: on the Hugging Face hub, where it is known.
        base_model: the BF16 draft: a hub id ``owner/name``, or a name alone where it is not known to be on the hub.
        base_model_revision: commit of that repository; null where it is not known.
        license: hub id of the licence; null where nobody said.
        license_source: who said so, in words; null with it.
        target: the target as people call it: a hub id ``owner/name``, or a name alone.
        released: the date of the release.
        required_arch: on which all evidence had to be measured; null where any would do.
        overrides: rules of a release that were set aside, a sentence each; shown before anything else is.
        bound_to: what the evidence is about.
        versions: of what made the bundle.
    """

    schema_version: Literal[1]
    name: Name
    repo_id: RepoId | None
    base_model: Name
    base_model_revision: str | None
    license: str | None
    license_source: str | None
    target: Name
    released: Date
    required_arch: str | None
    overrides: list[str]
    bound_to: BoundTo
    versions: dict[str, str]

    @property
    def base_model_id(self) -> str | None:
        """The base model's hub id; None where only its name is known, and nothing may link to it."""
        return self.base_model if "/" in self.base_model else None

    @property
    def target_id(self) -> str | None:
        """The target's hub id; None where only its name is known."""
        return self.target if "/" in self.target else None

    @classmethod
    def read(cls, path: Path) -> ReleaseRecord:
        """The document in a file.

        Raises:
            StorageError: the file may not be read.
            QuarkEagleError: it is not such a document.
        """
        return read_document(cls, path, f"release of schema version {RELEASE_SCHEMA_VERSION}", "quark-eagle release")


class MeasuredWith(Document):
    """On what the two drafts were measured.

    Attributes:
        measured_by: how: replayed over a recorded path, or served.
        arch: of the machine.
        engine: what computed the drafts, with its build.
        dtype: of activations.
        versions: of what measured.
    """

    measured_by: str
    arch: str
    engine: str
    dtype: str
    versions: dict[str, str]


class RecordedWith(Document):
    """On what the target's path was recorded.

    Attributes:
        arch: of the machine; null where the trace does not say.
        engine: what ran the target, with its build.
        device: that it ran on.
        dtype: of the target.
        versions: of what recorded.
    """

    arch: str | None
    engine: str
    device: str
    dtype: str
    versions: dict[str, str]


class Environment(Document):
    """`evidence/environment.json`: with what it was quantized, recorded, measured, judged and released.

    Attributes:
        quantized: versions that made the weights.
        recorded: of the trace; null where the judged drafts were served.
        measured: the measurement that was judged.
        replayed: the replay beside a judged measurement that was served; null where there is none.
        served: the served run beside a judged replay; null where there is none.
        judged: versions that made the verdict.
        released: versions that made the bundle.
    """

    schema_version: Literal[1]
    quantized: dict[str, str]
    recorded: RecordedWith | None
    measured: MeasuredWith
    replayed: MeasuredWith | None
    served: MeasuredWith | None = None
    judged: dict[str, str]
    released: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Environment:
        """The document in a file.

        Raises:
            StorageError: the file may not be read.
            QuarkEagleError: it is not such a document.
        """
        what = f"environment of schema version {ENVIRONMENT_SCHEMA_VERSION}"
        return read_document(cls, path, what, "quark-eagle release")
