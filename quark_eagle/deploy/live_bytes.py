"""The bytes that a parameter must hold, laid out again from the file, as their SHA-256.

The engine told which rows of which tensor went into which rows of the parameter. They are read from the file, cast
where the parameter has another dtype, and padded with zeros where a vocabulary's rows were rounded up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from math import prod

from quark_eagle.checkpoint.reader import Checkpoint, TensorInfo
from quark_eagle.deploy.live_load import LiveParameter, Placement
from quark_eagle.deploy.values import torch_dtype, values_of

_PIECE = 64 << 20


def expected_sha256(parameter: LiveParameter, places: Sequence[Placement], checkpoint: Checkpoint) -> str:
    """Of what the parameter must hold, in hexadecimal.

    Args:
        parameter: as the engine told it.
        places: what went into it, by rows, none of them twice.
        checkpoint: the file that all of it came from.
    """
    digest = hashlib.sha256()
    row_bytes = prod(parameter.shape[1:]) * torch_dtype(parameter.dtype).itemsize
    row = 0
    for place in places:
        for piece in _zeros((place.row - row) * row_bytes):
            digest.update(piece)
        for piece in _pieces(parameter, place, checkpoint.info(place.tensor), checkpoint):
            digest.update(piece)
        row = place.row + place.rows
    rows = parameter.shape[0] if parameter.shape else 1
    for piece in _zeros((rows - row) * row_bytes):
        digest.update(piece)
    return digest.hexdigest()


def _zeros(count: int) -> Iterator[bytes]:
    for start in range(0, count, _PIECE):
        yield bytes(min(_PIECE, count - start))


def _pieces(parameter: LiveParameter, place: Placement, info: TensorInfo, checkpoint: Checkpoint) -> Iterator[bytes]:
    """A tensor as it lies in the parameter; one that needs no cast is read in pieces."""
    is_whole = place.rows * prod(parameter.shape[1:]) == info.num_elements
    if is_whole and parameter.dtype == info.dtype:
        yield from checkpoint.stream(info, chunk=_PIECE)
        return
    import torch

    values = values_of(info, checkpoint.read_bytes(info))
    if not is_whole:  # vLLM cuts off what is too long, rows or columns
        values = values[tuple(slice(size) for size in (place.rows, *parameter.shape[1:]))]
    cast = values.to(torch_dtype(parameter.dtype)).contiguous()
    yield cast.view(-1).view(torch.uint8).numpy().tobytes()
