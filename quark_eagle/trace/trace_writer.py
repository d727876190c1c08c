"""TraceWriter: a trace that is being recorded, shard by shard, and can be killed between any two bytes.

    TRACE/
    ├── recording.json                  what is recorded, and the lock of the process that does
    ├── shard-<recording>-00000.…       whole, each by a rename
    └── trace.json                      last, by a rename; recording.json goes

File names carry the recording's hash. So the same command finds its own shards again and continues, another one
cannot mistake them for its own, and a finished trace that is being replaced stays whole until the new one is.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quark_eagle.checkpoint.manifest import FileDigest, digest
from quark_eagle.checkpoint.reader import read_header
from quark_eagle.checkpoint.shard_writer import ShardWriter, TensorSpec, aligned
from quark_eagle.documents.anchor import ANCHOR_NAME
from quark_eagle.errors import CheckpointError, StorageError, UsageError, findings
from quark_eagle.trace.target_trace import RECORDING_NAME, TRACE_NAME
from quark_eagle.trace.trace_document import ShardInfo, TraceDocument

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {"torch.int64": "I64", "torch.float32": "F32", "torch.bfloat16": "BF16"}


@dataclass(slots=True, kw_only=True)
class TraceWriter:
    """An unfinished trace.

    Attributes:
        directory: of the trace.
        recording: hash of everything that decides the bytes: target, sampling, prompts, batches.
        num_shards: when it is finished.
    """

    directory: Path
    recording: str
    num_shards: int
    _digests: dict[str, FileDigest]

    @classmethod
    @contextmanager
    def begin(
        cls, directory: Path, plan: Mapping[str, Any], num_shards: int, *, overwrite: bool
    ) -> Iterator[TraceWriter]:
        """Begin a recording, or continue the one of the same plan; locked while the block runs.

        Args:
            directory: of the trace; made if it does not exist.
            plan: JSON values that decide the bytes of the trace.
            num_shards: how many there will be.
            overwrite: a finished trace or another plan's unfinished one may be replaced.

        Raises:
            UsageError: something else is there, or another process is recording.
            StorageError: the directory cannot be written.
        """
        recording = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:12]
        refuse_existing(directory, overwrite=overwrite)
        with storage_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(directory / RECORDING_NAME, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _lock(descriptor, directory)
                _adopt(
                    descriptor,
                    directory,
                    {"recording": recording, "num_shards": num_shards, "plan": dict(plan)},
                    overwrite,
                )
                writer = cls(directory=directory, recording=recording, num_shards=num_shards, _digests={})
                writer._drop_broken()
                yield writer
            finally:
                for part in directory.glob("*.part"):
                    part.unlink(missing_ok=True)
                os.close(descriptor)

    def shard_name(self, number: int) -> str:
        """File name of a shard."""
        return f"shard-{self.recording}-{number:05d}.safetensors"

    @property
    def rows_name(self) -> str:
        """File name of the rows that the target lends."""
        return f"rows-{self.recording}.safetensors"

    def has(self, number: int) -> bool:
        """Whether that shard is recorded."""
        return (self.directory / self.shard_name(number)).is_file()

    def write(self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """One file, whole or not at all.

        Args:
            name: `shard_name` or `rows_name`.
            tensors: contiguous or not; int64, float32 or bfloat16.
            metadata: JSON values for the header; `metadata` reads them back.
        """
        specs = aligned(
            TensorSpec(name=key, dtype=_DTYPES[str(t.dtype)], shape=tuple(t.shape)) for key, t in tensors.items()
        )
        path, part = self.directory / name, self.directory / f"{name}.part"
        with storage_errors(path):
            part.unlink(missing_ok=True)
            with ShardWriter(
                part, specs, {"format": "pt", "trace": json.dumps(metadata, ensure_ascii=False)}
            ) as writer:
                for spec in specs:
                    writer.write(spec.name, _bytes(tensors[spec.name]))
            part.rename(path)
        self._digests[name] = FileDigest(size_bytes=writer.size_bytes, sha256=writer.sha256)

    def metadata(self, name: str) -> Any:
        """What `write` was given for this file."""
        from safetensors import safe_open

        with safe_open(self.directory / name, framework="pt") as file:
            return json.loads(file.metadata()["trace"])

    def file_info(self, name: str) -> ShardInfo:
        """Size and hash of a file; those of an earlier run are hashed anew."""
        found = self._digests.get(name) or digest(self.directory / name)
        return ShardInfo(file=name, size_bytes=found.size_bytes, sha256=found.sha256)

    def finish(self, document: TraceDocument) -> None:
        """Make it a trace: ``trace.json`` appears, and what belongs to an older recording goes."""
        path, part = self.directory / TRACE_NAME, self.directory / f"{TRACE_NAME}.part"
        with storage_errors(path):
            with part.open("wb") as file:
                file.write(document.to_bytes())
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
            kept = {shard.file for shard in document.shards}
            for stale in (*self.directory.glob("shard-*.safetensors"), *self.directory.glob("rows*.safetensors")):
                if stale.name not in kept:
                    stale.unlink(missing_ok=True)
            (self.directory / ANCHOR_NAME).unlink(missing_ok=True)  # of an older trace; this one's comes after it
            (self.directory / RECORDING_NAME).unlink(missing_ok=True)

    def require_space(self, size_bytes: int) -> None:
        """Refuse to begin what the disk cannot hold.

        Raises:
            StorageError: says how much is needed and how much is free.
        """
        free = shutil.disk_usage(self.directory).free
        if free < size_bytes:
            raise StorageError(
                f"{self.directory}: the disk has {free} bytes free, but the trace needs up to {size_bytes}. "
                "Nothing was recorded. Free some space, record fewer prompts (--limit) or tokens (--max-tokens), "
                "or store a third with --project."
            )

    def _drop_broken(self) -> None:
        """A shard that a power cut left without its content is recorded again."""
        for number in range(self.num_shards):
            path = self.directory / self.shard_name(number)
            try:
                if path.is_file():
                    read_header(path)
            except CheckpointError:
                path.unlink()


def refuse_existing(directory: Path, *, overwrite: bool) -> None:
    """See that nothing but a trace would be replaced, and a finished one only with ``overwrite``.

    Raises:
        UsageError: says what is there.
    """
    if not os.path.lexists(directory):
        return
    if not directory.is_dir():
        raise UsageError(f"{directory}: is a file, but the output is a directory. Choose another --output.")
    if (directory / TRACE_NAME).exists():
        if not overwrite:
            raise UsageError(
                f"{directory}: holds a finished trace, and nothing existing is touched. "
                "Choose another --output, or pass --overwrite."
            )
    elif not (directory / RECORDING_NAME).exists() and any(directory.iterdir()):
        raise UsageError(
            f"{directory}: holds files, but no trace; --overwrite replaces nothing else. Choose another --output."
        )


@contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """What the file system refuses, as a sentence that says how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.EIO,
        ):
            raise
        raise StorageError(
            f"{error.filename or where}: could not be written: {error.strerror}. What was recorded before is kept. "
            "Free some space or check the permissions, then run the same command again: it continues where it stopped."
        ) from error


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"{directory}: another process is recording there. Wait for it, or choose another --output."
        ) from None


