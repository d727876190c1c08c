"""Checkpoint: a directory of safetensors files, opened by reading nothing but their headers.

A draft of 6 GB is described after reading a few kilobytes, and every promise that its headers make (sizes,
offsets, the files' lengths) is checked on the way. Torch is imported only when a tensor's values are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from quark_eagle.checkpoint.header import TensorInfo, read_header
from quark_eagle.errors import CheckpointError, MissingTensorError, StorageError, findings

if TYPE_CHECKING:
    import torch

__all__ = ["CONFIG_NAME", "INDEX_NAME", "PICKLE_SUFFIXES", "Checkpoint", "TensorInfo", "read_header"]

CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_CHUNK = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint's config and the description of its tensors; the data stays on disk.

    Attributes:
        directory: where it lies.
        config: ``config.json`` as it is written, nothing filled in.
        tensors: by name, sorted by name.
        shards: names of the safetensors files, sorted.
        index: name of the index file, if the checkpoint has one.
    """

    directory: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    shards: tuple[str, ...]
    index: str | None

    @classmethod
    def open(cls, directory: Path | str) -> Checkpoint:
        """The checkpoint in a directory, from its headers alone.

        Raises:
            CheckpointError: there is none, it is pickled, or its files contradict themselves or each
                other. Every contradiction is listed, not the first one only.
            StorageError: a file may not be read.
        """
        directory = Path(directory)
        if not directory.is_dir():
            found = "a file" if directory.exists() else "nothing"
            raise CheckpointError(
                f"{directory}: found {found}, but a draft is a directory with {CONFIG_NAME} and *.safetensors. "
                "Check the path."
            )
        try:
            config = _read_json(directory / CONFIG_NAME)
            shards, index, weight_map = _find_shards(directory)
            tensors = _read_shards(directory, shards, weight_map)
        except PermissionError as error:
            raise StorageError(
                f"{error.filename}: may not be read ({error.strerror}). Check its permissions."
            ) from error
        return cls(
            directory=directory,
            config=config,
            tensors=MappingProxyType({name: tensors[name] for name in sorted(tensors)}),
            shards=shards,
            index=index,
        )

    @property
    def quantization_config(self) -> Mapping[str, Any] | None:
        """``quantization_config``, at the top level or where speculators nests the layer's config; else None."""
        nested = self.config.get("transformer_layer_config")
        for config in (self.config, nested if isinstance(nested, Mapping) else {}):
            found = config.get("quantization_config")
            if isinstance(found, Mapping):
                return found
        return None

    @property
    def is_quantized(self) -> bool:
        """Whether it is quantized already: its config says so, or its tensors are FP8 or smaller, or have scales."""
        return self.quantization_config is not None or any(
            info.dtype.startswith(("F8_", "F6_", "F4")) or name.endswith(("weight_scale", "weight_scale_inv"))
            for name, info in self.tensors.items()
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors together, headers not counted."""
        return sum(info.size_bytes for info in self.tensors.values())

    def info(self, name: str) -> TensorInfo:
        """The description of one tensor.

        Raises:
            MissingTensorError: there is none of that name.
        """
        try:
            return self.tensors[name]
        except KeyError:
            raise MissingTensorError(
                f"{self.directory}: has no tensor {name}. Inspect the draft to see what it holds."
            ) from None

    def tensor(self, name: str) -> torch.Tensor:
        """The values of one tensor, memory-mapped; do not write to it.

        Raises:
            MissingTensorError: there is none of that name.
        """
        from safetensors import safe_open

        info = self.info(name)
        with safe_open(self.directory / info.shard, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def read_bytes(self, info: TensorInfo, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes ``start:stop`` of one tensor's data, exactly as they lie on disk."""
        return b"".join(self.stream(info, start, stop))

    def stream(self, info: TensorInfo, start: int = 0, stop: int | None = None, chunk: int = _CHUNK) -> Iterator[bytes]:
        """The same bytes in pieces of at most ``chunk``, so that memory does not grow with the tensor.

        Raises:
            CheckpointError: the file has become shorter since it was opened.
        """
        stop = info.size_bytes if stop is None else min(stop, info.size_bytes)
        with (self.directory / info.shard).open("rb", buffering=0) as file:
            file.seek(info.offset + start)
            left = stop - start
            while left > 0:
                piece = file.read(min(chunk, left))
                if not piece:
                    raise CheckpointError(
                        f"{self.directory / info.shard}: ended {left} bytes before the end of {info.name}, but it was "
                        f"whole when it was opened. Something is changing the file; start again when it is done."
                    )
                left -= len(piece)
                yield piece


def _read_json(path: Path) -> Mapping[str, Any]:
    """One JSON object.

    Raises:
        CheckpointError: the file is not there, is not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: not found, but the draft's sizes are read from it. Point at the directory that holds {path.name}."
        ) from None
    except ValueError as error:
        raise CheckpointError(
            f"{path}: is not JSON ({error}). Restore the file from where the draft came from."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}, but a JSON object was needed. Restore the file."
        )
    return content


def _find_shards(directory: Path) -> tuple[tuple[str, ...], str | None, Mapping[str, str]]:
    """Names of the shards, the index's name, and what the index says (tensor → shard); empty without one.

    With an index, the shards that it names are the checkpoint and other files are not looked at; without
    one, every ``*.safetensors`` is. vLLM 0.32 chooses likewise (model_loader/weight_utils.py).
    """
    if (directory / INDEX_NAME).is_file():
        return _shards_of_index(directory)
    present = sorted(path.name for path in directory.glob("*.safetensors") if path.is_file())
    if present:
        return tuple(present), None, {}
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{directory}: found only pickled weights ({', '.join(pickles)}), but *.safetensors was needed. "
            "Reading a pickle can run any code it carries. Convert the draft to safetensors, or ask its publisher to."
        )
    raise CheckpointError(
        f"{directory}: found no *.safetensors, but a draft's weights lie in one. Complete the download."
    )


def _shards_of_index(directory: Path) -> tuple[tuple[str, ...], str, Mapping[str, str]]:
    where = directory / INDEX_NAME
    weight_map = _read_json(where).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(
            f"{where}: has no weight_map from tensors to files. Restore the index, or remove it if one file holds all."
        )
    shards = tuple(sorted(set(weight_map.values())))
    # A name with a directory in it could point outside the checkpoint.
    foreign = [shard for shard in shards if Path(shard).name != shard]
    if foreign:
        raise CheckpointError(
            f"{where}: names {', '.join(foreign)}, but shards lie beside the index. Do not trust this checkpoint."
        )
    there = {path.name for path in directory.iterdir()}
    missing = [shard for shard in shards if shard not in there or not (directory / shard).is_file()]
    if missing:
        counts = (
            f"{shard} ({sum(s == shard for s in weight_map.values())} tensors) is not there." for shard in missing
        )
        raise CheckpointError(findings(str(where), list(counts), "Download the draft again: a shard is missing."))
    if not shards:
        raise CheckpointError(f"{where}: its weight_map is empty, but it should name every tensor. Restore the index.")
    return shards, INDEX_NAME, weight_map


def _read_shards(directory: Path, shards: tuple[str, ...], weight_map: Mapping[str, str]) -> dict[str, TensorInfo]:
    """Every tensor of every shard; all contradictions at once."""
    tensors: dict[str, TensorInfo] = {}
    problems: list[str] = []
    for shard in shards:
        try:
            infos = read_header(directory / shard)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for info in infos:
            if info.name in tensors:
                problems.append(
                    f"{info.name} lies in {tensors[info.name].shard} and in {shard}; which one counts is undefined."
                )
            tensors[info.name] = info
    if len(problems) == 1 and len(shards) == 1:
        raise CheckpointError(problems[0])
    if not problems:
        for name, shard in weight_map.items():
            if name not in tensors:
                problems.append(f"{INDEX_NAME} says that {shard} holds {name}, but it does not.")
            elif tensors[name].shard != shard:
                problems.append(f"{INDEX_NAME} says that {shard} holds {name}, but {tensors[name].shard} does.")
    if problems:
        raise CheckpointError(findings(str(directory), problems, "Restore the files from where the draft came from."))
    return tensors
