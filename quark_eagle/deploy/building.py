"""The linears of a draft under their runtime names, and what ``quantization_config`` tells each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from quark_eagle.checkpoint.reader import TensorInfo
from quark_eagle.deploy.answers import Answer, Quantization
from quark_eagle.deploy.engine_config import EngineConfig
from quark_eagle.deploy.rules import LAYER_COUNT, Family, Linear, Part

TARGET_LAYERS = range(1, 257)
"""Numbers of layers that are tried where the target's is not known."""

HEAD = Linear(
    module="lm_head",
    lookup="lm_head",
    parts=(Part(name="lm_head", rows="draft_vocabulary"),),
    columns="hidden",
    cut=None,
    below="",
)
"""The LM head, where ``quantization_config`` makes a linear like any other of it."""

_UNQUANTIZED = Answer(scheme=None, reason="no quantization_config")
_FEW = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltLinear:
    """One linear of the model.

    Attributes:
        rule: its row of the module table.
        layer: of the draft, counted from 0; None if it stands beside the layers.
    """

    rule: Linear
    layer: int | None

    @property
    def prefix(self) -> str:
        """What stands before the names of its row."""
        return self.rule.below if self.layer is None else f"model.layers.{self.layer}."

    @property
    def name(self) -> str:
        """Of the module whose parameters are filled."""
        return f"{self.prefix}{self.rule.module}"

    def lookup(self, num_target_layers: int | None) -> str:
        """The name with which ``quantization_config`` is asked; ``<N>`` in it if the target is not known."""
        if self.layer is None:
            return f"{self.rule.below}{self.rule.lookup}"
        if num_target_layers is not None:
            return f"model.layers.{num_target_layers + self.layer}.{self.rule.lookup}"
        offset = f"+{self.layer}" if self.layer else ""
        return f"model.layers.{LAYER_COUNT}{offset}.{self.rule.lookup}"

    def columns(self, dims: Mapping[str, int]) -> int:
        """Of its weight. Only the first layer's attention sees embedding and state side by side."""
        if self.rule.columns == "attention_input":
            return dims["hidden"] * (2 if self.layer == 0 else 1)
        return dims[self.rule.columns]

    def is_stored_in_fp8(self, places: Mapping[str, TensorInfo]) -> bool:
        """Whether any of its matrices lies on disk in FP8."""
        stored = (places.get(f"{self.prefix}{part.name}.weight") for part in self.rule.parts)
        return any(info is not None and info.dtype.startswith("F8") for info in stored)


def built_linears(family: Family, config: EngineConfig) -> Iterator[BuiltLinear]:
    """Every linear that the engine builds for this config, beside the layers first."""
    for rule in family.linears:
        if config.holds(rule.when):
            yield BuiltLinear(rule=rule, layer=None)
    for layer in range(config.num_layers):
        for rule in family.layer_linears:
            if config.holds(rule.when):
                yield BuiltLinear(rule=rule, layer=layer)


def quantized_head(
    family: Family, quantization: Quantization | None, places: Mapping[str, TensorInfo]
) -> Iterator[BuiltLinear]:
    """The LM head as a linear, if it is quantized; one that the draft lacks is the target's, whatever was built."""
    asks = quantization is not None and family.passes_config_to_head and quantization.means_head
    if asks and f"{HEAD.module}.weight" in places:
        yield BuiltLinear(rule=HEAD, layer=None)


def answers_for(
    linears: Sequence[BuiltLinear],
    quantization: Quantization | None,
    places: Mapping[str, TensorInfo],
    num_target_layers: int | None,
) -> tuple[tuple[Answer, ...], list[str]]:
    """What every linear is told, in their order, and a note if that is not the same for every target.

    The target's number of layers is part of the names, so an entry may hold for some targets only. Where the number is
    not known, the answers are those for the targets that the checkpoint fits best, and the note says which.
    """
    if quantization is None:
        return tuple(_UNQUANTIZED for _ in linears), []
    candidates = TARGET_LAYERS if num_target_layers is None else (num_target_layers,)
    told: dict[int, tuple[Answer, ...]] = {}
    groups: dict[tuple[bool, ...], list[int]] = {}
    for count in candidates:
        told[count] = tuple(quantization.answer(built.lookup(count)) for built in linears)
        groups.setdefault(tuple(answer.scheme is not None for answer in told[count]), []).append(count)
    stored = tuple(built.is_stored_in_fp8(places) for built in linears)

    def misfit(group: tuple[bool, ...]) -> tuple[int, int]:
        return sum(a != b for a, b in zip(group, stored, strict=True)), -len(groups[group])

    counts = groups[min(groups, key=misfit)]
    return told[counts[0]], [_for_which(counts, len(candidates))] if len(groups) > 1 else []


def _for_which(counts: Sequence[int], tried: int) -> str:
    shown = ", ".join(map(str, counts)) if len(counts) <= _FEW else f"{len(counts)} of the {tried} numbers tried"
    return (
        "has an entry in quantization_config that holds for some targets only, as their number of layers is "
        f"part of the names; this report is for targets with {shown} layers. Say --num-target-layers to be sure."
    )
