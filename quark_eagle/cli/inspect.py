"""`quark-eagle inspect`: what a draft is, and what FP8 would do with it, from its headers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quark_eagle.cli import render
from quark_eagle.cli.options import DraftArg, JsonFlag, RevisionOption

if TYPE_CHECKING:
    from quark_eagle.checkpoint.layout import Eagle3Layout, Flags, Geometry
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.checkpoint.traffic import Footprint
    from quark_eagle.deploy.loadable import Loadable
    from quark_eagle.quantize.plan import Decision

SCHEMA_VERSION = 1


def inspect(draft: DraftArg, revision: RevisionOption = None, json_: JsonFlag = False) -> None:
    """Show what a draft is: sizes, tensors, what FP8 would do with each, what a step reads, and what is supported.

    Reads headers only, so a draft of 6 GB takes no longer than a small one.
    Example: quark-eagle inspect examples/smollm2-135m-eagle3
    """
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.checkpoint.source import at_revision, resolve
    from quark_eagle.checkpoint.traffic import Footprint

    checkpoint = Checkpoint.open(resolve(at_revision(draft, revision)))
    layout = Eagle3Layout.of(checkpoint)
    decisions = _decisions(checkpoint, layout)
    quantized = {name for name, decision in decisions.items() if decision.action == "quantize"}
    footprint = Footprint.of(checkpoint, layout, quantized)
    if json_:
        render.emit_json(_document(checkpoint, layout, decisions, footprint))
    else:
        _show(checkpoint, layout, decisions, footprint)


def _decisions(checkpoint: Checkpoint, layout: Eagle3Layout) -> dict[str, Decision]:
    """What the default plan decides for every tensor; nothing where the draft is quantized already."""
    if checkpoint.is_quantized:
        return {}
    from quark_eagle.quantize.plan import QuantPlan
    from quark_eagle.quantize.scheme import Scheme

    plan = QuantPlan.of(layout, Scheme.PTPC_FP8, keep=[], quantize_fc=False)
    return {decision.tensor: decision for decision in plan.decisions}


def _document(
    checkpoint: Checkpoint, layout: Eagle3Layout, decisions: dict[str, Decision], footprint: Footprint
) -> dict[str, Any]:
    """The answer as one JSON object."""
    from quark_eagle.checkpoint.traffic import EVERY_STEP, ReadIn

    weights = {weight.tensor: weight for weight in footprint.weights}
    tensors = []
    for name, info in checkpoint.tensors.items():
        row: dict[str, Any] = {
            "tensor": name,
            "role": layout.slots[name].role.value,
            "dtype": info.dtype,
            "shape": list(info.shape),
            "shard": info.shard,
            "size_bytes": info.size_bytes,
            "fp8_size_bytes": weights[name].fp8_size_bytes,
            "read_in": weights[name].read_in.value,
        }
        if name in decisions:
            row |= {"action": decisions[name].action, "reason": decisions[name].reason}
        tensors.append(row)
    loadable, reasons = _support(checkpoint, layout)
    return {
        "schema_version": SCHEMA_VERSION,
        "draft": str(checkpoint.directory),
        "family": layout.family.value,
        "convention": layout.convention.value,
        "is_quantized": checkpoint.is_quantized,
        "quantization": _quantization(checkpoint) if checkpoint.is_quantized else None,
        "geometry": _geometry(layout.geometry),
        "flags": _flags(layout.flags),
        "num_tensors": len(tensors),
        "tensors": tensors,
        "size_bytes": footprint.size_bytes,
        "fp8_size_bytes": footprint.fp8_size_bytes,
        "step_weight_traffic": {
            "every_step_bytes": footprint.step(*EVERY_STEP),
            "fp8_every_step_bytes": footprint.fp8_step(*EVERY_STEP),
            "head_bytes": footprint.step(ReadIn.HEAD),
            "first_step_bytes": footprint.step(ReadIn.FIRST_STEP),
            "fp8_first_step_bytes": footprint.fp8_step(ReadIn.FIRST_STEP),
            "borrowed_from_target": [weight.tensor for weight in footprint.borrowed],
        },
        "support": {"replay": {"ok": not reasons, "reasons": reasons}, "load": loadable.to_json()},
    }


def _support(checkpoint: Checkpoint, layout: Eagle3Layout) -> tuple[Loadable, list[str]]:
    """What the engine's rules foretell of loading it, and why it cannot be replayed, if so."""
    from quark_eagle.checkpoint.support import not_replayed
    from quark_eagle.deploy.loadable import Loadable

    return Loadable.of(checkpoint), not_replayed(checkpoint, layout)


