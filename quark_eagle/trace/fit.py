"""Whether a draft fits a target: every field that has to agree, wanted and found."""

from __future__ import annotations

from collections.abc import Sequence

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.trace.trace_document import TargetId


def default_aux_layer_ids(num_hidden_layers: int) -> tuple[int, int, int]:
    """The layers that vLLM takes for a draft whose config names none: (2, n // 2, n - 3).

    Source: vLLM 0.32, ``get_eagle3_default_aux_hidden_state_layers`` of the target model classes.

    >>> default_aux_layer_ids(30)
    (2, 15, 27)
    """
    return 2, num_hidden_layers // 2, num_hidden_layers - 3


def mismatches(
    layout: Eagle3Layout, target: TargetId, *, has_embedding: bool = True, has_head: bool = True
) -> list[str]:
    """Every way in which a draft does not fit a target, wanted (by the draft) and found (in the target)."""
    geometry = layout.geometry
    wanted_ids = geometry.aux_layer_ids or default_aux_layer_ids(target.num_hidden_layers)
    fields: Sequence[tuple[str, object, object]] = (
        ("target hidden size", geometry.target_hidden_size, target.hidden_size),
        ("vocabulary size", geometry.vocab_size, target.vocab_size),
        ("aux layers", sorted(wanted_ids), list(target.aux_layer_ids)),
        ("number of aux hidden states", geometry.num_aux_hidden_states, len(target.aux_layer_ids)),
    )
    problems = [
        f"{name}: wanted {wanted} (draft), found {found} (target)." for name, wanted, found in fields if wanted != found
    ]
    if not layout.flags.use_aux_hidden_state:
        problems.append("aux hidden states: the draft reads none, but they are what a trace holds.")
    borrows = not (layout.has("embed_tokens.weight") and layout.has("lm_head.weight"))
    if borrows and geometry.hidden_size != target.hidden_size:
        problems.append(
            f"hidden size: wanted {geometry.hidden_size} (draft, which has no embedding or head of its own), found "
            f"{target.hidden_size} (target)."
        )
    if not has_embedding and not layout.has("embed_tokens.weight"):
        problems.append("embedding rows: wanted, as the draft has no embed_tokens, but found none in the trace.")
    if not has_head and not layout.has("lm_head.weight"):
        problems.append("head: wanted, as the draft has no lm_head, but found none in the trace.")
    return problems
