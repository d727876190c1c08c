"""Origin: where a draft comes from and under which licence, as far as somebody said so; nothing is guessed.

A path of the releaser's machine never becomes a name: nobody else could follow it, and a card must not link to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from quark_eagle.checkpoint.source import is_hub_id
from quark_eagle.documents.parity import ParityReport
from quark_eagle.errors import CheckpointError, UsageError

CARD_NAME = "README.md"
_SNAPSHOT = re.compile(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})/?$")
"""Where the hub's cache keeps a revision of a repository."""
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
# Titles by which two texts begin that many carry unchanged. Of others the hub's id is not told from the text.
_BEGINNINGS = {
    "apache-2.0": re.compile(r"\s*Apache License\s+Version 2\.0, January 2004\s"),
    "mit": re.compile(
        r"\s*(The )?MIT License(\s*\(MIT\))?\s+Copyright .*?Permission is hereby granted, free", re.DOTALL
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is known of the BF16 draft beside its bytes.

    Attributes:
        base_model: its hub id, or a name alone.
        revision: commit of its repository; None where it is not known.
        license: the hub's id of the licence; None where nobody said.
        license_source: who said so.
    """

    base_model: str
    revision: str | None
    license: str | None
    license_source: str | None


def origin(
    report: ParityReport,
    output: Path,
    *,
    source: Path | None = None,
    named: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
) -> Origin:
    """What is known of the draft that was quantized.

    Args:
        report: which names it as its directory was called.
        output: the quantized draft, which carries a licence's text along.
        source: its directory.
        named: as the user named that: a directory, or ``owner/name@revision``.
        base_model: as the user wants it called.
        license: as the user says.

    Raises:
        UsageError: a name is a path, or the licence none of the hub's ids.
        CheckpointError: the card of the source, or a licence, cannot be read.
    """
    if base_model is not None:
        require_name(base_model, "--base-model")
    if license is not None:
        require_license(license)
    hub_id, revision = _repository(source, named)
    known, said = (license, "--license") if license is not None else _license(source, output)
    name = base_model.partition("@")[0] if base_model is not None else hub_id or plain_name(report.baseline.name)
    if base_model is not None and name != hub_id:
        revision = base_model.partition("@")[2] or None
    return Origin(base_model=name, revision=revision, license=known, license_source=said)


def target_name(report: ParityReport, named: str | None = None) -> str:
    """The target as people call it: as the user says, else its hub id, else the last part of its path.

    Raises:
        UsageError: the name is a path.
    """
    if named is not None:
        require_name(named, "--target-name")
        return named.partition("@")[0]
    target = report.provenance.target
    found = str(target.get("name", "target"))
    cached = _SNAPSHOT.search(found)
    if cached is not None:
        return f"{cached[1]}/{cached[2]}"
    # A relative path is spelled as an id is. A revision is known of what came from the hub alone.
    if target.get("revision") and re.fullmatch(r"[\w.-]+/[\w.-]+(@.*)?", found):
        return found.partition("@")[0]
    return plain_name(found)


def require_name(name: str, option: str) -> None:
    """See that a name is one that others can use.

    Raises:
        UsageError: it is a path.
    """
    if not is_hub_id(name) and not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
        what = "is a directory here, which nobody else has" if Path(name).exists() else "is no such name"
        raise UsageError(f"{option} {name}: {what}, but a Hugging Face id (owner/name) or a plain name was needed.")


def require_license(license: str) -> None:
    """See that a licence is one of the hub's ids, as far as can be told from its spelling.

    Raises:
        UsageError: it is not.
    """
    if not _LICENSE.fullmatch(license):
        raise UsageError(
            f"--license {license!r}: is no licence as the Hugging Face hub names them, but one like apache-2.0 was "
            "needed. See huggingface.co/docs/hub/repositories-licenses."
        )


def require_repo_id(repo_id: str) -> None:
    """See that the Hugging Face hub may have a repository of this name.

    Raises:
        UsageError: it may not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # there, and not re-exported

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"--repo-id {repo_id}: is no repository's name. {error}") from None
    if "/" not in repo_id:
        raise UsageError(f"--repo-id {repo_id}: has no owner, but owner/name was needed.")


def plain_name(path: str) -> str:
    """The last part of a path, in characters that a name may have.

    >>> plain_name("/data/drafts/kimi k2/"), plain_name("draft")
    ('kimi-k2', 'draft')
    """
    last = path.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.+-]+", "-", last, flags=re.ASCII).strip("-._+") or "draft"


def _repository(source: Path | None, named: str | None) -> tuple[str | None, str | None]:
    """(hub id, commit) of a source, as far as its name or its place in the hub's cache says them."""
    cached = None if source is None else _SNAPSHOT.search(str(source.absolute()))
    if cached is not None:
        return f"{cached[1]}/{cached[2]}", cached[3]
    if named is not None and is_hub_id(named):
        name, _, revision = named.partition("@")
        return name, revision or None
    return None, None


def _license(source: Path | None, output: Path) -> tuple[str | None, str | None]:
    """(licence, who says so), from the source's card, else from a text that lies beside the weights."""
    if source is not None and (said := _of_card(source / CARD_NAME)) is not None:
        return said, "the model card of the BF16 draft"
    for directory, whose in ((source, "the BF16 draft"), (output, "this draft")):
        if directory is None:
            continue
        for path in sorted(directory.glob("LICENSE*")):
            text = _text(path)
            for known, beginning in _BEGINNINGS.items():
                if beginning.match(text):
                    return known, f"{path.name} of {whose}"
    return None, None


def _text(path: Path) -> str:
    """What a file says; nothing where it is none.

    Raises:
        CheckpointError: it may not be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise CheckpointError(
            f"{path}: could not be read ({error.strerror}), but it may say the licence. Make it readable, or say "
            "--license."
        ) from error


def _of_card(path: Path) -> str | None:
    """The licence that a model card's metadata names."""
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError  # type: ignore[import-untyped]

    if not path.is_file():
        return None
    try:
        said = (metadata_load(path) or {}).get("license")
    except (OSError, ValueError, YAMLError) as error:
        why = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path}: its metadata could not be read ({why}), but it may name the licence. Repair it, or say --license."
        ) from error
    return said if isinstance(said, str) and _LICENSE.fullmatch(said) else None