def _geometry(geometry: Geometry) -> dict[str, Any]:
    names = [name for name in geometry.__dataclass_fields__ if name not in ("rope", "mla", "aux_layer_ids")]
    mla = geometry.mla
    return {name: getattr(geometry, name) for name in names} | {
        "aux_layer_ids": None if geometry.aux_layer_ids is None else list(geometry.aux_layer_ids),
        "rope": dict(geometry.rope),
        "mla": None if mla is None else {name: getattr(mla, name) for name in mla.__dataclass_fields__},
    }


def _flags(flags: Flags) -> dict[str, bool]:
    return {name: getattr(flags, name) for name in flags.__dataclass_fields__}


def _quantization(checkpoint: Checkpoint) -> str:
    """What an already quantized draft says of itself, in a few words."""
    from quark_eagle.quantize.scheme import Scheme

    config = checkpoint.quantization_config or {}
    dtypes = sorted({info.dtype for info in checkpoint.tensors.values() if info.dtype.startswith(("F8_", "F6_", "F4"))})
    scheme = Scheme.of(checkpoint.tensors)
    cached = any(name.endswith((".k_scale", ".v_scale", ".output_scale")) for name in checkpoint.tensors)
    said = (
        str(config.get("quant_method", "no quantization_config")),
        *([scheme.value] if scheme else []),
        *dtypes,
        *(["scales of an FP8 KV cache"] if cached else []),
    )
    return ", ".join(said)


def _show(checkpoint: Checkpoint, layout: Eagle3Layout, decisions: dict[str, Decision], footprint: Footprint) -> None:
    """The answer for people: what it is, a row for each tensor, what a step reads, and what that means."""
    render.say(f"Eagle3 draft {checkpoint.directory}")
    for line in _headlines(checkpoint, layout):
        render.say(f"  {line}")
    render.say()
    render.show(_table(checkpoint, decisions, footprint))
    render.say()
    for line in _traffic_lines(footprint, is_quantized=checkpoint.is_quantized):
        render.say(line)
    render.say()
    for line in _support_lines(*_support(checkpoint, layout)):
        render.say(line)


def _headlines(checkpoint: Checkpoint, layout: Eagle3Layout) -> list[str]:
    g = layout.geometry
    aux = "the engine's choice" if g.aux_layer_ids is None else ", ".join(map(str, g.aux_layer_ids))
    vocabulary = (
        f"{g.draft_vocab_size} of {g.vocab_size} tokens" if g.has_pruned_vocabulary else f"all {g.vocab_size} tokens"
    )
    layers = "1 decoder layer" if g.num_layers == 1 else f"{g.num_layers} decoder layers"
    files = "1 safetensors file" if len(checkpoint.shards) == 1 else f"{len(checkpoint.shards)} safetensors files"
    lines = [
        f"family {layout.family.value}, names {layout.convention.value}, {layers}, {files}",
        f"hidden size {g.hidden_size}, intermediate size {g.intermediate_size}, {_attention(g)}",
        f"reads {g.num_aux_hidden_states} aux hidden states of width {g.target_hidden_size}, target layers {aux}",
        f"proposes from {vocabulary}",
    ]
    switches = [name for name, on in _flags(layout.flags).items() if on and name != "use_aux_hidden_state"]
    if switches:
        lines.append(f"with {', '.join(switches)}")
    lacks = [name for name in ("embed_tokens.weight", "lm_head.weight") if not layout.has(name)]
    if lacks:
        lines.append(f"without {' and '.join(lacks)}: an engine shares the target's")
    if checkpoint.is_quantized:
        lines.append(f"already quantized ({_quantization(checkpoint)}): `quantize` would refuse it")
    return lines


