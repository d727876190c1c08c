"""The header of one safetensors file: which tensors it holds, and where their bytes lie.

A safetensors file is ``[8 bytes: header length n, little endian][n bytes of JSON][the tensors' bytes]``;
the JSON gives each tensor's dtype, shape and place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quark_eagle.errors import CheckpointError

# Bits per element of each dtype that safetensors 0.8 can name (its `Dtype` enum).
DTYPE_BITS: Mapping[str, int] = MappingProxyType(
    {
        "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
        "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
        "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
        "I32": 32, "U32": 32, "F32": 32,
        "I64": 64, "U64": 64, "F64": 64, "C64": 64,
    }
)  # fmt: skip

# The limit of the safetensors library itself; a larger number means that the file is something else.
_LARGEST_HEADER = 100_000_000
_LARGEST_NUMBER = 1 << 63  # of a shape or an offset; larger ones could not even be printed


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """What a header says about one tensor.

    Attributes:
        name: its name on disk.
        dtype: in safetensors' spelling: BF16, F8_E4M3, F32, I64, BOOL …
        shape: row-major; empty for a scalar.
        shard: name of the file that holds it, relative to the checkpoint.
        offset: of its first byte from the beginning of that file.
        size_bytes: length of its data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    offset: int
    size_bytes: int

    @property
    def num_elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(path: Path) -> list[TensorInfo]:
    """The tensors of one safetensors file, in the order of their data.

    Checked: the header is whole and is JSON, no name occurs twice, each size fits dtype and shape, the
    tensors fill the data without gap or overlap, and the file is as long as that.

    Raises:
        CheckpointError: one of these does not hold.
    """
    file_size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > _LARGEST_HEADER:
            raise CheckpointError(f"{path}: is not a safetensors file: no header of believable length. {_advice(path)}")
        if 8 + length > file_size:
            raise CheckpointError(_truncated(path, file_size, 8 + length, "its header alone"))
        try:
            header = json.loads(file.read(length), object_pairs_hook=_unique_names)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: its header cannot be read ({error}). {_advice(path)}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is not a JSON object. {_advice(path)}")
    header.pop("__metadata__", None)
    infos = [_tensor_info(path, name, entry, 8 + length) for name, entry in header.items()]
    infos.sort(key=lambda info: (info.offset, info.size_bytes))
    _check_places(path, infos, 8 + length, file_size)
    return infos


def _tensor_info(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
        if max(*map(abs, shape), abs(begin), abs(end)) > _LARGEST_NUMBER:
            raise OverflowError("a number that no file is as large as")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: its header does not describe {name} ({error!r}). {_advice(path)}") from error
    if dtype not in DTYPE_BITS:
        raise CheckpointError(f"{path}: {name} has dtype {dtype}, which safetensors does not define. {_advice(path)}")
    needed = math.prod(shape) * DTYPE_BITS[dtype] // 8
    if end - begin != needed or min(shape, default=0) < 0 or begin < 0:
        raise CheckpointError(
            f"{path}: {name} is {dtype} {list(shape)}, which needs {needed} bytes, but the header gives {end - begin}. "
            + _advice(path)
        )
    return TensorInfo(
        name=name, dtype=dtype, shape=shape, shard=path.name, offset=data_start + begin, size_bytes=needed
    )


def _check_places(path: Path, infos: list[TensorInfo], data_start: int, file_size: int) -> None:
    position = data_start
    for info in infos:
        if info.offset != position:
            relation = "overlaps the tensor before it" if info.offset < position else "leaves a gap before it"
            raise CheckpointError(f"{path}: {info.name} {relation}. {_advice(path)}")
        position += info.size_bytes
    if file_size < position:
        cut = [info.name for info in infos if info.offset + info.size_bytes > file_size]
        raise CheckpointError(
            _truncated(path, file_size, position, f"{len(cut)} of its {len(infos)} tensors, {cut[0]} first,")
        )
    if file_size > position:
        raise CheckpointError(
            f"{path}: goes on for {file_size - position} bytes after its last tensor. {_advice(path)}"
        )


def _truncated(path: Path, found: int, needed: int, what: str) -> str:
    return f"{path}: is truncated: found {found} bytes, but {what} need {needed}. Download or copy it again."


def _advice(path: Path) -> str:
    return f"Download {path.name} again."


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice} occurs twice")
    return names
