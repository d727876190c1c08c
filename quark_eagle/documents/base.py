"""What all documents share: strictness, how one is read, and how its file is written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quark_eagle.errors import QuarkEagleError, StorageError, UsageError, findings

Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def sha256_of_prompts(prompts: Iterable[tuple[str, str, str, str]]) -> str:
    """Of (id, category, split, sha256) of each prompt, in order: one left out changes it."""
    digest = hashlib.sha256()
    for prompt in prompts:
        line = json.dumps(list(prompt), separators=(",", ":"), ensure_ascii=False)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


class Document(BaseModel):
    """A document or a part of one: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def to_json(self) -> str:
        """The file's text."""
        return self.model_dump_json(indent=1) + "\n"


def without_absent(content: dict[str, Any], name: str) -> dict[str, Any]:
    """Without a part that a measurement does not have: its document is then what it was before there was that part."""
    if content.get(name) is None:
        content.pop(name, None)
    return content


# As JSON escapes them; raw ones are no JSON. The first group skips escaped backslashes.
_CONTROL = re.compile(r"(?<!\\)(?:\\\\)*\\(?:[bfnrt]|u00(?:[01][0-9a-fA-F]|7[fF]|[89][0-9a-fA-F]))")

DocumentT = TypeVar("DocumentT", bound=Document)


def read_document(cls: type[DocumentT], path: Path, what: str, writer: str, *, has_prose: bool = False) -> DocumentT:
    """The document in a file.

    Args:
        cls: its type.
        path: of the file.
        what: it should be, as a person calls it: "parity.json of schema version 1".
        writer: the command that writes such a file.
        has_prose: sentences, which may have several lines, and not names and numbers alone.

    Raises:
        StorageError: the file may not be read.
        QuarkEagleError: it is not such a document, or contradicts itself.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StorageError(f"{path}: could not be read ({why}). Point at a {what}, written by `{writer}`.") from error
    if not has_prose and _CONTROL.search(text):
        # GitHub reads commands from the lines of a log, and a name with a line break would be one.
        raise QuarkEagleError(f"{path}: a string in it holds a control character, which a {what} has nowhere.")
    try:
        return cls.model_validate_json(text)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, it['loc'])) or 'document'}: {it['msg']}." for it in error.errors()[:10]]
        raise QuarkEagleError(
            findings(str(path), problems, f"It is not a {what}. Make it again with `{writer}`.")
        ) from error


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Check before the work that its document may be written.

    Raises:
        UsageError: it exists and may not be replaced, is a directory, or its directory does not exist.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a directory, but a file name was needed. Name the file to write.")
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: exists, and nothing existing is touched. Choose another name, or pass --overwrite.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: its directory does not exist. Create it, or choose another name.")


def write_text(path: Path, text: str) -> None:
    """Write a document whole or not at all; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside its place first, then renamed.

    Raises:
        StorageError: the disk is full, or the directory may not be written to.
    """
    handle, beside = -1, ""
    try:
        handle, beside = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(0o644)  # mkstemp makes it private
        Path(beside).replace(path)
    except OSError as error:
        raise StorageError(
            f"{path}: could not be written ({error.strerror}); it needs {len(content)} bytes. "
            "What was there before is unchanged. Free some space or choose another place."
        ) from error
    finally:
        if beside:
            Path(beside).unlink(missing_ok=True)
