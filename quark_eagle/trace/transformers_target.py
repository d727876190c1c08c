"""The target as transformers runs it.

A batch keeps one cache, allocated once. Prompts are read in groups of like length and placed into it so that all end at
the same column; from there on each step is one column for every row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import torch
import transformers
from torch import Tensor
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from quark_eagle.errors import TraceError, findings
from quark_eagle.trace.decoding import Answer, Pace, Request, decode
from quark_eagle.trace.device import arch_of
from quark_eagle.trace.lent_window import lent_window
from quark_eagle.trace.prompts import Prompt
from quark_eagle.trace.target import require_room
from quark_eagle.trace.target_identity import TargetGeometry, identify_as
from quark_eagle.trace.trace_document import Sampling, TargetId
from quark_eagle.trace.transformers_cache import ATTENTION, grouped_attention
from quark_eagle.trace.transformers_forward import BatchForward


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersTarget:
    """A target in memory, with its tokenizer.

    Attributes:
        id: what it is, for the trace.
        device: it runs on.
        model: a causal language model of transformers.
        tokenizer: with a chat template.
        stop_token_ids: each of them ends an answer.
        max_length: positions that it was made for; None if it does not say.
    """

    id: TargetId
    device: str
    model: Any
    tokenizer: Any
    stop_token_ids: frozenset[int]
    max_length: int | None

    @classmethod
    def load(
        cls,
        directory: Path,
        identity: TargetId,
        *,
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> TransformersTarget:
        """Load the weights of the target that `identify` described.

        Raises:
            TraceError: transformers cannot load it, a weight is missing, or it has no chat template.
        """
        transformers.utils.logging.disable_progress_bar()
        transformers.AttentionInterface.register(ATTENTION, grouped_attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
            model, loading = transformers.AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=getattr(torch, identity.dtype),
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise TraceError(
                f"{directory}: transformers {transformers.__version__} cannot load this target: {error}"
            ) from error
        if loading["missing_keys"]:
            missing = [f"{name} is missing." for name in sorted(loading["missing_keys"])[:8]]
            raise TraceError(
                findings(str(directory), missing, "Random numbers would stand in for it. Download the target again.")
            )
        if not tokenizer.chat_template:
            raise TraceError(
                f"{directory}: its tokenizer has no chat template, but prompts are conversations. "
                "Use an instruction-tuned target."
            )
        if model.config._attn_implementation == "sdpa":
            model.set_attn_implementation(ATTENTION)
        return cls(
            id=identity,
            device=device,
            model=model.to(device).eval(),
            tokenizer=tokenizer,
            stop_token_ids=_stop_token_ids(model, tokenizer),
            max_length=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        )

    def encode(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Request]:
        """The prompts as tokens, through the chat template.

        Raises:
            TraceError: the template refuses a prompt, or prompt and answer are longer than the target takes.
        """
        requests: list[Request] = []
        lengths: list[int | str] = []
        for prompt in prompts:
            try:
                text = self.tokenizer.apply_chat_template(prompt.chat, add_generation_prompt=True, tokenize=False)
            except (jinja2.TemplateError, TypeError) as error:
                lengths.append(str(error))
                continue
            token_ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            lengths.append(len(token_ids))
            requests.append(Request(token_ids=token_ids, sha256=prompt.sha256))
        require_room(self.id.name, prompts, lengths, sampling, self.max_length)
        return requests

    def answer(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        state_dtype: torch.dtype,
        on_tokens: Callable[[int], None] = lambda n: None,
    ) -> tuple[list[Answer], Pace]:
        """The answers to a batch of requests, and how long they took."""
        forward = BatchForward(self.model, self.id, self.device, sampling.max_tokens)
        with forward.tap.attached():
            return decode(forward, requests, sampling, self.stop_token_ids, state_dtype, on_tokens)

    def embedding_rows(self, token_ids: Tensor) -> Tensor:
        """[U, hidden_size] of the input embedding."""
        weight: Tensor = self.model.get_input_embeddings().weight.detach()
        return weight[token_ids.to(weight.device)].cpu()

    @property
    def cache_bytes(self) -> int:
        """Of one token's keys and values; more than it takes where attention is latent or slides."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * width * self.model.dtype.itemsize)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What else the trace says about how it was recorded."""
        return {"arch": arch_of(self.device), "versions": {"transformers": version("transformers")}}

    def head(self) -> Tensor:
        """[vocab_size, hidden_size] of the output layer."""
        weight: Tensor = self.model.get_output_embeddings().weight.detach()
        return weight.cpu()


def identify(
    directory: Path,
    name: str,
    aux_layer_ids: Callable[[int], Sequence[int]],
    *,
    dtype: str,
    device: str,
    trust_remote_code: bool = False,
) -> TargetId:
    """What the target is, from its config and the bytes of its files, before its weights are loaded.

    Args:
        directory: where it lies.
        name: as the user named it.
        aux_layer_ids: the ids to tap, given the number of layers.
        dtype: to compute in.
        device: to run on.
        trust_remote_code: whether the target's own Python code may run.

    Raises:
        TraceError: its config cannot be read, or a layer to tap is not there.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(
            directory, trust_remote_code=trust_remote_code
        ).get_text_config(decoder=True)
    except (OSError, ValueError, KeyError) as error:
        raise TraceError(
            f"{directory}: is not a target that transformers {transformers.__version__} knows: {error}"
        ) from error
    # By transformers, which knows an older config's names for the same numbers (n_layer, n_embd).
    geometry = TargetGeometry(
        num_hidden_layers=int(config.num_hidden_layers),
        hidden_size=int(config.hidden_size),
        vocab_size=int(config.vocab_size),
        lent_window=lent_window(config),
    )
    return identify_as(
        directory,
        name,
        geometry,
        aux_layer_ids,
        dtype=dtype,
        engine=f"transformers {transformers.__version__}, torch {torch.__version__}",
        device=torch.cuda.get_device_name() if device.startswith("cuda") else device,
    )


def _stop_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """What `generate` would stop at: the generation config's end tokens, else the tokenizer's."""
    found = model.generation_config.eos_token_id
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        return frozenset()
    return frozenset(found if isinstance(found, list) else [found])
