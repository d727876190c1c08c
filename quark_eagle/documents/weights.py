"""`evidence/weights.json`, schema version 1: what became of every tensor, and how far its numbers moved."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from quark_eagle.documents.base import Count, Document, read_document

WEIGHTS_SCHEMA_VERSION = 1


class Distribution(Document):
    """Many numbers in few: order statistics, which are numbers that occurred, and a histogram.

    Attributes:
        count: how many numbers.
        p1: the smallest of them that 1 % do not exceed; `p50` and `p99` likewise.
        edges: of the histogram's bins, ascending, one more than bins. A bin holds its lower edge, the last holds both.
        counts: in each bin.
    """

    count: Annotated[int, Field(ge=1)]
    min: float
    p1: float
    p50: float
    p99: float
    max: float
    edges: Annotated[list[float], Field(min_length=2)]
    counts: list[Count]

    @model_validator(mode="after")
    def _holds_together(self) -> Distribution:
        problems = []
        if len(self.edges) != len(self.counts) + 1:
            problems.append(f"{len(self.counts)} bins have {len(self.edges)} edges")
        if sum(self.counts) != self.count:
            problems.append(f"the bins hold {sum(self.counts)} numbers of {self.count}")
        if any(low >= high for low, high in pairwise(self.edges)):
            problems.append("the edges do not ascend")
        if any(low > high for low, high in pairwise((self.min, self.p1, self.p50, self.p99, self.max))):
            problems.append("min, p1, p50, p99, max do not ascend")
        if self.min < self.edges[0] or self.max > self.edges[-1]:
            problems.append("a number lies outside of all bins")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class ModuleWeights(Document):
    """One tensor of the draft, and what became of it.

    Attributes:
        tensor: its name on disk.
        action: what the plan decided.
        reason: why, in the plan's words.
        dtype_before: in safetensors' spelling; null where the BF16 draft was not at hand.
        dtype_after: of what lies in the file.
        size_bytes_before: null with `dtype_before`.
        size_bytes_after: of the tensor and of all scales that lie beside it.
        scales: of ``weight_scale``; null for what was kept.
        input_scale: the static scale of what is multiplied with it; null where it is made at run time.
        relative_error: |scale * q - w| / |w| of every element w other than 0; null for what was kept, and where the
            BF16 draft was not at hand.
        zeros: elements that were 0 before, which have no relative error; null with it.
    """

    tensor: str
    action: Literal["quantize", "keep"]
    reason: str
    dtype_before: str | None
    dtype_after: str
    shape: list[Count]
    size_bytes_before: Count | None
    size_bytes_after: Count
    scales: Distribution | None
    input_scale: Annotated[float, Field(gt=0)] | None
    relative_error: Distribution | None
    zeros: Count | None

    @model_validator(mode="after")
    def _kept_or_quantized(self) -> ModuleWeights:
        problems = []
        if (self.scales is None) != (self.action == "keep"):
            problems.append("what is quantized has scales, and what is kept has none")
        if (self.dtype_before is None) != (self.size_bytes_before is None):
            problems.append("dtype and bytes before are known together or not at all")
        if self.action == "keep" and (self.relative_error or self.dtype_before not in (None, self.dtype_after)):
            problems.append("what is kept has the dtype that it had, and no error")
        if (self.relative_error is None) != (self.zeros is None):
            problems.append("errors and zeros are known together or not at all")
        if problems:
            raise ValueError(f"{self.tensor}: {'; '.join(problems)}")
        return self


class WeightStatistics(Document):
    """`evidence/weights.json`: every tensor of the draft, whatever became of it.

    Attributes:
        modules: by the name of their tensor, sorted.
        cache_scales: scales of an FP8 KV cache, by the name of their tensor; empty if there are none.
        cache_scales_bytes: of all of them.
    """

    schema_version: Literal[1]
    modules: list[ModuleWeights]
    cache_scales: dict[str, Annotated[float, Field(gt=0)]]
    cache_scales_bytes: Count

    @model_validator(mode="after")
    def _each_once(self) -> WeightStatistics:
        names = [module.tensor for module in self.modules]
        if names != sorted(set(names)):
            raise ValueError("tensors are not in order, or one is there twice")
        if len({module.size_bytes_before is None for module in self.modules}) > 1:
            raise ValueError("bytes before are known of some tensors only")
        return self

    @property
    def size_bytes_before(self) -> int | None:
        """Of all tensors of the BF16 draft; None where it was not at hand."""
        before = [module.size_bytes_before for module in self.modules]
        return None if None in before else sum(size or 0 for size in before)

    @property
    def size_bytes_after(self) -> int:
        """Of all tensors together, scales included."""
        return sum(module.size_bytes_after for module in self.modules) + self.cache_scales_bytes

    @classmethod
    def read(cls, path: Path) -> WeightStatistics:
        """The document in a file.

        Raises:
            StorageError: the file may not be read.
            QuarkEagleError: it is not such a document, or contradicts itself.
        """
        what = f"weights of schema version {WEIGHTS_SCHEMA_VERSION}"
        return read_document(cls, path, what, "quark-eagle release")