def _attention(g: Geometry) -> str:
    if g.mla is not None:
        return f"{g.num_attention_heads} heads of latent attention (MLA), kv_lora_rank {g.mla.kv_lora_rank}"
    return f"{g.num_attention_heads} heads and {g.num_key_value_heads} KV heads of width {g.head_dim}"


def _table(checkpoint: Checkpoint, decisions: dict[str, Decision], footprint: Footprint) -> object:
    weights = {weight.tensor: weight for weight in footprint.weights}
    rows: list[list[object]] = []
    for name, info in checkpoint.tensors.items():
        row: list[object] = [
            name,
            info.dtype,
            " × ".join(map(str, info.shape)) or "scalar",
            render.size(info.size_bytes),
        ]
        if name in decisions:
            decision = decisions[name]
            row += [render.size(weights[name].fp8_size_bytes), f"{decision.action}: {decision.reason}"]
        rows.append(row)
    total: list[object] = [f"{len(rows)} tensors", "", "", render.size(footprint.size_bytes)]
    headers = ["tensor", "dtype", "shape", "size"]
    if decisions:
        change = _percent(footprint.fp8_size_bytes - footprint.size_bytes, footprint.size_bytes)
        total += [render.size(footprint.fp8_size_bytes), f"{change:+} %"]
        headers += ["in FP8", "what FP8 does"]
    return render.table(headers, [*rows, total], right=(3, 4))


def _traffic_lines(footprint: Footprint, *, is_quantized: bool) -> list[str]:
    """What a draft step reads, and how much of it FP8 can change."""
    from quark_eagle.checkpoint.traffic import EVERY_STEP, ReadIn

    step, after = footprint.step(*EVERY_STEP), footprint.fp8_step(*EVERY_STEP)
    first = footprint.step(ReadIn.FIRST_STEP)
    head, head_and_embedding = footprint.step(ReadIn.HEAD), footprint.on_disk(ReadIn.HEAD, ReadIn.EMBEDDING)
    change = "" if is_quantized else f", in FP8 {render.size(after)} ({_percent(after - step, step):+} %)"
    lines = [
        f"A draft step reads {render.size(step)} of weights{change}: the layers, the head, one row of the embedding."
    ]
    if first:
        kept = "" if is_quantized else ", which by default stays as it is"
        lines.append(f"The first step of a round reads fc as well, {render.size(first)}{kept}.")
    if footprint.borrowed:
        names = " and ".join(weight.tensor for weight in footprint.borrowed)
        lines.append(f"Counted with it: {names} of the target, taken to be 16 bits wide.")
    head_share = _percent(head, step)
    lines.append(
        f"The head is {head_share} % of what a step reads; head and embedding are "
        f"{_percent(head_and_embedding, footprint.size_bytes)} % of the file."
    )
    if not is_quantized and head_share >= 50:
        lines.append(
            f"No engine takes them in FP8, so they rule: a step gets {_percent(step - after, step)} % lighter at best, "
            "and more than the weights costs time. Measure before you expect a faster draft."
        )
    return lines


def _support_lines(loadable: Loadable, reasons: list[str]) -> list[str]:
    """Whether an engine loads it, and whether it can be replayed, with every reason why not."""
    does = "refuses it" if loadable.stops else "will not run it as it is meant"
    lines = [f"{loadable.engine} {does}:" if loadable.reasons else f"{loadable.engine} loads it, by its headers."]
    lines += [f"  {reason}" for reason in loadable.reasons]
    lines.append("It cannot be replayed, so its acceptance has to be served:" if reasons else "It can be replayed.")
    return lines + [f"  {reason}" for reason in reasons]


def _percent(part: int, whole: int) -> int:
    return round(100 * part / whole) if whole else 0
