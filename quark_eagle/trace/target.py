"""Target: what a recording asks of whatever runs the model, and how one is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import TraceError, TraceMismatchError, findings
from quark_eagle.progress import SILENT, Progress
from quark_eagle.trace.fit import default_aux_layer_ids, mismatches
from quark_eagle.trace.prompts import Prompt, PromptSet
from quark_eagle.trace.record_options import RecordOptions
from quark_eagle.trace.target_identity import resolve_target
from quark_eagle.trace.trace_document import Sampling, TargetId

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from quark_eagle.trace.decoding import Answer, Pace, Request
    from quark_eagle.trace.vllm_start import Described


class Target(Protocol):
    """A target that is loaded and waits for prompts."""

    @property
    def id(self) -> TargetId:
        """What it is, for the trace."""

    @property
    def cache_bytes(self) -> int:
        """Of one token's keys and values, as far as they count against a batch's memory here."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What else the trace says about how it was recorded; ``versions`` among it."""

    def encode(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Request]:
        """The prompts as tokens, through the target's chat template."""

    def answer(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        state_dtype: torch.dtype,
        on_tokens: Callable[[int], None] = lambda n: None,
    ) -> tuple[list[Answer], Pace]:
        """The answers to a batch of requests with the states along them, and how long they took."""

    def embedding_rows(self, token_ids: Tensor) -> Tensor:
        """[U, hidden_size] of the input embedding."""

    def head(self) -> Tensor:
        """[vocab_size, hidden_size] of the output layer."""


@contextmanager
def open_target(
    target: str | Path,
    draft: Checkpoint,
    layout: Eagle3Layout,
    prompts: PromptSet,
    options: RecordOptions,
    output: Path,
    progress: Progress = SILENT,
) -> Iterator[Target]:
    """See that the draft fits the target, and load that.

    Args:
        target: a local directory or a Hugging Face id.
        draft: for whom the trace is recorded.
        layout: the draft's.
        prompts: that will be asked.
        options: how.
        output: of the trace; an engine's files pass through a folder beside it.
        progress: told how far an engine's start is.

    Raises:
        TraceMismatchError: the draft does not fit.
        TraceError: the target cannot be used.
        EngineError: vLLM could not be started.
    """
    if options.vllm is not None:
        from quark_eagle.trace.vllm_target import VllmTarget

        found = described(target, draft, layout, prompts, options)
        with VllmTarget.running(found, draft, layout, prompts, options, output, progress) as running:
            yield running
        return
    from quark_eagle.trace.device import resolve_device, resolve_dtype
    from quark_eagle.trace.transformers_target import TransformersTarget, identify

    device = resolve_device(options.device)
    directory = resolve_target(target, trust_remote_code=options.trust_remote_code)
    identity = identify(
        directory,
        str(target),
        partial(_aux_layer_ids, layout),
        # float32 states are asked for to check the algorithm, so they are computed in float32 too.
        dtype="float32" if options.state_dtype == "float32" else resolve_dtype(options.dtype, device),
        device=device,
        trust_remote_code=options.trust_remote_code,
    )
    _require_fits(target, draft, layout, identity)
    yield TransformersTarget.load(directory, identity, device=device, trust_remote_code=options.trust_remote_code)


def described(
    target: str | Path, draft: Checkpoint, layout: Eagle3Layout, prompts: PromptSet, options: RecordOptions
) -> Described:
    """A target and the vLLM that would run it, seen to fit the draft; nothing is loaded.

    Raises:
        TraceMismatchError: the draft does not fit.
        TraceError: the target cannot be used.
        EngineError: there is no vLLM.
    """
    from quark_eagle.trace.vllm_start import describe

    directory = resolve_target(target, trust_remote_code=options.trust_remote_code)
    found = describe(directory, str(target), draft, prompts, partial(_aux_layer_ids, layout), options)
    _require_fits(target, draft, layout, found.id)
    return found


def _aux_layer_ids(layout: Eagle3Layout, num_layers: int) -> Sequence[int]:
    return layout.geometry.aux_layer_ids or default_aux_layer_ids(num_layers)


def _require_fits(target: str | Path, draft: Checkpoint, layout: Eagle3Layout, identity: TargetId) -> None:
    if problems := mismatches(layout, identity):
        advice = "The draft was trained for another target. Give the one that belongs to it."
        raise TraceMismatchError(findings(f"{target} does not fit the draft {draft.directory}", problems, advice))


def require_room(
    name: str, prompts: Sequence[Prompt], lengths: Sequence[int | str], sampling: Sampling, max_length: int | None
) -> None:
    """See that every prompt became tokens, and that its answer has room.

    Args:
        name: of the target.
        prompts: that were to be encoded.
        lengths: how many tokens each became, or why it became none.
        sampling: how long an answer may be.
        max_length: positions that the target takes; None for any number.

    Raises:
        TraceError: lists all prompts that cannot be used.
    """
    problems = []
    for prompt, length in zip(prompts, lengths, strict=True):
        if isinstance(length, str):
            problems.append(f"prompt {prompt.id}: the chat template refuses it ({length}).")
        elif not length:
            problems.append(f"prompt {prompt.id}: the chat template makes no token of it.")
        elif max_length is not None and length + sampling.max_tokens > max_length:
            problems.append(
                f"prompt {prompt.id} has {length} tokens; with --max-tokens {sampling.max_tokens} that is "
                f"more than the {max_length} positions of the target."
            )
    if problems:
        raise TraceError(findings(name, problems, "Leave these prompts out, or shorten them."))
