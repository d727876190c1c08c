"""What the engine does with each tensor: which parameter it ends in, and what it finds there.

The walk is the loader's own: a tensor gets a runtime name, the name finds a parameter or nothing, and the parameter
takes what comes, whatever its dtype. Nothing is read here but headers and config.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from quark_eagle.checkpoint.reader import Checkpoint, TensorInfo
from quark_eagle.deploy.answers import Answer, Quantization
from quark_eagle.deploy.building import BuiltLinear, answers_for, built_linears, quantized_head
from quark_eagle.deploy.engine_config import EngineConfig
from quark_eagle.deploy.filling import Slot, fill, module_pattern
from quark_eagle.deploy.findings import FP8, MODEL_DTYPE, Finding, Problem, RuntimeModule, errors, warnings
from quark_eagle.deploy.kv_cache import CacheScales, dropped, fill_cache
from quark_eagle.deploy.plain import fill_plain
from quark_eagle.deploy.rules import EngineRules, Family

Places = Mapping[str, TensorInfo]
"""Tensors by the runtime name that the loader gives them before it stacks parts into fused modules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """What became of every tensor and every module.

    Attributes:
        modules: in the order in which the engine builds them.
        findings: about tensors and config; those about a module are the module's errors.
        scales: FP8 weight on disk → its scale on disk, as far as both are there.
        activation_scales: on disk: of inputs and of KV caches, as far as a parameter takes them.
    """

    modules: tuple[RuntimeModule, ...]
    findings: tuple[Finding, ...]
    scales: Mapping[str, str]
    activation_scales: frozenset[str] = frozenset()


def load(
    checkpoint: Checkpoint,
    config: EngineConfig,
    quantization: Quantization | None,
    rules: EngineRules,
    num_target_layers: int | None,
) -> Loading:
    """Walk through the load of a checkpoint whose config the engine can build."""
    family = rules.families[config.family_name]
    caches = _cache_scales(quantization, config, num_target_layers)
    places, findings = _places(checkpoint, family, config, caches, rules)
    head = list(quantized_head(family, quantization, places))
    linears = [*built_linears(family, config), *head]
    answers, notes = answers_for(linears, quantization, places, num_target_layers)
    findings += warnings("config.json", [*notes, *_where_it_fails(answers)])
    modules: list[RuntimeModule] = []
    claimed: set[str] = set()
    scales: dict[str, str] = {}
    for built, answer in zip(linears, answers, strict=True):
        module, taken = _linear(built, answer, config, family, places, quantization, num_target_layers)
        modules.append(module)
        claimed.update(taken)
        scales |= _scales(built, places)
    for module, place in fill_plain(family, config, places, with_head=not head):
        modules.append(module)
        claimed.add(place)
    if caches is not None and caches.dropped_by is None:
        for module, taken in fill_cache(config.num_layers, places, caches):
            modules.append(module)
            claimed.update(taken)
    names = {module.name for module in modules}
    for place in sorted(places.keys() - claimed):
        if caches is not None and (lost := dropped(caches, place)):
            findings += errors(places[place].name, [lost])
        else:
            findings += _leftover(place, places[place].name, names, family, quantization is not None, rules)
    return Loading(
        modules=tuple(modules),
        findings=tuple(findings),
        scales=scales,
        activation_scales=frozenset(_activation_scales(modules)),
    )


def _where_it_fails(answers: Iterable[Answer]) -> Iterator[str]:
    for scheme in {scheme.name: scheme for answer in answers if (scheme := answer.scheme) is not None}.values():
        for device, reason in scheme.fails_on.items():
            yield f"asks for {scheme.name}, which vLLM cannot run on {device}: {reason}."


def _cache_scales(
    quantization: Quantization | None, config: EngineConfig, num_target_layers: int | None
) -> CacheScales | None:
    """Where the scales of the KV caches lie; None if none are taken, as by the latent cache of an MLA draft."""
    if quantization is None or "key_value_rank" in config.dimensions:
        return None
    return quantization.cache_scales(f"model.layers.{num_target_layers or 1}.self_attn.attn")


def _activation_scales(modules: Iterable[RuntimeModule]) -> Iterator[str]:
    for module in modules:
        for parameter in module.parameters:
            if parameter.name.endswith((".input_scale", ".attn.k_scale", ".attn.v_scale")):
                yield from (name for name in parameter.sources if name is not None)


def _places(
    checkpoint: Checkpoint, family: Family, config: EngineConfig, caches: CacheScales | None, rules: EngineRules
) -> tuple[dict[str, TensorInfo], list[Finding]]:
    """Each tensor at its place; findings about those that never get one."""
    places: dict[str, TensorInfo] = {}
    findings: list[Finding] = []
    for name, info in checkpoint.tensors.items():
        if "t2d" in name or any(part in name for part in rules.harmless):
            continue
        if "mask_hidden" in name and "mask_hidden" in family.skipped:
            findings += warnings(name, ["is used with parallel drafting (P-EAGLE) only, which is not checked here."])
            continue
        place = _place(name) if caches is None else caches.place(_place(name))
        unasked = [part for part, fact in family.skipped.items() if part in place and not config.holds(fact)]
        if unasked:
            findings += errors(
                name,
                [f"is skipped without a word: config.json does not ask for {unasked[0]!r}. Set the flag or remove it."],
            )
            continue
        if place in places:
            findings += errors(name, [f"and {places[place].name} both go to {place}; the last one wins. Keep one."])
        places[place] = info
    return places, findings


