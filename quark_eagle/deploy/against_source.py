"""Is it the source's, kept byte for byte or rounded to FP8? Read in pieces: memory does not grow with the draft.

A weight ``w`` and its FP8 form ``scale * q`` differ by at most 1/17 of ``|w|`` (3 mantissa bits, round to nearest) or,
below the smallest normal number, by ``2**-10 * scale``; both are widened by 0.1 % for the float32 arithmetic around the
rounding. Quark 0.13 rounds twice more before that: it stores the scale in float32, but divides in the weight's own
bfloat16, by the scale in bfloat16. That adds ``2**-7`` of ``|w|``, and 1/17 of it again. The bound is stated here anew
and not taken from the code that quantizes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quark_eagle.checkpoint.reader import Checkpoint, TensorInfo
from quark_eagle.deploy.findings import HIGH_PRECISION, Finding, errors, warnings
from quark_eagle.deploy.values import values_of
from quark_eagle.progress import SILENT, Progress, Task

if TYPE_CHECKING:
    from torch import Tensor

FP8_MAX = 448.0
SLACK = 1e-3
DIVISION = 2.0**-7 * 18 / 17
"""What Quark's division in bfloat16 adds, relative to the weight."""
SCALE_OF_ZEROS = 2.0**-23
"""Quark 0.13 writes float32's epsilon for a row of zeros."""

_BLOCK_BYTES = 1 << 20  # with its float32 copies it stays in the cache of a core
_BLOCK = 128
_AGAIN = "Quantize again from this source."


def compare_configs(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str = "") -> list[Finding]:
    """Findings about config fields that differ from the source's, ``quantization_config`` apart."""
    found: list[str] = []
    nested: list[Finding] = []
    for key in sorted((ours.keys() | theirs.keys()) - {"quantization_config"}):
        where, mine, its = f"{path}{key}", ours.get(key), theirs.get(key)
        if key == "transformer_layer_config" and isinstance(mine, Mapping) and isinstance(its, Mapping):
            nested += compare_configs(mine, its, f"{key}.")
        elif key not in ours:
            found.append(f"has no {where}, but the source has. Every field is kept; write it back.")
        elif key not in theirs:
            found.append(f"has {where}, but the source has not. Remove it.")
        elif mine != its:
            found.append(f"says {where} {mine!r}, but the source says {its!r}. Keep the source's.")
    return [*errors("config.json", found, "content"), *nested]


def compare_tensors(
    checkpoint: Checkpoint,
    source: Checkpoint,
    scales: Mapping[str, str],
    progress: Progress = SILENT,
    *,
    activations: Collection[str] = (),
    fused: Sequence[Sequence[str]] = (),
) -> list[Finding]:
    """Findings about tensors that are not what the source makes them.

    Args:
        checkpoint: the quantized one.
        source: the BF16 draft that it was made from.
        scales: FP8 weight → its scale, both as named on disk.
        progress: told about every byte of the source.
        activations: scales of inputs and KV caches, which no source has.
        fused: the weights of each module that runs as one, and so under one scale if it is per tensor.
    """
    found: list[Finding] = []
    for name in sorted(checkpoint.tensors.keys() - source.tensors.keys() - set(scales.values()) - set(activations)):
        found += errors(name, ["is neither in the source nor a scale that a module takes. Remove it."], "content")
    largest: dict[str, float] = {}
    with progress.task("compare with source", source.size_bytes) as task:
        for name, original in source.tensors.items():
            info = checkpoint.tensors.get(name)
            if info is None:
                found += errors(name, ["is in the source, but not here. Put it back."], "content")
                task.advance(original.size_bytes)
            elif name in scales and info.shape == original.shape and len(info.shape) == 2:
                scale = _read(checkpoint, checkpoint.info(scales[name]))
                tally = _compare_fp8(checkpoint, info, scale, source, original, task)
                found += errors(name, tally.problems, "content") + warnings(name, tally.notes, "content")
                largest[name] = tally.largest
            else:
                found += errors(name, _compare_kept(checkpoint, info, source, original, task), "content")
    for names in fused:
        found += _compare_shared_scale(checkpoint, [name for name in names if name in largest], scales, largest)
    return found


def _compare_shared_scale(
    checkpoint: Checkpoint, names: Sequence[str], scales: Mapping[str, str], largest: Mapping[str, float]
) -> list[Finding]:
    """Whether a scale of one number for a module is that of the module's largest weight."""
    own = {name: _read(checkpoint, checkpoint.info(scales[name])).float() for name in names}
    if not own or any(scale.numel() != 1 for scale in own.values()):
        return []
    wanted = max(largest[name] for name in names) / FP8_MAX or SCALE_OF_ZEROS
    problem = f"is not the largest weight of the source's module divided by {FP8_MAX:g}, {wanted:g}. {_AGAIN}"
    return [
        finding
        for name, scale in own.items()
        if not abs(scale.item() - wanted) <= wanted * SLACK
        for finding in errors(scales[name], [f"is {scale.item():g}, which {problem}"], "content")
    ]


def _compare_kept(
    checkpoint: Checkpoint, info: TensorInfo, source: Checkpoint, original: TensorInfo, task: Task
) -> list[str]:
    if (info.dtype, info.shape) != (original.dtype, original.shape):
        task.advance(original.size_bytes)
        was, now = (f"{i.dtype} {list(i.shape)}" for i in (original, info))
        return [f"is {now} without a scale, but {was} in the source. Quantize it, or keep it as it is."]
    differing = False
    for ours, theirs in zip(checkpoint.stream(info), source.stream(original), strict=True):
        differing |= ours != theirs
        task.advance(len(theirs))
    return ["is kept, but its bytes are not the source's. Copy it again."] if differing else []


