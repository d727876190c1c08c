"""SHA256SUMS: the hash of every file of a bundle, in coreutils' format, so that `sha256sum -c SHA256SUMS` reads it.

    parse(render(hashes)) == hashes

It is written sorted and read strictly. What coreutils would take but a release never writes (a path that leaves the
bundle, an absolute one, a backslash, a file named twice) is refused: such a file is no release's.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quark_eagle.checkpoint.manifest import FileDigest, Manifest, digest
from quark_eagle.documents.base import write_text
from quark_eagle.errors import QuarkEagleError, StorageError, findings
from quark_eagle.progress import SILENT, Progress
from quark_eagle.release.contents import NOT_IN_SUMS, SUMS

FETCHED_WITH = (".git", ".gitattributes", ".cache/huggingface")
"""What git and the Hugging Face hub put beside the files that they fetch: no part of a release, and nobody loads it."""

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")  # two blanks: coreutils' text mode, which on Linux is the only one
_LARGEST_SUMS = 16 << 20
_DEEPEST = 16  # directories inside each other; a checkpoint has one or two


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What lies in a directory.

    Attributes:
        files: regular files, by relative path with forward slashes, sorted.
        foreign: everything that no bundle holds, as (path, what it is): links, pipes, names that no list can hold.
        beside: of `FETCHED_WITH`, what is there; not looked into.
    """

    files: Mapping[str, Path]
    foreign: tuple[tuple[str, str], ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(slots=True)
class _Walk:
    """A listing that is being made; no link is followed, so that it ends and stays inside."""

    files: dict[str, Path] = field(default_factory=dict)
    foreign: list[tuple[str, str]] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)

    def into(self, directory: Path, prefix: str = "") -> None:
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                self._take(entry, prefix + entry.name)

    def _take(self, entry: os.DirEntry[str], path: str) -> None:
        if path in FETCHED_WITH:
            self.beside.append(path)
        elif entry.is_symlink():
            self.foreign.append((shown(path), "is a symbolic link"))
        elif problem := path_problem(path):
            self.foreign.append((shown(path), f"has a name that {problem}"))
        elif entry.is_dir():
            self.into(Path(entry.path), f"{path}/")
        elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            self.files[path] = Path(entry.path)
        else:
            self.foreign.append((shown(path), "is neither a file nor a directory"))


def listing(directory: Path) -> Listing:
    """Everything below a directory.

    Raises:
        StorageError: it may not be read.
    """
    walk = _Walk()
    try:
        walk.into(directory)
    except OSError as error:
        raise StorageError(f"{error.filename}: could not be read ({error.strerror}). Allow it, or copy it.") from error
    return Listing(
        files=dict(sorted(walk.files.items())), foreign=tuple(walk.foreign), beside=tuple(sorted(walk.beside))
    )


def render(hashes: Mapping[str, str]) -> str:
    """The text of SHA256SUMS for files by path: sorted, a line each.

    >>> print(render({"config.json": "ab" * 32}), end="")
    abababababababababababababababababababababababababababababababab  config.json

    Raises:
        QuarkEagleError: a path that the file cannot hold.
    """
    problems = [f"{shown(path)} {problem}." for path in sorted(hashes) if (problem := path_problem(path))]
    if problems:
        raise QuarkEagleError(findings(SUMS, problems, "Rename it."))
    return "".join(f"{hashes[path]}  {path}\n" for path in sorted(hashes))


