"""The target as vLLM runs it: in a process of its own, over as many GPUs as it takes, a draft beside it or none.

With a draft, the answers are generated as a server generates them, the draft proposing and the target deciding. That
changes no answer's distribution, costs nothing where speculation pays, and leaves behind how many tokens each round
accepted: replay of the same draft over this very path can then be held against what was served (`parity.anchor`).

The engine renders the prompts. Its tokenizer and chat template, which may be Python code of the target's, run in its
process and never in ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.manifest import sha256_of_weights
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.progress import Progress
from quark_eagle.trace.decoding import Answer, Pace, Request
from quark_eagle.trace.lent_weights import LentWeights
from quark_eagle.trace.prompts import Prompt, PromptSet
from quark_eagle.trace.record_options import RecordOptions
from quark_eagle.trace.sampling import seed_of
from quark_eagle.trace.scratch import scratch_beside
from quark_eagle.trace.states import check_path
from quark_eagle.trace.target import require_room
from quark_eagle.trace.trace_document import Sampling, TargetId
from quark_eagle.trace.vllm_process import VllmProcess
from quark_eagle.trace.vllm_start import Described, engine_arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmTarget:
    """A target loaded in vLLM.

    Attributes:
        id: what it is, for the trace.
        process: that runs it.
        scratch: where its workers leave the states.
        max_length: positions that the engine was started for.
        lent: what the draft borrows; None if it has all.
        provenance: how it was started, and the draft that is served along.
    """

    id: TargetId
    process: VllmProcess
    scratch: Path
    max_length: int
    lent: LentWeights | None
    provenance: Mapping[str, Any]

    @classmethod
    @contextmanager
    def running(
        cls,
        described: Described,
        draft: Checkpoint,
        layout: Eagle3Layout,
        prompts: PromptSet,
        options: RecordOptions,
        output: Path,
        progress: Progress,
    ) -> Iterator[VllmTarget]:
        """Loaded, as long as the block runs.

        Raises:
            EngineError: vLLM could not be started.
            TraceError: the target has not what the draft would borrow.
        """
        vllm = options.vllm
        assert vllm is not None
        borrows = not (layout.has("embed_tokens.weight") and layout.has("lm_head.weight"))
        lent = LentWeights.find(described.directory, described.geometry) if borrows else None
        arguments = engine_arguments(described, prompts, options)
        served = {}
        if described.num_speculative_tokens is not None:
            served["served"] = {
                "num_speculative_tokens": described.num_speculative_tokens,
                "draft_weights_sha256": sha256_of_weights(draft.directory, draft.shards),
            }
        environment = dict(described.command.environment)
        with (
            scratch_beside(output) as scratch,
            VllmProcess.running(described.engine, described.id.name, {**environment, **vllm.environment}) as process,
        ):
            done = process.start(arguments, progress)
            yield cls(
                id=replace(described.id, dtype=done["dtype"], sliding_window=done["sliding_window"]),
                process=process,
                scratch=scratch,
                max_length=done["max_model_len"],
                lent=lent,
                provenance={
                    "versions": {"vllm": described.version.vllm},
                    "arch": described.version.arch,
                    "engine_arguments": arguments,
                    "environment": environment,
                    **served,
                },
            )

    @property
    def cache_bytes(self) -> int:
        """None here: the engine's cache is not in our memory."""
        return 0

    def encode(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Request]:
        """The prompts as tokens, as the engine renders them.

        Raises:
            TraceError: the template refuses a prompt, or prompt and answer are longer than the target takes.
        """
        rendered = self.process.encode([prompt.chat for prompt in prompts])
        lengths = [found["refused"] if "refused" in found else len(found["token_ids"]) for found in rendered]
        require_room(self.id.name, prompts, lengths, sampling, self.max_length)
        return [
            Request(token_ids=tuple(found["token_ids"]), sha256=prompt.sha256)
            for prompt, found in zip(prompts, rendered, strict=True)
        ]

    def answer(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        state_dtype: torch.dtype,
        on_tokens: Callable[[int], None] = lambda n: None,
    ) -> tuple[list[Answer], Pace]:
        """The answers to a batch of requests, and how long they took.

        Raises:
            TraceError: the states are not of the path that was generated.
            EngineError: the engine died, or could not do it.
        """
        order = {
            "requests": [
                {
                    "token_ids": list(request.token_ids),
                    "seed": None if sampling.is_greedy else seed_of(sampling, request.sha256),
                }
                for request in requests
            ],
            "directory": str(self.scratch),
            "layers": list(self.id.aux_layer_ids),
            "state_dtype": str(state_dtype).removeprefix("torch."),
            "sampling": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
            },
        }
        done = self.process.answer(order, on_tokens)
        rounds = _rounds(done)
        found, regrets = [], []
        for request, made, accepted in zip(requests, done["answers"], rounds, strict=True):
            tensors = _taken(Path(made["file"]))
            regrets.append(tensors["regret"])
            found.append(
                Answer(
                    token_ids=torch.tensor([*request.token_ids, *made["token_ids"]]),
                    log_probs=tensors["log_probs"],
                    top2_margin=tensors["top2_margin"],
                    aux_hidden_states=tensors["states"],
                    stop_reason=made["stop_reason"],
                    accepted=accepted,
                )
            )
        if sampling.is_greedy:
            check_path(regrets, self.id.name)
        return found, _pace(requests, found, done)

    def embedding_rows(self, token_ids: Tensor) -> Tensor:
        """[U, hidden_size] of the input embedding, from the target's files."""
        assert self.lent is not None
        return self.lent.embedding_rows(token_ids)

    def head(self) -> Tensor:
        """[vocab_size, hidden_size] of the output layer, from the target's files."""
        assert self.lent is not None
        return self.lent.head_rows(self.id.vocab_size)


def _rounds(done: Mapping[str, Any]) -> list[tuple[int, ...] | None]:
    """What each round of each answer accepted; None where no draft was served, or the engine left it out of a step.

    A step of the engine brings an answer its first token, from prefill, or what one round emits: the accepted tokens
    and one more, cut at the answer's end. A step without a draft looks like a round that accepted nothing, but the
    engine does not count it. It drafts for no request of a batch of which one comes near ``max_model_len``, and not for
    one that it has to read again after a preemption (0.32, `v1/worker/gpu_model_runner.py`).
    """
    steps = [made["steps"] for made in done["answers"]]
    if done["num_drafts"] != sum(len(counts) - 1 for counts in steps):
        return [None] * len(steps)
    return [tuple(count - 1 for count in counts[1:]) for counts in steps]


def _taken(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, which is mapped and needs no name any more."""
    tensors: dict[str, Tensor] = load_file(path)
    path.unlink()
    return tensors


def _pace(requests: Sequence[Request], answers: Sequence[Answer], done: Mapping[str, Any]) -> Pace:
    """How fast the engine is: every token is read twice, once in each pass, and the answer's are generated once."""
    prompt_tokens = sum(len(request.token_ids) for request in requests)
    new_tokens = sum(len(answer.log_probs) for answer in answers)
    reading = done["capture_seconds"] / (prompt_tokens + new_tokens)
    return Pace(
        prefill_tokens=prompt_tokens,
        prefill_seconds=2 * reading * prompt_tokens,
        decode_tokens=new_tokens,
        decode_seconds=max(0.0, done["generate_seconds"] - reading * prompt_tokens) + reading * new_tokens,
    )
