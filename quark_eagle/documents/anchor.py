"""Anchor: one served run of the BF16 draft, and replay of the same draft over the path that was served.

Replay stands for serving only as far as the two agree. ``anchor.json`` lies beside ``trace.json``, which it does not
change, and belongs to that trace and that draft by their hashes. A report made from the trace carries it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from quark_eagle.documents.base import Count, Document, Sha256, read_document

ANCHOR_SCHEMA_VERSION = 1
ANCHOR_NAME = "anchor.json"
TOLERANCE = 0.01
"""Relative difference of rounds, or of accepted tokens, up to which replay has found what was served."""


class Anchor(Document):
    """How far replay and serving agree about the BF16 draft.

    Attributes:
        draft_weights_sha256: of the draft that was served and replayed.
        engine: that served it, with its build.
        device: that it was served on.
        dtype: that it was served in.
        replayed_by: what replayed it, with its build.
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

    def to_json(self) -> str:
        """The file's text."""
        return self.model_dump_json(indent=1) + "\n"