def _compare_fp8(
    checkpoint: Checkpoint, info: TensorInfo, scale: Tensor, source: Checkpoint, original: TensorInfo, task: Task
) -> _Tally:
    """Whether an FP8 weight is the source's, rounded under a scale that fits."""
    rows, columns = info.shape
    tally = _Tally(rows=rows, columns=columns)
    per_weight = _per_weight(scale.float(), rows, columns)
    if original.dtype not in HIGH_PRECISION:
        tally.foreign = original.dtype
    if original.dtype not in HIGH_PRECISION or per_weight is None:
        task.advance(original.size_bytes)
        return tally  # that the scale's shape fits no scheme is the module's error already
    width = original.size_bytes // max(1, original.num_elements)
    step = max(1, _BLOCK_BYTES // max(1, columns * width))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        weight = values_of(original, source.read_bytes(original, start * columns * width, stop * columns * width))
        q = values_of(info, checkpoint.read_bytes(info, start * columns, stop * columns))
        weight, q = weight.view(-1, columns), q.view(-1, columns)
        tally.compare(start, weight, q, per_weight[start:stop], scale_per_row=_is_per_row(scale, rows))
        task.advance((stop - start) * columns * width)
    return tally


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What was found so far in one weight [rows, columns]."""

    rows: int
    columns: int
    foreign: str = ""
    outside: int = 0
    first: str = ""
    wrong_scales: int = 0
    other_bits: int = 0
    largest: float = 0.0

    def compare(self, start: int, source: Tensor, payload: Tensor, scale: Tensor, *, scale_per_row: bool) -> None:
        """Add rows from `start` on: source and payload [rows, in] as stored, scale [rows, 1 or in] float32."""
        import torch

        weight, q = source.float(), payload.float()
        magnitude = weight.abs()
        distance = (q * scale).sub_(weight).abs_()
        bound = torch.maximum(magnitude / 17, scale * 2.0**-10).mul_(1 + SLACK).add_(magnitude, alpha=DIVISION)
        beyond = (distance <= bound).logical_not_()  # so that NaN is beyond
        if beyond.any():
            row, column = beyond.nonzero()[0].tolist()
            became = f"{weight[row, column]:g} became {(q * scale)[row, column]:g}"
            self.first = self.first or f"row {start + row}, column {column}: {became}"
            self.outside += int(beyond.sum())
        amax = magnitude.amax(dim=1, keepdim=True)
        self.largest = max(self.largest, float(amax.max()))
        if scale_per_row:
            wanted = amax / FP8_MAX
            wanted = wanted.masked_fill(wanted == 0, SCALE_OF_ZEROS)
            self.wrong_scales += int((~((scale - wanted).abs() <= wanted * SLACK)).sum())
        # Quark divides by a scale per row in the weight's own dtype, and by a single one in float32.
        divided = source / scale.to(source.dtype) if scale_per_row else (weight / scale).to(source.dtype)
        quarks = divided.float().clamp_(-FP8_MAX, FP8_MAX).to(payload.dtype)
        self.other_bits += int((quarks.view(torch.uint8) != payload.view(torch.uint8)).sum())

    @property
    def problems(self) -> list[str]:
        """What makes it wrong, as sentences."""
        if self.foreign:
            return [f"is {self.foreign} in the source, which cannot be what it was made from. Name the BF16 draft."]
        problems = []
        if self.outside:
            share = f"{self.outside} of {self.rows * self.columns} weights"
            problems.append(f"{share} are further from the source's than FP8 rounds (first at {self.first}). {_AGAIN}")
        if self.wrong_scales:
            share = f"{self.wrong_scales} of {self.rows} scales"
            problems.append(f"{share} are not the largest weight of the source's row divided by {FP8_MAX:g}. {_AGAIN}")
        return problems

    @property
    def notes(self) -> list[str]:
        """What differs from Quark's own bytes without being wrong."""
        if not self.other_bits or self.outside:
            return []
        share = f"{self.other_bits} of {self.rows * self.columns} FP8 numbers"
        return [f"{share} are not bit for bit what Quark 0.13 makes of the source, but within what FP8 rounds."]


def _read(checkpoint: Checkpoint, info: TensorInfo) -> Tensor:
    return values_of(info, checkpoint.read_bytes(info))


def _per_weight(scale: Tensor, rows: int, columns: int) -> Tensor | None:
    """The scale as it multiplies the weight, [rows, 1 or columns]; None if it fits no scheme."""
    if scale.numel() == 1:
        return scale.reshape(1, 1).expand(rows, 1)
    if _is_per_row(scale, rows):
        return scale.reshape(rows, 1)
    if tuple(scale.shape) == (-(-rows // _BLOCK), -(-columns // _BLOCK)):
        return scale.repeat_interleave(_BLOCK, 0)[:rows].repeat_interleave(_BLOCK, 1)[:, :columns]
    return None


def _is_per_row(scale: Tensor, rows: int) -> bool:
    """Whether there is one for each row: [rows] as Quark writes it, [rows, 1] as compressed-tensors does."""
    return tuple(scale.shape) in ((rows,), (rows, 1))
