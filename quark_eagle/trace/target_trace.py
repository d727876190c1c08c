"""TargetTrace: what a target did with a set of prompts, on disk, memory-mapped.

Alignment: row t of a prompt's states is the state after the target consumed token t; aux id i is the residual stream
after i layers (`hidden_states[i]` of transformers); layers lie side by side in ascending order. The last token was
never consumed, so n tokens have n - 1 rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.documents.anchor import ANCHOR_NAME, Anchor
from quark_eagle.errors import TraceError, TraceMismatchError, findings
from quark_eagle.trace.fit import mismatches
from quark_eagle.trace.served_rounds import ServedRounds
from quark_eagle.trace.states import check_states
from quark_eagle.trace.trace_document import Sampling, StatesId, TargetId, TraceDocument, TracedPromptInfo
from quark_eagle.trace.trace_files import (
    RECORDING_NAME,
    ROWS_NAME,
    TRACE_NAME,
    document_path,
    holds_rows,
    mapped,
    problems_of,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DEFAULT_K", "RECORDING_NAME", "ROWS_NAME", "TRACE_NAME", "TargetRows", "TargetTrace", "TracedPrompt"]

DEFAULT_K = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedPrompt:
    """One prompt and the target's answer to it: n tokens, of which n - p were generated. Views of the mapped file.

    Attributes:
        info: who it is, and its lengths.
        token_ids: [n] int64, prompt and answer.
        aux_hidden_states: [n - 1, num_aux * target_hidden_size], or None in a projected trace.
        projected: [n - 1, hidden_size], what the draft's ``fc`` made of them; else None.
        log_probs: [n - p] float32, of each generated token under the sampling; of the unscaled distribution
            (temperature 1) if the sampling was greedy, whose own would be 0 throughout.
        top2_margin: [n - p] float32, largest logit minus the second largest: 0 is a tie.
    """

    info: TracedPromptInfo
    token_ids: Tensor
    aux_hidden_states: Tensor | None
    projected: Tensor | None
    log_probs: Tensor
    top2_margin: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRows:
    """What the target lends to a draft that has none of its own; None where the draft needs nothing.

    Attributes:
        embed_ids: [U] int64, sorted: the tokens that occur in the trace.
        embed_rows: [U, hidden_size], their embeddings.
        lm_head: [vocab_size, hidden_size].
    """

    embed_ids: Tensor | None
    embed_rows: Tensor | None
    lm_head: Tensor | None

    @property
    def weights(self) -> dict[str, Tensor]:
        """As `Eagle3Draft.load` takes them: ``embed_ids``, ``embed_rows``, ``lm_head.weight``."""
        named = {"embed_ids": self.embed_ids, "embed_rows": self.embed_rows, "lm_head.weight": self.lm_head}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


class TargetTrace:
    """A finished trace. Opening it reads ``trace.json`` and its files' headers; the rest is mapped when asked for."""

    def __init__(self, directory: Path, document: TraceDocument) -> None:
        self.directory = directory
        self.document = document

    @classmethod
    def open(cls, path: Path | str) -> TargetTrace:
        """The trace in a directory.

        Raises:
            TraceError: it is none, is unfinished, is damaged, or was written by a newer version.
            StorageError: a file may not be read.
        """
        directory = Path(path)
        document = TraceDocument.read(document_path(directory))
        problems = [
            problem for shard in document.shards for problem in problems_of(directory / shard.file, shard.size_bytes)
        ]
        if problems:
            raise TraceError(
                findings(str(directory), problems, "Record the trace anew, or copy it again from where it is whole.")
            )
        return cls(directory, document)

    @property
    def prompts(self) -> tuple[TracedPromptInfo, ...]:
        """In the order of the prompts' file."""
        return self.document.prompts

    @property
    def target(self) -> TargetId:
        """Whose path it is."""
        return self.document.target

    @property
    def sampling(self) -> Sampling:
        """How the tokens were chosen."""
        return self.document.sampling

    @property
    def states(self) -> StatesId:
        """What the states are: dtype, width, and whose projection if they are projected."""
        return self.document.states

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, command line, prompts' source and hash, the draft it was recorded for."""
        return MappingProxyType(dict(self.document.provenance))

    @property
    def sha256(self) -> str:
        """Of ``trace.json``, which holds the hashes of all other files: the trace's identity."""
        return self.document.sha256

    @property
    def num_generated_tokens(self) -> int:
        """Tokens that the target generated, all prompts together."""
        return sum(info.num_generated for info in self.prompts)

    @property
    def size_bytes(self) -> int:
        """Bytes of the shards and rows."""
        return sum(shard.size_bytes for shard in self.document.shards)

    def __len__(self) -> int:
        return len(self.prompts)

    def prompt(self, i: int) -> TracedPrompt:
        """Prompt i with its tokens and states; nothing is copied.

        Raises:
            TraceError: its states are zero, constant or not finite.
        """
        info = self.prompts[i]
        tensors = self._shards[info.shard]
        tokens = slice(info.first_token, info.first_token + info.num_tokens)
        generated = slice(info.first_generated, info.first_generated + info.num_generated)
        states = tensors["states"][slice(info.first_row, info.first_row + info.num_tokens - 1)]
        is_projected = self.states.projection is not None
        check_states(
            states, 1 if is_projected else len(self.target.aux_layer_ids), f"{self.directory}: prompt {info.id}"
        )
        return TracedPrompt(
            info=info,
            token_ids=tensors["token_ids"][tokens],
            aux_hidden_states=None if is_projected else states,
            projected=states if is_projected else None,
            log_probs=tensors["log_probs"][generated],
            top2_margin=tensors["top2_margin"][generated],
        )

    def __iter__(self) -> Iterator[TracedPrompt]:
        return (self.prompt(i) for i in range(len(self)))

    @cached_property
    def rows(self) -> TargetRows:
        """What the target lends; read from the file when first asked for."""
        tensors: dict[str, Tensor] = {}
        for shard in self.document.shards:
            if holds_rows(shard.file):
                tensors |= mapped(self.directory / shard.file)
        return TargetRows(
            embed_ids=tensors.get("embed_ids"), embed_rows=tensors.get("embed_rows"), lm_head=tensors.get("lm_head")
        )

    @property
    def anchor(self) -> Anchor | None:
        """Replay of the draft that was served along, held against what was served; None if nobody has compared them.

        Raises:
            TraceError: ``anchor.json`` belongs to another trace.
            QuarkEagleError: it is damaged.
        """
        path = self.directory / ANCHOR_NAME
        if not path.exists():
            return None
        found = Anchor.read(path)
        if found.trace_sha256 != self.sha256:
            raise TraceError(
                f"{path}: belongs to another trace (wanted {self.sha256[:12]}…, found {found.trace_sha256[:12]}…). "
                "Remove it, or record the trace anew."
            )
        return found

    @property
    def num_speculative_tokens(self) -> int:
        """The k that drafts are replayed at unless it is said: of the draft which was served along, else 3."""
        return DEFAULT_K if self.served is None else self.served.num_speculative_tokens

    @cached_property
    def served(self) -> ServedRounds | None:
        """What the draft got accepted that was served during the recording; None if there was none.

        Raises:
            TraceError: that does not fit the prompts.
        """
        return ServedRounds.of(self.directory, self.document)

    @cached_property
    def _shards(self) -> Mapping[str, Mapping[str, Tensor]]:
        return {
            shard.file: mapped(self.directory / shard.file)
            for shard in self.document.shards
            if not holds_rows(shard.file)
        }

    def require_fits(self, layout: Eagle3Layout, checkpoint: Checkpoint | None = None) -> None:
        """See that this draft can be replayed over this trace.

        Args:
            layout: the draft's.
            checkpoint: the draft itself, whose ``fc`` is hashed; needed if the trace is projected.

        Raises:
            TraceMismatchError: it cannot; every field that differs is listed, wanted and found.
        """
        problems = mismatches(
            layout, self.target, has_embedding=self._has_row("embed_rows"), has_head=self._has_row("lm_head")
        )
        if self.states.projection is not None:
            problems += self._projection_problems(layout, checkpoint)
        if problems:
            advice = (
                "Acceptance measured across them would be meaningless. "
                "Record a new trace with `quark-eagle trace TARGET --draft DRAFT`."
            )
            raise TraceMismatchError(findings(f"{self.directory} does not fit the draft", problems, advice))

    def _has_row(self, name: str) -> bool:
        return name in self.document.row_names

    def _projection_problems(self, layout: Eagle3Layout, checkpoint: Checkpoint | None) -> list[str]:
        from quark_eagle.trace.projection import projection_sha256

        assert self.states.projection is not None
        if checkpoint is None:
            return ["the trace is projected: the draft's own fc was needed to compare it with, but was not given."]
        found = projection_sha256(checkpoint, layout)
        if found == self.states.projection:
            return []
        return [
            "projection: the trace holds what another fc made of the states (wanted fc "
            f"{self.states.projection[:12]}…, found {found[:12]}…); record it without --project to use it with any fc."
        ]
