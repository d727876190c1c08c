"""What is never quantized: norms, embedding, head and the map of the draft's vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from quark_eagle.checkpoint.reader import TensorInfo
from quark_eagle.deploy.engine_config import EngineConfig
from quark_eagle.deploy.findings import HIGH_PRECISION, MODEL_DTYPE, Parameter, Problem, RuntimeModule
from quark_eagle.deploy.rules import Family, Norm

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"
VOCABULARY_MAP = "draft_id_to_target_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plain:
    """One of them: its runtime name, the place of its tensor, its shape, and what follows if there is none."""

    name: str
    place: str
    shape: tuple[int, ...]
    without: str


def fill_plain(
    family: Family, config: EngineConfig, places: Mapping[str, TensorInfo], *, with_head: bool = True
) -> Iterator[tuple[RuntimeModule, str]]:
    """Each of them as it will be filled, with the place that it takes its tensor from.

    Args:
        family: the module table.
        config: of the draft.
        places: tensors by runtime name before stacking.
        with_head: whether the head is one of them; it is not where it is quantized after all.
    """
    for plain in (*_norms(family, config), *_tables(config)):
        if plain.name == HEAD and not with_head:
            continue
        info = places.get(plain.place)
        dtype = "I64" if plain.name == VOCABULARY_MAP else MODEL_DTYPE
        parameter = Parameter(name=plain.place, dtype=dtype, shape=plain.shape, sources=(info.name if info else None,))
        module = RuntimeModule(
            name=plain.name,
            lookup=plain.name,
            parts=(),
            dtype=dtype,
            scheme=None,
            decided_by="never quantized" if info else "shared with the target",
            parameters=(parameter,),
            shape=plain.shape,
            scale_shape=None,
            problems=tuple(_problems(plain, info)),
        )
        yield module, plain.place


def _norms(family: Family, config: EngineConfig) -> Iterator[_Plain]:
    for norm in family.norms:
        if config.holds(norm.when):
            yield from _norm("model.", norm, config.dimensions)
    for layer in range(config.num_layers):
        for norm in family.layer_norms:
            if config.holds(norm.when) and not (norm.first_layer_only and layer):
                yield from _norm(f"model.layers.{layer}.", norm, config.dimensions)


def _norm(prefix: str, norm: Norm, dims: Mapping[str, int]) -> Iterator[_Plain]:
    count = dims["aux_count"] if norm.module.endswith(".*") else 1
    for i in range(count):
        name = prefix + norm.module.replace("*", str(i))
        yield _Plain(
            name=name,
            place=f"{name}.weight",
            shape=(dims[norm.size],),
            without="vLLM leaves it at ones and says nothing",
        )


def _tables(config: EngineConfig) -> Iterator[_Plain]:
    dims, pruned = config.dimensions, config.holds("draft_vocabulary")
    hidden, target_hidden = dims["hidden"], dims["target_hidden"]
    narrow = f"which is {target_hidden} wide and not {hidden}" if hidden != target_hidden else ""
    yield _Plain(
        name=EMBEDDING,
        place=f"{EMBEDDING}.weight",
        shape=(dims["vocabulary"], hidden),
        without=f"vLLM cannot share the target's embedding, {narrow}" if narrow else "",
    )
    whole = "whose rows are the whole vocabulary" if pruned else narrow
    yield _Plain(
        name=HEAD,
        place=f"{HEAD}.weight",
        shape=(dims["draft_vocabulary"], hidden),
        without=f"vLLM would share the target's head, {whole}" if whole else "",
    )
    lost = "vLLM leaves the map at zeros and takes every draft token for the target token of the same number"
    if config.holds("vocabulary_map"):
        yield _Plain(
            name=VOCABULARY_MAP,
            place=VOCABULARY_MAP,
            shape=(dims["draft_vocabulary"],),
            without=lost if pruned else "",  # which is right where the draft has the whole vocabulary
        )


def _problems(plain: _Plain, info: TensorInfo | None) -> list[Problem]:
    """What is wrong with the tensor of one of them."""
    if info is None:
        lost = f"has no tensor on disk: {plain.without}. Put it back from the BF16 draft."
        return [Problem(message=lost)] if plain.without else []
    problems = []
    if info.dtype.startswith("F8"):
        cast = f"vLLM builds it in the model's dtype, and {info.name} is {info.dtype}, which is cast without its scale"
        problems.append(Problem(message=f"cannot be quantized: {cast}. Copy it from the BF16 draft."))
    elif info.dtype not in (("I64", "I32") if plain.name == VOCABULARY_MAP else HIGH_PRECISION):
        problems.append(
            Problem(message=f"{info.name} is {info.dtype}, which is no dtype for it. Copy it from the BF16 draft.")
        )
    if info.shape != plain.shape:
        found, wanted = list(info.shape), list(plain.shape)
        message = f"{info.name} has shape {found}, but config.json asks for {wanted}: vLLM stops. Repair either."
        problems.append(Problem(message=message, stops=True))
    return problems