def parse(text: str) -> Mapping[str, str]:
    """The hashes in such a text, by path.

    Raises:
        QuarkEagleError: it is not one that a release writes; every line that is wrong is listed.
    """
    hashes: dict[str, str] = {}
    problems = [] if text.endswith("\n") else ["ends in the middle of a line."]
    for number, line in enumerate(text.split("\n")[: -1 if text.endswith("\n") else None], start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(f"line {number} is not a hash, two blanks and a path: {shown(line[:100])}")
        elif problem := path_problem(match[2]):
            problems.append(f"line {number}: {shown(match[2])} {problem}.")
        elif match[2] in hashes:
            problems.append(f"line {number}: {match[2]} is listed twice.")
        else:
            hashes[match[2]] = match[1]
    if not problems and list(hashes) != sorted(hashes):
        problems.append("is not sorted by path.")
    if problems:
        raise QuarkEagleError(findings(SUMS, problems, "No release writes such a list. Fetch the bundle again."))
    return hashes


def path_problem(path: str) -> str | None:
    """Why a release holds no file of this path; None if it may.

    >>> path_problem("evidence/parity.json")
    >>> path_problem("../model.safetensors")
    'leaves the bundle'
    """
    if path.startswith("/"):
        return "is an absolute path"
    if "\\" in path:
        return "holds a backslash"
    if not path.isprintable():
        return "holds what cannot be printed"  # line breaks, escapes, undecodable bytes
    parts = path.split("/")
    if ".." in parts:
        return "leaves the bundle"
    if not path or "" in parts or "." in parts:
        return "is not written in the shortest way"
    if path != path.strip():
        return "begins or ends with a blank"
    if len(parts) > _DEEPEST:
        return "lies too deep"
    return None


def shown(text: str) -> str:
    """A name as it may be printed, whatever whoever chose it had in mind.

    >>> len(shown(chr(27) + "[2J")), shown("plain")
    (9, 'plain')
    """
    return text if text.isprintable() else ascii(text)


def write(directory: Path, *, known: Mapping[str, FileDigest] | None = None, progress: Progress = SILENT) -> Manifest:
    """Write SHA256SUMS for everything that lies in a directory, and return what it says.

    Args:
        directory: a bundle that is whole but for this file and the signature.
        known: digests of files that were hashed while they were written; not read again.
        progress: told of the bytes hashed.

    Raises:
        QuarkEagleError: there is something in it that no bundle holds.
        StorageError: it may not be read, or the file not be written.
    """
    found = listing(directory)
    problems = [f"{path} {what}." for path, what in found.foreign]
    if problems:
        raise QuarkEagleError(findings(str(directory), problems, "A bundle holds plain files alone. Take it out."))
    manifest = hashed(found, known=known, progress=progress)
    write_text(directory / SUMS, render({path: file.sha256 for path, file in manifest.files.items()}))
    return manifest


def hashed(found: Listing, *, known: Mapping[str, FileDigest] | None = None, progress: Progress = SILENT) -> Manifest:
    """Digests of all files of a listing but those that SHA256SUMS cannot hold.

    Raises:
        StorageError: a file may not be read.
    """
    known = known or {}
    paths = {name: path for name, path in found.files.items() if name not in NOT_IN_SUMS}
    try:
        total = sum(path.stat().st_size for name, path in paths.items() if name not in known)
        with progress.task("hash", total) as task:
            files = {name: known.get(name) or digest(path, task.advance) for name, path in paths.items()}
    except OSError as error:
        raise StorageError(f"{error.filename}: could not be read ({error.strerror}). Allow it, or copy it.") from error
    return Manifest(files=files)


def read(directory: Path) -> Mapping[str, str]:
    """What the SHA256SUMS of a bundle says.

    Raises:
        QuarkEagleError: it is not one that a release writes, or too large to be one.
        StorageError: it may not be read.
    """
    path = directory / SUMS
    try:
        if path.stat().st_size > _LARGEST_SUMS:
            raise QuarkEagleError(f"{SUMS}: has {path.stat().st_size} bytes; no release has so many files.")
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: could not be read ({error.strerror}). Fetch the bundle again.") from error
    try:
        return parse(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise QuarkEagleError(f"{SUMS}: is no UTF-8 text. Fetch the bundle again.") from error


def differences(expected: Mapping[str, str], manifest: Manifest) -> Iterator[str]:
    """How a bundle's files differ from what SHA256SUMS says, a sentence for each file."""
    for path in sorted(expected.keys() | manifest.files.keys() | NOT_IN_SUMS & expected.keys()):
        if path in NOT_IN_SUMS:
            yield f"{path} is listed, but no list can hold it."
        elif path not in manifest.files:
            yield f"{path} is missing."
        elif path not in expected:
            yield f"{path} is extra: it was not released."
        elif manifest.files[path].sha256 != expected[path]:
            yield f"{path} has changed: it was {expected[path]}, and is {manifest.files[path].sha256}."
