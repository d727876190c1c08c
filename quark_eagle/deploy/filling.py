"""How the parameters of one linear are filled, and what goes wrong without the engine saying so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from math import ceil
from typing import Literal

from quark_eagle.checkpoint.reader import TensorInfo
from quark_eagle.deploy.answers import Answer, Quantization, matches
from quark_eagle.deploy.findings import FP8, HIGH_PRECISION, MODEL_DTYPE, Parameter, Problem
from quark_eagle.deploy.rules import Scheme

_DEAD = "the draft loads, the text stays right, and every proposal is rejected"
_BLOCK = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one matrix on disk goes: its module's runtime name before stacking, and the size the engine expects.

    `cut` is the axis along which more than that is cut off.
    """

    place: str
    rows: int
    columns: int
    cut: Literal["rows", "columns"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What filling came to: parameters and their tensors, places claimed, and what is wrong."""

    parameters: tuple[Parameter, ...]
    claimed: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def scale_shape(self) -> tuple[int, ...] | None:
        """Of ``weight_scale`` in the engine; None if there is none."""
        return next((each.shape for each in self.parameters if each.name.endswith(".weight_scale")), None)


def fill(
    module: str,
    slots: Sequence[Slot],
    answer: Answer,
    has_bias: bool,
    places: Mapping[str, TensorInfo],
    quantization: Quantization | None,
    lookup: str,
) -> Filled:
    """Fill one linear from the tensors on disk.

    Args:
        module: its runtime name.
        slots: its parts, in order of their rows.
        answer: what ``quantization_config`` says about it.
        has_bias: whether the engine builds a bias.
        places: tensors by runtime name before stacking.
        quantization: that config; None if there is none.
        lookup: the name with which it was asked.
    """
    ends = ["weight", *(["weight_scale"] if answer.scheme else []), *(["bias"] if has_bias else [])]
    if answer.scheme and not answer.scheme.dynamic:
        ends.append("input_scale")
    problems: list[Problem] = []
    stored = {slot.place: info for slot in slots if (info := places.get(f"{slot.place}.weight")) is not None}
    if len({info.dtype for info in stored.values()}) > 1:
        found = ", ".join(f"{info.name} is {info.dtype}" for info in stored.values())
        problems.append(
            Problem(
                message=f"its parts disagree: {found}, but they run as one module and must share a scheme. "
                "Quantize all or none."
            )
        )
    for slot in slots:
        for end in ends:
            info = places.get(f"{slot.place}.{end}")
            if info is not None:
                problems += _wrong(module, slot, end, info, answer, quantization, lookup)
            elif end != "weight_scale" or slot.place not in stored or stored[slot.place].dtype == FP8:
                problems += _missing(slot, end)  # where the weight is not FP8, that is the mistake and has been told
    return Filled(
        parameters=tuple(_parameter(module, end, slots, answer.scheme, places) for end in ends),
        claimed=tuple(f"{slot.place}.{end}" for end in ends for slot in slots),
        problems=tuple(problems),
    )


def _parameter(
    module: str, end: str, slots: Sequence[Slot], scheme: Scheme | None, places: Mapping[str, TensorInfo]
) -> Parameter:
    """One parameter as it is built."""
    rows = sum(slot.rows for slot in slots)
    dtype = MODEL_DTYPE
    shape: tuple[int, ...] = (rows,)
    if end == "weight":
        dtype, shape = FP8 if scheme else MODEL_DTYPE, (rows, slots[0].columns)
    elif scheme and end == "weight_scale":
        dtype, shape = "F32", _built_scale_shape(scheme, slots)
    elif end == "input_scale":
        dtype, shape = "F32", (len(slots),)
    sources = (places.get(f"{slot.place}.{end}") for slot in slots)
    names = tuple(info.name if info is not None else None for info in sources)
    return Parameter(name=f"{module}.{end}", dtype=dtype, shape=shape, sources=names)


def scale_shapes(scheme: Scheme, slot: Slot) -> tuple[tuple[int, ...], ...]:
    """Shapes on disk that the engine takes for the scale of one matrix."""
    if scheme.weight == "per_channel":
        return ((slot.rows, *(1,) * (scheme.scale_axes - 1)),)
    if scheme.weight == "per_block":
        return ((ceil(slot.rows / _BLOCK), ceil(slot.columns / _BLOCK)),)
    return ((), (1,))


def _built_scale_shape(scheme: Scheme, slots: Sequence[Slot]) -> tuple[int, ...]:
    if scheme.weight == "per_tensor":
        return (len(slots),)
    per_slot = [scale_shapes(scheme, slot)[0] for slot in slots]
    return (sum(shape[0] for shape in per_slot), *per_slot[0][1:])


def _missing(slot: Slot, end: str) -> list[Problem]:
    start = "the lowest float32" if end.endswith("_scale") else "whatever its memory held"
    message = f"nothing on disk fills {slot.place}.{end}, which stays at {start}: {_DEAD}. Put the tensor back."
    return [Problem(message=message)]


def _wrong(
    module: str, slot: Slot, end: str, info: TensorInfo, answer: Answer, quantization: Quantization | None, lookup: str
) -> list[Problem]:
    """What is wrong with a tensor that is there."""
    if end == "weight":
        wrong_dtype = _weight_dtype(module, info, answer, quantization, lookup)
        return [
            *wrong_dtype,
            *_shape(info, ((slot.rows, slot.columns),), ("rows", "columns").index(slot.cut) if slot.cut else None),
        ]
    if end == "bias":
        return [
            *_high_precision(info, "a bias is added in high precision."),
            *_shape(info, ((slot.rows,),), _row_axis(slot)),
        ]
    assert answer.scheme is not None  # scales are asked for under a scheme only
    shapes = scale_shapes(answer.scheme, slot) if end == "weight_scale" else ((), (1,))
    cut = _row_axis(slot) if answer.scheme.weight == "per_channel" and end == "weight_scale" else None
    return [*_high_precision(info, "a scale must be F32. Store it so."), *_shape(info, shapes, cut)]


def _high_precision(info: TensorInfo, need: str) -> list[Problem]:
    return [] if info.dtype in HIGH_PRECISION else [Problem(message=f"{info.name} is {info.dtype}, but {need}")]


def _row_axis(slot: Slot) -> int | None:
    """Where what is one number per row is cut."""
    return 0 if slot.cut == "rows" else None


def _shape(info: TensorInfo, wanted: Sequence[tuple[int, ...]], cut: int | None) -> list[Problem]:
    """What a shape that is none of the wanted ones leads to; more than the first of them is cut off along one axis."""
    if info.shape in wanted:
        return []
    built = list(wanted[0])
    message = f"{info.name} has shape {list(info.shape)}, but vLLM builds {built} from config.json"
    longer = list(info.shape)
    if cut is not None and len(longer) == len(built) and longer[cut] > built[cut]:
        longer[cut] = built[cut]
        if longer == built:
            kept = f"vLLM takes the first {built[cut]} {('rows', 'columns')[cut]} and drops the rest without a word"
            return [Problem(message=f"{message}: {kept}. Repair either.")]
    return [Problem(message=f"{message} and stops. Repair either.", stops=True)]


def _weight_dtype(
    module: str, info: TensorInfo, answer: Answer, quantization: Quantization | None, lookup: str
) -> list[Problem]:
    message, key = "", quantization.kept_key if quantization else "exclude"
    if answer.scheme is not None and info.dtype.startswith("F8") and info.dtype != FP8:
        message = f"{info.name} is {info.dtype}, but vLLM reads {FP8} (e4m3fn) and casts: wrong numbers. Store e4m3fn."
    elif answer.scheme is not None and info.dtype != FP8:
        message = (
            f"{info.name} is {info.dtype}, but vLLM builds an FP8 parameter for it "
            f"({_why_not_excluded(module, info, quantization, lookup)}). "
            f"The weight is cast without a scale and weight_scale stays uninitialized: {_DEAD}. "
            f"Add {module_pattern(lookup)!r} to quantization_config.{key}, or quantize it."
        )
    elif answer.scheme is None and info.dtype not in HIGH_PRECISION:
        message = (
            f"{info.name} is {info.dtype}, but vLLM builds a parameter in the model's dtype for it ({answer.reason}). "
            f"It is cast without its scale, and the scale has nowhere to go. Take it out of {key}, or keep it in BF16."
        )
    return [Problem(message=message)] if message else []


def module_pattern(lookup: str) -> str:
    r"""An exclude entry that means this module whatever the target's number of layers.

    >>> print(module_pattern("model.fc"), module_pattern("lm_head"), module_pattern("model.layers.61.mlp.down_proj"))
    model.fc lm_head re:.*\.down_proj$
    """
    return lookup if lookup.count(".") <= 1 else rf"re:.*\.{lookup.rpartition('.')[2]}$"


def _why_not_excluded(module: str, info: TensorInfo, quantization: Quantization | None, lookup: str) -> str:
    """Why the list of kept modules does not keep it, with the entry that was perhaps meant to."""
    assert quantization is not None  # or nothing would have been built in FP8
    key, entries = quantization.kept_key, quantization.kept
    on_disk = info.name.removesuffix(".weight")
    names = {on_disk, on_disk.rpartition(".")[2], module, module.rpartition(".")[2]}
    meant = [entry for entry in entries if any(_would_mean(entry, name) for name in names)]
    rule = "an entry must equal that name or, after 're:', match it from its start"
    if meant:
        return f"{key} has {meant[0]!r}, which does not match the name {lookup!r} that vLLM asks with: {rule}"
    return f"no entry of {key} matches the name {lookup!r}: {rule}"


def _would_mean(entry: str, name: str) -> bool:
    return matches(entry, name) or fnmatch(name, entry) or (entry.startswith("re:") and fnmatch(name, f"*{entry[3:]}*"))
