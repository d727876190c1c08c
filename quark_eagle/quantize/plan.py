"""QuantPlan: exactly one Decision, quantize or keep, with its reason, for every tensor of a draft.

What runs fused in an engine (q, k and v; gate and up; MLA's two a-projections) shares a fate, and a plan cannot say
otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from quark_eagle.checkpoint.layout import Eagle3Layout, Role, Slot
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import CheckpointError, PlanError, QuantizationError, findings
from quark_eagle.quantize.exclude import exclude_list, module_of
from quark_eagle.quantize.format import Format
from quark_eagle.quantize.patterns import Patterns, last_parts, quoted
from quark_eagle.quantize.scheme import PTPC_FP8, Scheme

_REASONS: Mapping[Role, str] = {
    Role.FC: "fc stays in high precision (--quantize-fc quantizes it)",
    Role.NORM: "norm",
    Role.EMBEDDING: "embedding: no engine reads it in FP8",
    Role.HEAD: "LM head: no engine reads it in FP8",
    Role.VOCAB_MAP: "vocabulary map",
    Role.BIAS: "bias",
    Role.KV_B: "kv_b_proj: vLLM absorbs it into the attention",
    Role.OTHER: "not a part of an Eagle3 draft that is known: carried along",
}
QUANTIZABLE_DTYPES = ("BF16", "F16", "F32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What happens to one tensor, and why.

    Attributes:
        tensor: its name on disk.
        fusion_group: the module that an engine fuses it into; None if it runs alone.
    """

    tensor: str
    action: Literal["quantize", "keep"]
    reason: str
    fusion_group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantPlan:
    """The decisions for a whole draft, by tensor name, and the exclude list that says the same.

    Attributes:
        keep: the --keep patterns.
        format: how scales and config are spelled.
        exclude: what is kept, in every spelling that a reader looks for (`quark_eagle.quantize.exclude`).
    """

    scheme: Scheme
    decisions: tuple[Decision, ...]
    keep: tuple[str, ...]
    quantize_fc: bool
    exclude: tuple[str, ...]
    format: Format = Format.QUARK

    def __post_init__(self) -> None:
        """Nothing constructs a plan that decides a tensor twice or splits a fused group."""
        names = [decision.tensor for decision in self.decisions]
        assert len(names) == len(set(names)), "a tensor is decided twice"
        actions: dict[str, set[str]] = defaultdict(set)
        for decision in self.decisions:
            if decision.fusion_group is not None and decision.tensor.endswith(".weight"):
                actions[decision.fusion_group].add(decision.action)
        split = [group for group, both in actions.items() if len(both) > 1]
        assert not split, f"split fused groups: {split}"

    @classmethod
    def of(
        cls,
        layout: Eagle3Layout,
        scheme: Scheme = PTPC_FP8,
        keep: Sequence[str] = (),
        quantize_fc: bool = False,
        format: Format = Format.QUARK,
    ) -> QuantPlan:
        """The plan for a draft: linear weights of its decoder layers are quantized, everything else is kept.

        Args:
            layout: of the draft to quantize.
            scheme: what the quantized weights become.
            keep: patterns (fnmatch) of tensors or modules by their names on disk, or by their canonical names
                (``layers.0.…``), to keep as well.
            quantize_fc: quantize ``fc`` too; vLLM runs it, SGLang cannot load it.
            format: how scales and config are spelled.

        Raises:
            PlanError: a pattern matches nothing, splits a fused group, contradicts `quantize_fc`, or keeps a module in
                some layers only. Every finding is listed.
            QuantizationError: the draft is quantized already, or nothing is left to quantize.
        """
        if any(slot.role is Role.SCALE for slot in layout.slots.values()):
            raise QuantizationError(_already_quantized("the draft"))
        candidates = {
            name: slot
            for name, slot in layout.slots.items()
            if slot.role is Role.LINEAR or (quantize_fc and slot.role is Role.FC)
        }
        matches = Patterns.of(keep, layout.slots.values())
        _require_honourable(layout, candidates, matches, quantize_fc)
        decisions = tuple(_decide(slot, slot.tensor in candidates, matches) for slot in layout.slots.values())
        if not any(decision.action == "quantize" for decision in decisions):
            raise QuantizationError("the plan keeps every tensor: nothing to quantize. Give fewer --keep patterns.")
        kept = [layout.slots[decision.tensor] for decision in decisions if decision.action == "keep"]
        return cls(
            scheme=scheme,
            decisions=decisions,
            keep=tuple(keep),
            quantize_fc=quantize_fc,
            exclude=exclude_list(kept),
            format=format,
        )

    @property
    def quantized(self) -> tuple[str, ...]:
        """Names of the tensors to quantize, sorted."""
        return tuple(decision.tensor for decision in self.decisions if decision.action == "quantize")

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the tensors to keep byte for byte, sorted."""
        return tuple(decision.tensor for decision in self.decisions if decision.action == "keep")

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, for ``quark_eagle.json`` and ``--json``."""
        return {
            "scheme": self.scheme.value,
            "format": self.format.value,
            "keep": list(self.keep),
            "quantize_fc": self.quantize_fc,
            "exclude": list(self.exclude),
            "decisions": [
                {"tensor": decision.tensor, "action": decision.action, "reason": decision.reason}
                for decision in self.decisions
            ],
        }


