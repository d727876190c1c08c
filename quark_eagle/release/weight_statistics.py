"""What became of every tensor of a draft, measured: bytes, scales, and what rounding did to each element.

A weight that an engine computes with is ``scale * q``. Payload and scales are taken as they lie in the file, whichever
format wrote them and whatever shares a scale: Quark writes [out] or [], compressed-tensors [out, 1] or [1]. Memory does
not grow with the draft: tensors stay on disk and are read in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quark_eagle.checkpoint.manifest import RECORD_NAME
from quark_eagle.checkpoint.reader import Checkpoint, TensorInfo
from quark_eagle.documents.weights import Distribution, ModuleWeights, WeightStatistics
from quark_eagle.errors import CheckpointError, NonFiniteWeightError, findings
from quark_eagle.progress import SILENT, Progress
from quark_eagle.release.distribution import distribution, quarters_of_octaves
from quark_eagle.release.evidence import read_record

if TYPE_CHECKING:
    import torch

BLOCK_ELEMENTS = 1 << 21  # widened to float64 at once
PASSES = 2  # of `distribution`
ERROR_EDGES = tuple(i / 512 for i in range(37))
"""Up to 7 %: rounding to FP8 moves an element by 1/17 at most, dividing in BF16 by 0.8 % more; see `quark_eagle.fp8`.

