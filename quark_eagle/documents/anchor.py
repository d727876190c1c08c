"""Anchor: one served run of the BF16 draft, and replay of the same draft over the path that was served.

Replay stands for serving only as far as the two agree. ``anchor.json`` lies beside ``trace.json``, which it does not
change, and belongs to that trace and that draft by their hashes. A report made from the trace carries it.
"""

from __future__ import annotations

from math import isclose
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from quark_eagle.documents.base import Count, Document, Sha256, read_document

ANCHOR_SCHEMA_VERSION = 1
ANCHOR_NAME = "anchor.json"
TOLERANCE = 0.01
"""Relative difference of rounds, or of accepted tokens, up to which replay has found what was served."""


def relative(found: float, reference: float) -> float:
    """|found / reference - 1|; 0 where both are 0.

    >>> relative(99, 100), relative(0, 0), relative(1, 0)
    (0.010000000000000009, 0.0, 1.0)
    """
    return abs(found / reference - 1) if reference else float(found != reference)


class Anchor(Document):
    """How far replay and serving agree about the BF16 draft.

    Attributes:
        draft_weights_sha256: of the draft that was served and replayed.
        engine: that served it, with its build.
        device: that it was served on.
        dtype: that it was served in.
        replayed_by: what replayed it, with its build, and on what.
        replay_dtype: of replay's activations; the drafts are to be compared in the same.
        num_prompts: whose rounds were compared; a sample where it is fewer than `num_prompts_of_trace`.
        num_identical: of these, prompts whose rounds are equal one by one.
        difference: the larger of the two relative differences, of rounds and of accepted tokens.
        tau_error: τ replayed / τ served - 1, on the same path.
        bound: of the size of that error: the farther end of its two-sided 90 % interval, by prompt (delta method).
    """

    schema_version: Literal[1]
    created: str
    trace_sha256: Sha256
    draft_weights_sha256: Sha256
    num_speculative_tokens: Annotated[int, Field(ge=1)]
    engine: str
    device: str
    dtype: str
    replayed_by: str
    replay_dtype: str
    num_prompts: Count
    num_prompts_of_trace: Count
    num_identical: Count
    served_num_drafts: Count
    served_num_accepted_tokens: Count
    replayed_num_drafts: Count
    replayed_num_accepted_tokens: Count
    difference: Annotated[float, Field(ge=0)]
    tau_error: float
    bound: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _rates_are_those_of_the_counts(self) -> Anchor:
        found = max(
            relative(self.replayed_num_drafts, self.served_num_drafts),
            relative(self.replayed_num_accepted_tokens, self.served_num_accepted_tokens),
        )
        error = self.served_num_drafts / self.replayed_num_drafts - 1 if self.replayed_num_drafts else 0.0
        if not (isclose(found, self.difference) and isclose(error, self.tau_error, abs_tol=1e-12)):
            raise ValueError(f"difference and tau_error are not those of the counts ({found:.6f}, {error:.6f})")
        if self.bound < abs(error):
            raise ValueError(f"bound is smaller than the error that was found ({abs(error):.6f})")
        return self

    @property
    def matches(self) -> bool:
        """Whether replay found what was served."""
        return self.difference <= TOLERANCE

    @property
    def in_words(self) -> str:
        """What was compared with what, and what came of it."""
        return (
            f"the BF16 draft served by {self.engine} on {self.num_prompts} of {self.num_prompts_of_trace} prompts: "
            f"{self.served_num_drafts} rounds served, {self.replayed_num_drafts} replayed; "
            f"{self.served_num_accepted_tokens} tokens accepted served, {self.replayed_num_accepted_tokens} replayed; "
            f"{self.num_identical} prompts equal round by round"
        )

    @classmethod
    def read(cls, path: Path) -> Anchor:
        """The document in a file.

        Raises:
            StorageError: the file may not be read.
            QuarkEagleError: it is not such a document.
        """
        what = f"anchor of schema version {ANCHOR_SCHEMA_VERSION}"
        return read_document(cls, path, what, "quark-eagle trace TARGET --engine vllm")
