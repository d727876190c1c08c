"""What a target lends to a draft that lacks it, read by name from its files: no model is built, whatever its size.

vLLM shares the target's embedding and head with such a draft (`v1/spec_decode/llm_base_proposer.py`), so these are the
tensors that the draft computes with when it is served. No engine quantizes them, and one that were could not be lent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import TraceError
from quark_eagle.trace.target_identity import TargetGeometry

if TYPE_CHECKING:
    from torch import Tensor

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")
_LENDABLE = ("BF16", "F16", "F32")


@dataclass(frozen=True, slots=True, kw_only=True)
class LentWeights:
    """The embedding and the head of a target on disk, by the names they have there."""

    checkpoint: Checkpoint
    embedding: str
    head: str

    @classmethod
    def find(cls, directory: Path, geometry: TargetGeometry) -> LentWeights:
        """Look them up in the files' headers.

        Raises:
            TraceError: there is none, or it is quantized.
            CheckpointError: the files cannot be read.
        """
        checkpoint = Checkpoint.open(directory)
        embedding = _find(checkpoint, _EMBEDDINGS, geometry, "input embedding")
        head = embedding if geometry.ties_head else _find(checkpoint, _HEADS, geometry, "output layer")
        return cls(checkpoint=checkpoint, embedding=embedding, head=head)

    def embedding_rows(self, token_ids: Tensor) -> Tensor:
        """[U, hidden_size] of the input embedding."""
        return self.checkpoint.tensor(self.embedding)[token_ids]

    def head_rows(self, vocab_size: int) -> Tensor:
        """[vocab_size, hidden_size] of the output layer, without what it was padded with."""
        return self.checkpoint.tensor(self.head)[:vocab_size]


def _find(checkpoint: Checkpoint, endings: tuple[str, ...], geometry: TargetGeometry, what: str) -> str:
    """The tensor of that name that belongs to no layer: DeepSeek's MTP layers have an embedding of their own."""
    named = [name for name in checkpoint.tensors if name.endswith(endings) and ".layers." not in name]
    fitting = [
        name
        for name in named
        if len(shape := checkpoint.info(name).shape) == 2
        and shape[0] >= geometry.vocab_size
        and shape[1] == geometry.hidden_size
        and checkpoint.info(name).dtype in _LENDABLE
    ]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(f"{name} {list(checkpoint.info(name).shape)} {checkpoint.info(name).dtype}" for name in named)
    raise TraceError(
        f"{checkpoint.directory}: found {found or 'no tensor'} as the {what}, but one of "
        f"[{geometry.vocab_size}, {geometry.hidden_size}] in {', '.join(_LENDABLE)} was needed: the draft has none of "
        "its own and borrows the target's. Use a draft that brings embed_tokens and lm_head."
    )