Farther away are only those that are smaller than the scale can show, and they have one bin together.
"""
_IN_FP8 = "F8_E4M3"
_OF_THE_CACHE = (".k_scale", ".v_scale", ".output_scale")


def measure(
    output_dir: Path | str, source_dir: Path | str | None = None, progress: Progress = SILENT
) -> WeightStatistics:
    """Every tensor of a quantized draft: dtype, bytes, scales and, beside the BF16 draft, errors.

    Args:
        output_dir: a draft that `quantize` wrote; what was decided of each tensor is read from its record.
        source_dir: the BF16 draft that it was made from; without it nothing is known of what was before.
        progress: told of the payload's bytes, once for each of two passes.

    Raises:
        CheckpointError: the drafts do not belong together, or the first is not what its record says. All findings.
        NonFiniteWeightError: a scale is no positive number, or a weight times its scale is not finite.
        StorageError: a file may not be read.
    """
    output = Checkpoint.open(output_dir)
    source = None if source_dir is None else Checkpoint.open(source_dir)
    decisions = {it["tensor"]: it for it in read_record(output.directory / RECORD_NAME)["plan"]["decisions"]}
    _require_one_draft(output, source, decisions)
    quantized = [name for name, decision in decisions.items() if decision["action"] == "quantize"]
    cache = [info for info in output.tensors.values() if info.name.endswith(_OF_THE_CACHE)]
    passes = 0 if source is None else PASSES
    with progress.task("measure weights", passes * sum(output.tensors[name].size_bytes for name in quantized)) as task:
        modules = [
            _Tensor(
                output=output, source=source, name=name, decision=decisions[name], advance=task.advance
            ).statistics()
            for name in sorted(decisions)
        ]
    return WeightStatistics(
        schema_version=1,
        modules=modules,
        cache_scales={info.name: _single(output, info) for info in cache},
        cache_scales_bytes=sum(info.size_bytes for info in cache),
    )


def _require_one_draft(
    output: Checkpoint, source: Checkpoint | None, decisions: Mapping[str, Mapping[str, Any]]
) -> None:
    """See that headers, record and the BF16 draft's headers speak of the same tensors.

    Raises:
        CheckpointError: they do not; all findings.
    """
    problems = [f"{name} is in {RECORD_NAME}, but not in the file." for name in decisions if name not in output.tensors]
    beside = {scale for name in decisions for scale in _scales_of(name)}
    problems += [
        f"{name} is in the file, but {RECORD_NAME} knows nothing of it."
        for name in output.tensors
        if name not in decisions and name not in beside and not name.endswith(_OF_THE_CACHE)
    ]
    for name, decision in decisions.items():
        info = output.tensors.get(name)
        if info is not None and decision["action"] == "quantize":
            problems += _about_quantized(info, output)
        if info is not None and source is not None:
            problems += _about_source(info, source.tensors.get(name), decision)
    if problems:
        advice = "What became of the weights cannot be said. Quantize the BF16 draft again, or point at the right one."
        raise CheckpointError(findings(str(output.directory), problems, advice))


def _about_quantized(info: TensorInfo, output: Checkpoint) -> Iterator[str]:
    scale = output.tensors.get(f"{info.name}_scale")
    if info.dtype != _IN_FP8:
        yield f"{info.name} is {info.dtype}, but by {RECORD_NAME} it was quantized to {_IN_FP8}."
    if scale is None:
        yield f"{info.name} has no {info.name}_scale beside it."
    elif len(info.shape) != 2 or scale.num_elements not in (1, info.shape[0]):
        yield f"{info.name} is {list(info.shape)}, and {scale.num_elements} scales fit neither it nor its rows."


def _about_source(info: TensorInfo, before: TensorInfo | None, decision: Mapping[str, Any]) -> Iterator[str]:
    if before is None:
        yield f"{info.name} is not in the BF16 draft."
    elif before.shape != info.shape:
        yield f"{info.name} is {list(info.shape)}, but {list(before.shape)} in the BF16 draft."
    elif decision["action"] == "keep" and before.dtype != info.dtype:
        yield f"{info.name} was kept, but is {info.dtype}, and {before.dtype} in the BF16 draft."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """One tensor of both drafts."""

    output: Checkpoint
    source: Checkpoint | None
    name: str
    decision: Mapping[str, Any]
    advance: Callable[[int], None]

    def statistics(self) -> ModuleWeights:
        info = self.output.tensors[self.name]
        before = None if self.source is None else self.source.tensors[self.name]
        is_quantized = self.decision["action"] == "quantize"
        beside = [self.output.tensors[it] for it in _scales_of(self.name) if is_quantized and it in self.output.tensors]
        static = [_single(self.output, it) for it in beside if it.name.endswith(".input_scale")]
        error = distribution(self._errors, _error_grid) if is_quantized and before is not None else None
        return ModuleWeights(
            tensor=self.name,
            action=self.decision["action"],
            reason=self.decision["reason"],
            dtype_before=None if before is None else before.dtype,
            dtype_after=info.dtype,
            shape=list(info.shape),
            size_bytes_before=None if before is None else before.size_bytes,
            size_bytes_after=info.size_bytes + sum(scale.size_bytes for scale in beside),
            scales=self._scales() if is_quantized else None,
            input_scale=static[0] if static else None,
            relative_error=error,
            zeros=None if error is None else info.num_elements - error.count,
        )

    def _scale(self) -> torch.Tensor:
        """[out] or [1] float32, each positive.

        Raises:
            NonFiniteWeightError: one is not.
        """
        scale = self.output.tensor(f"{self.name}_scale").float().flatten()
        if not bool((scale.isfinite() & (scale > 0)).all()):
            raise NonFiniteWeightError(
                f"{self.output.directory}: {self.name}_scale holds what is no positive number. "
                "No engine can compute with it. Quantize the BF16 draft again."
            )
        return scale

    def _scales(self) -> Distribution | None:
        return distribution(lambda: iter([self._scale()]), quarters_of_octaves)

    def _errors(self) -> Iterator[torch.Tensor]:
        """|scale * q - w| / |w| of every w other than 0, in blocks of rows: flat float32."""
        import torch

        assert self.source is not None
        exact, payload = self.source.tensor(self.name), self.output.tensor(self.name)
        scales = self._scale().reshape(-1, 1).expand(len(payload), 1)
        rows = max(1, BLOCK_ELEMENTS // payload.shape[1])
        for before, q, scale in zip(*(torch.split(it, rows) for it in (exact, payload, scales)), strict=True):
            wide = before.double()
            moved = (q.double() * scale.double() - wide).abs() / wide.abs()
            there = moved[wide != 0].float()
            if not bool(there.isfinite().all()):
                raise NonFiniteWeightError(
                    f"{self.output.directory}: {self.name} is not finite everywhere, there or in the BF16 draft. "
                    "What rounding did cannot be said. Repair the BF16 draft, and quantize it again."
                )
            self.advance(q.numel())
            yield there


def _error_grid(smallest: float, largest: float) -> list[float]:
    return [*ERROR_EDGES, max(1.0, largest)]


def _scales_of(tensor: str) -> tuple[str, str]:
    """Names of the scales that may lie beside a weight."""
    return f"{tensor}_scale", f"{tensor.removesuffix('weight')}input_scale"


def _single(output: Checkpoint, info: TensorInfo) -> float:
    """The one number of a static scale.

    Raises:
        NonFiniteWeightError: it is no positive number, or several.
    """
    scale = output.tensor(info.name).flatten()
    if len(scale) != 1 or not bool(scale.isfinite().all()) or float(scale) <= 0:
        raise NonFiniteWeightError(
            f"{output.directory}: {info.name} is not one positive number, which a static scale is. Calibrate again."
        )
    return float(scale)
