"""`evidence/weights.json`, schema version 1: what became of every tensor, its scales, and what rounding cost it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from quark_eagle.documents.base import Count, Document, read_document

WEIGHTS_SCHEMA_VERSION = 1


class Distribution(Document):
    """Where numbers lie: five of them by rank, and a histogram of all.

    Attributes:
        count: of the numbers.
        edges: [n + 1] of the histogram's bins, ascending.
        counts: [n] numbers in each bin.
    """

    count: Count
    min: float
    p1: float
    p50: float
    p99: float
    max: float
    edges: list[float]
    counts: list[Count]

    @model_validator(mode="after")
    def _holds_together(self) -> Distribution:
        if len(self.edges) != len(self.counts) + 1 or sum(self.counts) != self.count:
            raise ValueError("the histogram does not hold as many numbers as were counted")
        return self


class ModuleWeights(Document):
    """One tensor of the checkpoint, and what became of it.

    Attributes:
        tensor: its name.
        reason: of the plan, for quantizing or keeping it.
        dtype_before: in the BF16 draft; null where that was not at hand.
        size_bytes_before: likewise.
        size_bytes_after: with its scales.
        scales: of its weight; null where it was kept.
        relative_error: of its weight against BF16; null where it was kept, or the BF16 draft was not at hand.
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
    relative_error: Distribution | None


class WeightStatistics(Document):
    """Every tensor of a quantized draft, sorted by name."""

    schema_version: Literal[1]
    modules: list[ModuleWeights]

    @classmethod
    def read(cls, path: Path) -> WeightStatistics:
        """The document in a file.

        Raises:
            StorageError: the file may not be read.
            QuarkEagleError: it is not such a document, or contradicts itself.
        """
        return read_document(
            cls, path, f"weights.json of schema version {WEIGHTS_SCHEMA_VERSION}", "quark-eagle release"
        )

    def to_json(self) -> str:
        """The file's text."""
        return self.model_dump_json(indent=1) + "\n"