def _adopt(descriptor: int, directory: Path, content: Mapping[str, Any], overwrite: bool) -> None:
    """See that recording.json is this recording's, or make it so.

    Raises:
        UsageError: an unfinished recording of another plan is there.
    """
    try:
        found = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    except ValueError:
        found = None  # new, or killed before its first byte was written
    if found is not None and found.get("recording") != content["recording"] and not overwrite:
        problems = _differences(found.get("plan", {}), content["plan"])
        advice = (
            "Run the command that began it to continue, choose another --output, or pass --overwrite to drop what "
            "it recorded."
        )
        raise UsageError(
            findings(f"{directory}: holds an unfinished trace, but another one than this would be", problems, advice)
        )
    if found != content:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(content, indent=1).encode(), 0)


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Fields that differ, wanted and found, by dotted name."""
    problems = []
    for key in sorted(found.keys() | wanted.keys()):
        ours, theirs = wanted.get(key), found.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            problems += _differences(theirs, ours, f"{prefix}{key}.")
        elif ours != theirs:
            shown = [text if len(text := json.dumps(value)) <= 60 else "others" for value in (ours, theirs)]
            problems.append(f"{prefix}{key}: wanted {shown[0]}, found {shown[1]}.")
    return problems or ["its recording.json is damaged."]


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    array: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def first_places(lengths: Sequence[int]) -> list[int]:
    """Where each of several runs of these lengths begins when they lie one after another.

    >>> first_places([3, 1, 2])
    [0, 3, 4]
    """
    places = [0]
    for length in lengths[:-1]:
        places.append(places[-1] + length)
    return places[: len(lengths)]
