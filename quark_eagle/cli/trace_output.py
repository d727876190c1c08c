"""What `trace` says: before it starts, and when it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quark_eagle.cli import render

if TYPE_CHECKING:
    from quark_eagle.documents.anchor import Anchor
    from quark_eagle.trace.record_options import Estimate
    from quark_eagle.trace.target_trace import TargetTrace


def announce(estimate: Estimate) -> None:
    """Disk and time, before the long part starts."""
    left = f"{estimate.num_prompts} prompts"
    if estimate.num_done:
        left = f"{estimate.num_prompts - estimate.num_done} of {left} left"
    if estimate.seconds is None:
        render.note(f"All {left} are recorded already; finishing the trace.")
        return
    render.note(
        f"{left}: {estimate.prompt_tokens} tokens to read and up to {estimate.max_new_tokens} to write, in "
        f"{estimate.dtype}, {estimate.batch_size} at a time. At most {render.size(estimate.size_bytes)} and about "
        f"{render.duration(estimate.seconds)}."
    )


def show_trace(trace: TargetTrace) -> None:
    """What was recorded, as a table."""
    target, states = trace.target, trace.states
    stopped = sum(info.stop_reason == "stop" for info in trace.prompts)
    generated = trace.num_generated_tokens
    layers = ", ".join(map(str, target.aux_layer_ids))
    held = "projected by the draft's fc" if states.projection else f"aux layers {layers}"
    sampling = trace.sampling
    chosen = "greedy" if sampling.is_greedy else f"temperature {sampling.temperature}, top-p {sampling.top_p}"
    rows = [
        ("target", f"{target.name} ({target.num_hidden_layers} layers, hidden {target.hidden_size}, {target.dtype})"),
        ("prompts", f"{len(trace)} in {len({info.category for info in trace.prompts})} categories"),
        ("generated", f"{generated} tokens, {chosen}; {stopped} answers ended by themselves"),
        ("states", f"{held}, {states.dtype}"),
        ("borrowed", ", ".join(trace.document.row_names) or "nothing: the draft has its own embedding and head"),
        ("trace", f"{trace.directory} ({render.size(trace.size_bytes)})"),
    ]
    render.show(render.table(("", "recorded"), rows))


def trace_document(trace: TargetTrace, anchor: Anchor | None) -> dict[str, Any]:
    """The answer as one JSON object: where the trace is and what it holds, counts only."""
    from dataclasses import asdict

    return {
        "schema_version": 1,
        "trace": str(trace.directory),
        "trace_sha256": trace.sha256,
        "size_bytes": trace.size_bytes,
        "num_prompts": len(trace),
        "num_prompt_tokens": sum(info.prompt_length for info in trace.prompts),
        "num_generated_tokens": trace.num_generated_tokens,
        "num_stopped": sum(info.stop_reason == "stop" for info in trace.prompts),
        "target": {**asdict(trace.target), "aux_layer_ids": list(trace.target.aux_layer_ids)},
        "sampling": asdict(trace.sampling),
        "states": asdict(trace.states),
        "row_names": list(trace.document.row_names),
        "prompts_sha256": trace.document.prompts_sha256,
        "anchor": anchor.model_dump() if anchor is not None else None,
    }


def show_anchor(anchor: Anchor) -> None:
    """How far replay agrees with what was served, and what follows."""
    render.say(f"Anchor: {anchor.in_words}.")
    if anchor.matches:
        render.say(
            f"Replay is off by {anchor.tau_error:+.2%} in τ, at most {anchor.bound:.2%}: a verdict allows for that."
        )
        return
    render.warn(
        f"Replay and serving differ by {anchor.difference:.1%}, and more than 1 % is a fault: no verdict can stand "
        "on this trace. Were there few prompts, record more. Else compare aux layers and dtype of draft and engine."
    )
