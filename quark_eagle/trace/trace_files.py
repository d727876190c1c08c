"""The files of a trace: what they are called, whether they are whole, and how they are mapped into memory.

One lies in a directory of its own:

    TRACE/
    ├── trace.json               appears last: without it the directory is no trace
    ├── shard-….safetensors      a batch of prompts: token_ids, log_probs, top2_margin, states
    ├── …
    └── rows-….safetensors       what the target lends to a draft that lacks it: embedding rows, head
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from quark_eagle.checkpoint.reader import read_header
from quark_eagle.errors import CheckpointError, StorageError, TraceError

if TYPE_CHECKING:
    from torch import Tensor

TRACE_NAME = "trace.json"
RECORDING_NAME = "recording.json"
ROWS_NAME = "rows.safetensors"  # or rows-<recording>.safetensors


def document_path(directory: Path) -> Path:
    """Of ``trace.json``, which a finished trace has.

    Raises:
        TraceError: there is none.
    """
    path = directory / TRACE_NAME
    if path.is_file():
        return path
    if (directory / RECORDING_NAME).is_file():
        done, total = recording_state(directory)
        raise TraceError(
            f"{directory}: is an unfinished trace ({done} of {total} shards recorded), but a finished one was needed. "
            "Run the same `quark-eagle trace` command again: it continues where it stopped."
        )
    found = "a directory without trace.json" if directory.is_dir() else "a file" if directory.exists() else "nothing"
    raise TraceError(f"{directory}: found {found}, but a trace was needed. Record one with `quark-eagle trace`.")


def holds_rows(file: str) -> bool:
    """Whether a file of that name holds what the target lends."""
    return file.startswith("rows")


def recording_state(directory: Path) -> tuple[int, int]:
    """(shards recorded, shards in all) of an unfinished trace; (0, 0) if its plan cannot be read."""
    try:
        found = json.loads((directory / RECORDING_NAME).read_text(encoding="utf-8"))
        return len(list(directory.glob(f"shard-{found['recording']}-*.safetensors"))), int(found["num_shards"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


def problems_of(path: Path, size_bytes: int) -> list[str]:
    """What is against a file of that size being here, whole; nothing if its header is sound.

    Raises:
        StorageError: it may not be read.
    """
    if not path.is_file():
        return [f"{path.name} is missing."]
    if path.stat().st_size != size_bytes:
        return [f"{path.name} has {path.stat().st_size} bytes, but trace.json says {size_bytes}."]
    try:
        read_header(path)
    except CheckpointError as error:
        return [str(error)]
    except PermissionError as error:
        raise StorageError(f"{path}: may not be read ({error.strerror}). Check its permissions.") from error
    return []


def mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, mapped into memory."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