def require_quantizable(checkpoint: Checkpoint, plan: QuantPlan) -> None:
    """Refuses a checkpoint whose weights Quark would not take as they are.

    Raises:
        QuantizationError: it is quantized already, or a weight's dtype is none of BF16, F16 and F32.
        CheckpointError: the plan was made for other tensors.
    """
    if checkpoint.is_quantized:
        raise QuantizationError(_already_quantized(str(checkpoint.directory)))
    if tuple(decision.tensor for decision in plan.decisions) != tuple(checkpoint.tensors):
        raise CheckpointError(f"{checkpoint.directory}: holds other tensors than the plan was made for. Plan again.")
    problems = [
        f"{name} is {checkpoint.tensors[name].dtype}."
        for name in plan.quantized
        if checkpoint.tensors[name].dtype not in QUANTIZABLE_DTYPES
    ]
    if problems:
        advice = f"A weight to quantize is one of {', '.join(QUANTIZABLE_DTYPES)}. Convert it, or --keep it."
        raise QuantizationError(findings(str(checkpoint.directory), problems, advice))


def _already_quantized(where: str) -> str:
    return (
        f"{where}: is already quantized, but a draft in BF16, FP16 or FP32 was needed. Quantizing it again would round "
        "twice. Point at the original draft, or check this one with `quark-eagle verify`."
    )


def _decide(slot: Slot, candidate: bool, matches: Patterns) -> Decision:
    pattern = matches.pattern_of(slot.tensor) if candidate else None
    action: Literal["quantize", "keep"] = "quantize" if candidate and pattern is None else "keep"
    if pattern is not None:
        reason = f"kept by --keep {quoted(pattern)}"
    elif candidate:
        reason = "fc, by --quantize-fc" if slot.role is Role.FC else "linear weight"
    else:
        reason = _REASONS[slot.role]
    return Decision(tensor=slot.tensor, action=action, reason=reason, fusion_group=slot.fusion_group)


def _require_honourable(
    layout: Eagle3Layout, candidates: Mapping[str, Slot], matches: Patterns, quantize_fc: bool
) -> None:
    problems = matches.unmatched()
    if quantize_fc and not any(slot.role is Role.FC for slot in layout.slots.values()):
        problems.append("--quantize-fc: this draft has no fc.weight.")
    problems += [
        f"--keep {quoted(pattern)} keeps fc, but --quantize-fc quantizes it. Drop one of them."
        for slot in candidates.values()
        if slot.role is Role.FC and (pattern := matches.pattern_of(slot.tensor)) is not None
    ]
    kept = [slot for slot in candidates.values() if matches.pattern_of(slot.tensor) is not None]
    splits = _split_groups(candidates.values(), kept, matches)
    problems += splits
    # A split group is in every layer's list as well; one sentence about it is enough.
    if not splits:
        problems += _split_layers(candidates.values(), kept)
    if problems:
        raise PlanError("\n".join(problems))


def _split_groups(candidates: Iterable[Slot], kept: Sequence[Slot], matches: Patterns) -> list[str]:
    groups: dict[str, list[Slot]] = defaultdict(list)
    for slot in candidates:
        if slot.fusion_group is not None:
            groups[slot.fusion_group].append(slot)
    problems = []
    for group in groups.values():
        inside = [slot for slot in group if slot in kept]
        if inside and len(inside) < len(group):
            patterns = dict.fromkeys(matches.pattern_of(slot.tensor) or "" for slot in inside)
            modules = [module_of(slot.tensor) for slot in group]
            given = " ".join(f"--keep {quoted(pattern)}" for pattern in patterns)
            problems.append(
                f"{given}: {last_parts(modules)} run as one fused module and must share a scheme.\n"
                f"Keep {_all(len(group))} or none. Did you mean {matches.suggest_all(modules)}?"
            )
    return problems


def _split_layers(candidates: Iterable[Slot], kept: Sequence[Slot]) -> list[str]:
    layers: dict[str, list[Slot]] = defaultdict(list)
    for slot in candidates:
        if slot.canonical.startswith("layers."):
            layers[slot.canonical.split(".", 2)[2]].append(slot)
    problems = []
    for group in layers.values():
        inside = [slot for slot in group if slot in kept]
        if inside and len(inside) < len(group):
            last = module_of(inside[0].tensor).rpartition(".")[2]
            problems.append(
                f"--keep keeps {last} in {len(inside)} of {len(group)} layers. vLLM numbers a draft's layers from the "
                "target's on, which a checkpoint does not know, so no exclude list can name some of them.\n"
                f"Keep it in every layer or in none. Did you mean --keep '*.{last}'?"
            )
    return problems


def _all(count: int) -> str:
    return {2: "both", 3: "all three"}[count]
