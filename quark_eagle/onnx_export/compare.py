"""compare: an export in onnxruntime and the draft in `quark_eagle.model`, over the same recorded prompts.

Both take the rows of a prompt and its answer in one pass, and then, from every start of the answer at once, the steps
of a round: fed with the recorded tokens and with their own states, their cache one row longer each time. The starts
are a batch of caches of different lengths, padded on the left, so the mask is tried as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import TraceError
from quark_eagle.model.chain import Chain, Past
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.onnx_export.agreement import LOGIT_BOUND, Agreement
from quark_eagle.onnx_export.following import Choices, follow
from quark_eagle.onnx_export.running import FloatArray, IntArray, OnnxDraft, Step
from quark_eagle.progress import SILENT, Progress
from quark_eagle.trace.target_trace import TargetTrace, TracedPrompt

STARTS_AT_ONCE = 16  # caches that are held side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """One prompt as both roads read it: rows 0 … n - 2, and the rows that rounds start at."""

    tokens: Tensor  # [n - 1] int64: the token after each row
    embeds: Tensor  # [n - 1, hidden]
    combined: Tensor  # [n - 1, hidden], by `quark_eagle.model`
    hidden_states: FloatArray  # the same by ``combine``
    starts: Tensor  # [S]


@torch.inference_mode()
def compare(
    export: Path,
    draft: Path,
    trace: Path,
    *,
    num_prompts: int,
    num_speculative_tokens: int = 3,
    progress: Progress = SILENT,
) -> Agreement:
    """Hold an export against the draft that it was made from.

    Args:
        export: the directory with the graphs.
        draft: the checkpoint.
        trace: what the target did, and what it lends to the draft.
        num_prompts: the first ones of the trace.
        num_speculative_tokens: steps of a round.
        progress: told of each prompt.

    Raises:
        TraceMismatchError: the trace does not fit the draft.
        TraceError: no answer in it is as long as a round.
    """
    opened, checkpoint = TargetTrace.open(trace), Checkpoint.open(draft)
    layout = Eagle3Layout.of(checkpoint)
    opened.require_fits(layout, checkpoint)
    model = Eagle3Draft.load(checkpoint, layout, opened.rows.weights, torch.float32)
    choices = follow(model)
    onnx = OnnxDraft(export, torch.get_num_threads())
    num_prompts = min(num_prompts, len(opened))
    found: list[_Compared] = []
    with progress.task("compare with the draft", num_prompts, "prompt") as task:
        for i in range(num_prompts):
            text = _text(onnx, model, choices, opened.prompt(i), num_speculative_tokens)
            if len(text.starts):
                found += _compare_prompt(onnx, model, choices, text, num_speculative_tokens)
            task.advance(1)
    if not found:
        raise TraceError(
            f"{trace}: no answer of its first {num_prompts} prompts has {num_speculative_tokens + 1} tokens, but a "
            "round was needed to compare. Record longer answers."
        )
    differences = [it.difference for it in found]
    return Agreement(
        num_prompts=num_prompts,
        num_speculative_tokens=num_speculative_tokens,
        num_proposals=sum(it.num_rows for it in found),
        num_equal=sum(it.num_equal for it in found),
        num_tied_tokens=sum(it.num_tied for it in found),
        num_quantized=choices.num_quantized,
        num_ties=choices.num_ties,
        max_difference=max(differences) if all(map(np.isfinite, differences)) else None,
        bound=LOGIT_BOUND,
        has_combine=opened.states.projection is None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """One step of some rounds: see `Agreement` for what is counted."""

    num_rows: int
    num_equal: int
    num_tied: int
    difference: float

    @classmethod
    def of(cls, model: Eagle3Draft, normed: Tensor, step: Step) -> _Compared:
        """Of the model's head states [A, hidden] and what the step gave for the same rows."""
        head = model.linears["lm_head"]
        logits = head(normed)  # [A, draft_vocab]
        theirs = torch.from_numpy(step.head).reshape(len(logits), -1)
        tokens = None if step.token_ids is None else torch.from_numpy(step.token_ids).reshape(-1)
        if tokens is None:  # the head is borrowed
            tokens, theirs = model.propose(theirs), head(theirs)
        spread = logits.std(dim=-1)
        is_equal = tokens == model.propose(normed)
        best = logits.topk(2, dim=-1).values
        is_tied = ~is_equal & (best[:, 0] - best[:, 1] <= 2 * LOGIT_BOUND * spread)
        return cls(
            num_rows=len(logits),
            num_equal=int(is_equal.sum()),
            num_tied=int(is_tied.sum()),
            difference=float(((theirs - logits).abs().amax(dim=-1) / spread).max()),
        )


