"""The files beside the weights: tokenizer, generation config and licence are carried along, card and code are not.

A pickle can run any code when it is read, and a ``*.py`` file is there to be run (``trust_remote_code``): neither is
brought into a checkpoint that says it was verified. They are named in the report instead.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quark_eagle.checkpoint.manifest import RECORD_NAME
from quark_eagle.checkpoint.reader import CONFIG_NAME, INDEX_NAME, PICKLE_SUFFIXES, Checkpoint

_CODE = (".py", ".pyc", ".so", ".sh")
_PICKLES = (*PICKLE_SUFFIXES, ".pickle", ".joblib", ".npy", ".npz")
_OTHER_WEIGHTS = (".safetensors", ".gguf", ".onnx", ".h5", ".msgpack", ".tflite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """The files beside the weights, by relative path.

    Attributes:
        carried: copied as they are.
        left_out: path and reason of those that are not.
    """

    carried: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Companions:
        """Sorts the files of a checkpoint's directory; hidden ones are not looked at."""
        carried, left_out = [], []
        written = {CONFIG_NAME, INDEX_NAME, RECORD_NAME, *checkpoint.shards}
        for path in sorted(_files(checkpoint.directory)):
            name = path.relative_to(checkpoint.directory).as_posix()
            if name in written:
                continue
            reason = _reason_to_leave_out(path)
            if reason:
                left_out.append((name, reason))
            else:
                carried.append(name)
        return cls(carried=tuple(carried), left_out=tuple(left_out))

    def copy(self, source: Path, staging: Path) -> None:
        """Copies what is carried; the content of a symbolic link, not the link."""
        for name in self.carried:
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, staging / name)


def _files(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_file():
            yield path
        # A linked directory may lead anywhere, even back here.
        elif path.is_dir() and not path.is_symlink():
            yield from _files(path)


def _reason_to_leave_out(path: Path) -> str:
    if path.stem.lower() == "readme":
        return "model card: it describes the original draft, not this one"
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        return "pickle: reading it can run any code"
    if suffix in _CODE:
        return "code: vLLM does not need it for an Eagle3 draft"
    if suffix in _OTHER_WEIGHTS:
        return "other weights, which this checkpoint does not use"
    return ""
