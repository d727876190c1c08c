"""Session: a target that is loaded with its prompts as tokens, ready to answer them batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quark_eagle import __version__
from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import TraceError
from quark_eagle.progress import SILENT, Progress
from quark_eagle.trace.projection import Projection
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import Estimate, RecordOptions, plan_batches
from quark_eagle.trace.states import check_states
from quark_eagle.trace.target import Target, open_target
from quark_eagle.trace.trace_document import Sampling, StatesId
from quark_eagle.trace.trace_writer import TraceWriter

if TYPE_CHECKING:
    from quark_eagle.trace.decoding import Answer, Pace, Request


WARM_UP_PROMPTS, WARM_UP_TOKENS = 32, 4  # of the batch that measures the pace


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Everything that is known before the first answer.

    Attributes:
        target: loaded.
        draft: for whom the trace is recorded.
        layout: the draft's.
        prompts: to be answered.
        options: how.
        requests: the prompts as tokens, in their order.
        batches: places of the prompts that are decoded together; one shard each.
        projection: the draft's ``fc``, if its output is stored in place of the states.
    """

    target: Target
    draft: Checkpoint
    layout: Eagle3Layout
    prompts: PromptSet
    options: RecordOptions
    requests: tuple[Request, ...]
    batches: tuple[tuple[int, ...], ...]
    projection: Projection | None

    @classmethod
    @contextmanager
    def open(
        cls,
        target: str | Path,
        draft: Checkpoint,
        layout: Eagle3Layout,
        prompts: PromptSet,
        options: RecordOptions,
        output: Path,
        progress: Progress = SILENT,
    ) -> Iterator[Session]:
        """Load the target and turn the prompts into tokens; the target stays as long as the block runs.

        Raises:
            TraceMismatchError: the draft does not fit.
            TraceError: the target or a prompt cannot be used.
            EngineError: vLLM could not be started, or died.
        """
        projection = Projection(draft, layout) if options.project else None
        with open_target(target, draft, layout, prompts, options, output, progress) as loaded:
            requests = tuple(loaded.encode(prompts.prompts, options.sampling))
            lengths = [len(request.token_ids) for request in requests]
            state_bytes = loaded.id.hidden_size * len(loaded.id.aux_layer_ids) * size_of(options.state_dtype)
            token_bytes = state_bytes + loaded.cache_bytes
            yield cls(
                target=loaded,
                draft=draft,
                layout=layout,
                prompts=prompts,
                options=options,
                requests=requests,
                batches=plan_batches(lengths, options.sampling.max_tokens, token_bytes, options.batch_size),
                projection=projection,
            )

    def plan(self) -> dict[str, Any]:
        """All that decides the bytes of the trace, as JSON values."""
        return {
            "quark_eagle": __version__,
            "target": {**asdict(self.target.id), "aux_layer_ids": list(self.target.id.aux_layer_ids)},
            "sampling": asdict(self.options.sampling),
            "states": asdict(self.states),
            "rows": list(self.row_names),
            "prompts": self.prompts.sha256,
            "batches": [list(batch) for batch in self.batches],
            "recorded_by": dict(self.target.provenance),
        }

    @property
    def states(self) -> StatesId:
        """What the rows of the shards will be."""
        if self.projection is not None:
            return StatesId(dtype="bfloat16", width=self.projection.width, projection=self.projection.sha256)
        width = self.target.id.hidden_size * len(self.target.id.aux_layer_ids)
        return StatesId(dtype=self.options.state_dtype, width=width, projection=None)

    @property
    def row_names(self) -> tuple[str, ...]:
        """What the draft lacks."""
        embedding = () if self.layout.has("embed_tokens.weight") else ("embed_ids", "embed_rows")
        return embedding if self.layout.has("lm_head.weight") else (*embedding, "lm_head")

    def size_bytes(self, waiting: Sequence[int]) -> int:
        """Upper bound of what is still to be written."""
        rows = sum(
            len(self.requests[i].token_ids) + self.options.sampling.max_tokens for n in waiting for i in self.batches[n]
        )
        row_bytes = self.states.width * size_of(self.states.dtype) + 8 + 4 + 4  # token id, log-probability, margin
        vocab, hidden = self.target.id.vocab_size, self.target.id.hidden_size
        lent = min(rows, vocab) * ("embed_rows" in self.row_names) + vocab * ("lm_head" in self.row_names)
        return rows * row_bytes + lent * (hidden * size_of(self.options.state_dtype) + 8)

    def estimate(self, waiting: Sequence[int], size_bytes: int) -> Estimate:
        """What the rest will take; runs a short batch to learn the pace."""
        places = [i for number in waiting for i in self.batches[number]]
        prompt_tokens = sum(len(self.requests[i].token_ids) for i in places)
        max_new_tokens = len(places) * self.options.sampling.max_tokens
        return Estimate(
            num_prompts=len(self.requests),
            num_done=len(self.requests) - len(places),
            prompt_tokens=prompt_tokens,
            max_new_tokens=max_new_tokens,
            size_bytes=size_bytes,
            seconds=self._seconds(self.batches[waiting[-1]], prompt_tokens, max_new_tokens) if waiting else None,
            dtype=self.target.id.dtype,
            batch_size=max(map(len, self.batches)),
        )

    def _seconds(self, batch: Sequence[int], prompt_tokens: int, max_new_tokens: int) -> float:
        short = replace(self.options.sampling, max_tokens=min(WARM_UP_TOKENS, self.options.sampling.max_tokens))
        # The batch is the one with the shortest prompts, so that little is spent on what is done again later.
        batch = batch[:WARM_UP_PROMPTS]
        _, pace = self._answer([self.requests[i] for i in batch], short, lambda n: None)
        return pace.seconds(prompt_tokens, max_new_tokens, len(batch))

    def _answer(
        self, requests: Sequence[Request], sampling: Sampling, on_tokens: Callable[[int], None]
    ) -> tuple[list[Answer], Pace]:
        import torch

        try:
            return self.target.answer(requests, sampling, getattr(torch, self.options.state_dtype), on_tokens)
        except torch.OutOfMemoryError as error:
            raise TraceError(
                f"{self.target.id.device}: out of memory with {len(requests)} prompts decoded together. "
                "Try again with a smaller --batch-size, and --overwrite to drop what was recorded with this one."
            ) from error

    def record_batch(self, number: int, writer: TraceWriter, on_tokens: Callable[[int], None]) -> None:
        """Answer one batch and write its shard."""
        import torch

        batch = self.batches[number]
        answers, _ = self._answer([self.requests[i] for i in batch], self.options.sampling, on_tokens)
        for i, answer in zip(batch, answers, strict=True):
            where = f"{self.target.id.name}: prompt {self.prompts.prompts[i].id}"
            check_states(answer.aux_hidden_states, len(self.target.id.aux_layer_ids), where)
        states = [answer.aux_hidden_states for answer in answers]
        if self.projection is not None:
            states = [self.projection(rows) for rows in states]
        tensors = {
            "token_ids": torch.cat([answer.token_ids for answer in answers]),
            "log_probs": torch.cat([answer.log_probs for answer in answers]),
            "top2_margin": torch.cat([answer.top2_margin for answer in answers]),
            "states": torch.cat(states),
        }
        metadata: dict[str, Any] = {
            "num_tokens_and_stop_reason": [[len(answer.token_ids), answer.stop_reason] for answer in answers]
        }
        if "served" in self.target.provenance:
            metadata["served_rounds"] = [answer.accepted for answer in answers]
        writer.write(writer.shard_name(number), tensors, metadata)


def size_of(dtype: str) -> int:
    """Bytes of one number."""
    return 4 if dtype == "float32" else 2