def _text(onnx: OnnxDraft, model: Eagle3Draft, choices: Choices, traced: TracedPrompt, k: int) -> _Text:
    tokens = traced.token_ids[1:]
    if traced.aux_hidden_states is None:
        assert traced.projected is not None  # a trace holds one of the two
        combined = traced.projected.to(model.dtype)
        hidden_states = combined.numpy()
    else:
        made, quantized = onnx.combine(traced.aux_hidden_states.float()[None].numpy())
        hidden_states = made[0]
        with choices.of(_rows(quantized)):
            combined = model.combine(traced.aux_hidden_states)
    return _Text(
        tokens=tokens,
        embeds=model.embed(tokens),
        combined=combined,
        hidden_states=hidden_states,
        starts=torch.arange(traced.info.prompt_length - 1, len(tokens) - k + 1),
    )


def _compare_prompt(onnx: OnnxDraft, model: Eagle3Draft, choices: Choices, text: _Text, k: int) -> Iterator[_Compared]:
    """Every step of the rounds from every start, some starts at a time."""
    tokens = text.embeds if onnx.takes_embeds else text.tokens
    first = onnx.step(
        tokens[None].numpy(),
        text.hidden_states[None],
        np.arange(len(tokens), dtype=np.int64)[None],
        keep=len(tokens) - int(text.starts[0]),
    )
    quantized = _rows(first.quantized)
    with choices.of(quantized):
        past = Past.of(model, text.embeds, text.combined)
    for starts in torch.split(text.starts, STARTS_AT_ONCE):
        chain = Chain(model, [(past, starts)])
        with choices.of({module: made[starts] for module, made in quantized.items()}):
            state, normed = chain.step(text.embeds[starts], text.combined[starts])
        step = _of_starts(first, starts - text.starts[0], starts)
        yield _Compared.of(model, normed, step)
        seen = _seen(starts)
        for j in range(1, k):
            at = starts + j
            seen = np.concatenate((seen, np.ones((len(starts), 1), np.int64)), axis=1)
            step = onnx.step(
                tokens[at][:, None].numpy(),
                step.next_hidden_states,
                at[:, None].numpy(),
                past=step.present,
                attention_mask=seen,
            )
            with choices.of(_rows(step.quantized)):
                state, normed = chain.step(text.embeds[at], state)
            yield _Compared.of(model, normed, step)


def _rows(quantized: Mapping[str, FloatArray]) -> dict[str, Tensor]:
    """[batch, rows, in] as [batch * rows, in]."""
    return {module: torch.from_numpy(made).flatten(0, 1) for module, made in quantized.items()}


def _of_starts(first: Step, kept: Tensor, starts: Tensor) -> Step:
    """A pass over a text as the first step of rounds: one for each start, with the rows up to it in a cache of its own.

    Args:
        first: the pass, a batch of one.
        kept: [S] places of the starts among the rows that were put out.
        starts: [S] their rows.
    """
    places = kept.numpy()  # as a tensor of one element it would be read as a number
    return replace(
        first,
        head=first.head[0, places],
        token_ids=None if first.token_ids is None else first.token_ids[0, places],
        next_hidden_states=first.next_hidden_states[0, places][:, None],
        present=_padded(first.present, starts),
    )


def _padded(present: Mapping[str, FloatArray], starts: Tensor) -> dict[str, FloatArray]:
    """The rows up to each start as a cache of its own, [S, kv_heads, longest, width], zeros on the left."""
    longest = int(starts.max()) + 1
    padded = {}
    for name, cache in present.items():
        _, kv_heads, _, width = cache.shape
        padded[name] = np.zeros((len(starts), kv_heads, longest, width), np.float32)
        for i, start in enumerate(starts.tolist()):
            padded[name][i, :, longest - start - 1 :] = cache[0, :, : start + 1]
    return padded


def _seen(starts: Tensor) -> IntArray:
    """[S, longest]: 1 where `_padded` put a row."""
    longest = int(starts.max()) + 1
    seen: IntArray = (torch.arange(longest) >= longest - 1 - starts[:, None]).long().numpy()
    return seen
