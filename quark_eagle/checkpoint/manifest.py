"""Manifest: what a directory holds, byte for byte: relative path → size and sha256.

    Manifest.from_json(manifest.to_json()) == manifest
    Manifest.of(directory) == Manifest.of(any copy of it)

Paths are relative, with forward slashes, and sorted, so the directory's own name does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quark_eagle.errors import CheckpointError, findings
from quark_eagle.progress import SILENT, Progress

_CHUNK = 8 << 20


RECORD_NAME = "quark_eagle.json"
"""How a checkpoint came about: beside its weights, with the manifests of what it was made from and of what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """A file's length and the sha256 of its content, in hexadecimal."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestDiff:
    """How one directory differs from another; empty, and false, where it does not."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether there is any difference."""
        return bool(self.missing or self.extra or self.changed)

    def sentences(self) -> list[str]:
        """The differences in words, one for each file."""
        groups = (("is missing", self.missing), ("is not in the manifest", self.extra), ("has changed", self.changed))
        return [f"{path} {what}." for what, paths in groups for path in paths]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The files of a directory by relative path, sorted."""

    files: Mapping[str, FileDigest]

    @classmethod
    def of(
        cls,
        directory: Path,
        *,
        known: Mapping[str, FileDigest] | None = None,
        exclude: frozenset[str] = frozenset(),
        progress: Progress = SILENT,
    ) -> Manifest:
        """Hashes a directory, symbolic links to files followed.

        Args:
            directory: every file below it counts.
            known: digests of files that were hashed while they were written; not read again.
            exclude: relative paths to leave out, such as the file that will hold the manifest.
            progress: told of the bytes hashed.
        """
        known = known or {}
        paths = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
        names = sorted(paths.keys() - exclude)
        files = {}
        with progress.task("hash", sum(paths[name].stat().st_size for name in names if name not in known)) as task:
            for name in names:
                files[name] = known[name] if name in known else digest(paths[name], task.advance)
        return cls(files=MappingProxyType(files))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, ready for a document."""
        return {path: {"size_bytes": file.size_bytes, "sha256": file.sha256} for path, file in self.files.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Manifest:
        """From what `to_json` gave.

        Raises:
            CheckpointError: it is something else.
        """
        broken = [path for path, entry in content.items() if not _is_digest(entry)]
        if broken:
            problems = [f"{path} has no size_bytes and sha256." for path in sorted(broken)]
            raise CheckpointError(findings("manifest", problems, "Restore the file that held it."))
        return cls(files=MappingProxyType({path: FileDigest(**content[path]) for path in sorted(content)}))

    def diff(self, other: Manifest) -> ManifestDiff:
        """What became of this manifest's files in the other: missing, extra, changed."""
        return ManifestDiff(
            missing=tuple(sorted(self.files.keys() - other.files.keys())),
            extra=tuple(sorted(other.files.keys() - self.files.keys())),
            changed=tuple(path for path in self.files if path in other.files and self.files[path] != other.files[path]),
        )


def _is_digest(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or entry.keys() != {"size_bytes", "sha256"}:
        return False
    return isinstance(entry["size_bytes"], int) and isinstance(entry["sha256"], str)


def digest(path: Path, advance: Callable[[int], None] | None = None) -> FileDigest:
    """Length and sha256 of one file, read in pieces; `advance` is told of each piece's bytes."""
    sha256, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_CHUNK):
            sha256.update(piece)
            size += len(piece)
            if advance is not None:
                advance(len(piece))
    return FileDigest(size_bytes=size, sha256=sha256.hexdigest())


def sha256_of_weights(directory: Path, shards: Iterable[str]) -> str:
    """The identity of a draft's weights: of its safetensors files, in the order of their names; reads every byte."""
    return sha256_of_shards((shard, digest(directory / shard).sha256) for shard in shards)


def sha256_of_shards(shards: Iterable[tuple[str, str]]) -> str:
    """The same from the files' names and hashes."""
    return hashlib.sha256("".join(f"{name} {sha256}\n" for name, sha256 in shards).encode()).hexdigest()