def _place(name: str) -> str:
    """The runtime name of a tensor before stacking (``load_weights`` of the model files)."""
    if "d2t" in name:
        return name.replace("d2t", "draft_id_to_target_id")
    return name if "lm_head" in name else f"model.{name}".replace("midlayer.", "layers.0.", 1)


def _linear(
    built: BuiltLinear,
    answer: Answer,
    config: EngineConfig,
    family: Family,
    places: Places,
    quantization: Quantization | None,
    num_target_layers: int | None,
) -> tuple[RuntimeModule, tuple[str, ...]]:
    """One linear as it will be filled, and the places it takes its tensors from."""
    rule, dims = built.rule, config.dimensions
    columns = built.columns(dims)
    slots = [
        Slot(place=f"{built.prefix}{part.name}", rows=dims[part.rows], columns=columns, cut=rule.cut)
        for part in rule.parts
    ]
    asked = built.lookup(num_target_layers)
    has_bias = any(config.holds(flag) for flag in rule.bias)
    filled = fill(built.name, slots, answer, has_bias, places, quantization, asked)
    problems = [Problem(message=answer.problem, stops=True)] if answer.problem else []
    problems += filled.problems
    for slot in slots:
        renamed = _stacked(slot.place, family)
        if renamed != built.name:
            message = f"the loader renames {slot.place} to {renamed}, which it did not build, and stops."
            problems.append(Problem(message=message, stops=True))
    if rule.high_precision and (answer.scheme is not None or built.is_stored_in_fp8(places)):
        entry = module_pattern(asked)
        message = f"must stay in high precision: {rule.high_precision}. Keep it in BF16 and exclude {entry!r}."
        problems.append(Problem(message=message))
    module = RuntimeModule(
        name=built.name,
        lookup=asked,
        parts=tuple(part.name for part in rule.parts) if len(slots) > 1 else (),
        dtype=FP8 if answer.scheme else MODEL_DTYPE,
        scheme=answer.scheme.name if answer.scheme else None,
        decided_by=answer.reason,
        parameters=filled.parameters,
        shape=(sum(slot.rows for slot in slots), columns),
        scale_shape=filled.scale_shape,
        problems=tuple(problems),
    )
    return module, filled.claimed


def _scales(built: BuiltLinear, places: Places) -> dict[str, str]:
    found = {}
    for part in built.rule.parts:
        weight, scale = (places.get(f"{built.prefix}{part.name}.{end}") for end in ("weight", "weight_scale"))
        if weight is not None and scale is not None and weight.dtype == FP8:
            found[weight.name] = scale.name
    return found


def _leftover(
    place: str, name: str, modules: set[str], family: Family, quantized: bool, rules: EngineRules
) -> list[Finding]:
    """What the loader makes of a tensor that no module takes."""
    module = _stacked(place.rpartition(".")[0], family)
    fused = module != place.rpartition(".")[0]
    is_bias = place.endswith(".bias")
    if quantized and place.endswith(("q_proj.output_scale", "k_proj.output_scale", "v_proj.output_scale")):
        taken = "is taken for a part of qkv_proj, which has no such parameter: vLLM stops"
        letter = place.removesuffix("_proj.output_scale")[-1]
        return errors(name, [_stop(f"{taken}. Call it self_attn.{letter}_scale.")])
    if quantized and family.knows_cache_scales and place.endswith(rules.kv_scales):
        return warnings(name, ["belongs to a quantized KV cache, which is not checked here."])
    if is_bias and family.drops_unknown_bias:
        return errors(name, ["is dropped without a word: by this config vLLM builds no bias there. Set the flag."])
    if family.drops_unknown and place.startswith("model.") and not fused:
        return errors(name, ["is dropped without a word: vLLM has no parameter of that name. Rename or remove it."])
    if place.endswith("_scale") and module in modules:
        return errors(name, [_stop(f"has no parameter to go to, as {module} is not quantized: vLLM stops.")])
    twice = " The name begins with 'model.', and vLLM puts another before it." if "model.model." in place else ""
    return errors(
        name, [_stop(f"has no parameter to go to: vLLM looks for {place!r} and stops.{twice} Rename or remove it.")]
    )


def _stop(message: str) -> Problem:
    return Problem(message=message, stops=True)


def _stacked(module: str, family: Family) -> str:
    """The module that the loader puts a matrix into."""
    for part, fused in family.stacked.items():
        module = module.replace(part, fused, 1)
    return module
