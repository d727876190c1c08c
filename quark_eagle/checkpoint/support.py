"""What keeps a draft from being replayed: where an engine would compute something else than `model` does.

Everything that the layout accepts can be inspected, quantized and verified. Replay claims more: that it computes what
an engine computes. So a switch in config.json that changes the forward pass, and that `model` does not know, is a
reason not to. ``docs/reference/families.md`` has the table of what is supported, family by family.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quark_eagle.checkpoint.family import DraftFamily, is_speculators
from quark_eagle.checkpoint.geometry import effective_config
from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import CONFIG_NAME, Checkpoint
from quark_eagle.errors import CheckpointError, findings

ROPE_KINDS = ("default", "linear", "llama3", "mrope", "yarn")
DEEPSEEK_ROPE_KINDS = ("default", "deepseek_yarn", "yarn")


def require_replayable(checkpoint: Checkpoint, layout: Eagle3Layout) -> None:
    """Refuse a draft that replay would compute otherwise than an engine.

    Raises:
        CheckpointError: with every reason.
    """
    reasons = not_replayed(checkpoint, layout)
    if reasons:
        advice = "It cannot be replayed; `inspect`, `quantize` and `verify` work. Measure its acceptance by serving it."
        raise CheckpointError(findings(str(checkpoint.directory / CONFIG_NAME), reasons, advice))


def not_replayed(checkpoint: Checkpoint, layout: Eagle3Layout) -> list[str]:
    """Every reason why replay is not what an engine does with this draft; empty if it is."""
    return list(_reasons(checkpoint.config, effective_config(checkpoint.config), layout))


def _reasons(raw: Mapping[str, Any], config: Mapping[str, Any], layout: Eagle3Layout) -> Iterator[str]:
    if not layout.flags.use_aux_hidden_state:
        yield "use_aux_hidden_state is false: the draft reads none of the target's aux states, which a trace holds."
    if _is_parallel(raw):
        yield (
            "it is a P-EAGLE draft, which proposes all tokens in one pass (parallel drafting), but replay takes one "
            "draft step for each."
        )
    kind = str(layout.geometry.rope.get("rope_type", "default"))
    known = DEEPSEEK_ROPE_KINDS if layout.family is DraftFamily.DEEPSEEK_MLA else ROPE_KINDS
    if kind not in known:
        yield f"rotary embedding of kind {kind!r}, but replay knows {', '.join(known)}."
    if config.get("logit_scale", 1) not in (None, 1):
        yield f"logit_scale is {config['logit_scale']!r}, but replay knows logits as the head gives them."
    if config.get("is_causal") is False:
        yield "is_causal is false, but a chain of draft steps looks back only."
    if layout.family is DraftFamily.QWEN3 and config.get("dual_chunk_attention_config"):
        yield "dual_chunk_attention_config is set, but replay knows plain attention."
    if layout.family is DraftFamily.DEEPSEEK_MLA and config.get("index_topk") is not None:
        yield "index_topk is set, but replay knows dense latent attention, without an indexer."


def _is_parallel(raw: Mapping[str, Any]) -> bool:
    """P-EAGLE: by speculators' type, or by the class."""
    if is_speculators(raw):
        return raw.get("speculators_model_type") == "peagle"
    named = raw.get("architectures")
    return isinstance(named, list) and any(str(name).lower().startswith("peagle") for name in named)
