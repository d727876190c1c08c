"""Group: one of a compressed-tensors config's ``config_groups``: what it means, and what becomes of that in vLLM.

Read in vLLM 0.32.0, ``layers/quantization/compressed_tensors/compressed_tensors.py``:
`_quantization_scheme_map_from_config` and `_get_scheme_from_parts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from quark_eagle.deploy.answers import Answer, pattern_problem
from quark_eagle.deploy.compressed_tensors_spec import Spec
from quark_eagle.deploy.rules import EngineRules, Scheme

KEY = "quantization_config"
UNREAD = "which is not covered here"
_FORMATS = ("naive-quantized", "int-quantized", "float-quantized", "nvfp4-pack-quantized")
"""Formats in which activations are quantized (utils.py, `is_activation_quantization_format`)."""

_GRANULARITY: Mapping[str, str] = MappingProxyType({"tensor": "per_tensor", "channel": "per_channel"})
"""Of weights, by their strategy, in the words of the rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One of ``config_groups``: its targets, and what they are given.

    Attributes:
        where: its path in config.json.
        scheme: what its modules become; None where `refusal` says why the engine builds none.
        problems, uncovered: see `quark_eagle.deploy.compressed_tensors_config`.
    """

    where: str
    targets: tuple[str, ...] = ()
    scheme: Scheme | None = None
    refusal: str = ""
    problems: tuple[str, ...] = ()
    uncovered: tuple[str, ...] = ()

    def answer(self, target: str) -> Answer:
        """What a module that one of its targets means is told."""
        return Answer(scheme=self.scheme, reason=f"target {target!r} of {self.where}", problem=self.refusal)


def groups_of(quantization: Mapping[str, Any], rules: EngineRules) -> Iterator[Group]:
    """The groups of a config that can mean a linear, in order; one that means an attention only is skipped."""
    groups = quantization.get("config_groups")
    for name, group in (groups if isinstance(groups, Mapping) else {}).items():
        where = f"config_groups.{name}"
        targets = strings_of(group.get("targets")) if isinstance(group, Mapping) else None
        if targets is None:
            stops = f"{KEY}.{where} has no targets, a list of strings: vLLM stops with TypeError. Write them."
            yield Group(where=where, problems=(stops,))
        elif not (len(targets) == 1 and targets[0].endswith("Attention")):
            own = group.get("format")
            yield _group(where, group, targets, quantization.get("format") if own is None else own, rules)


def _group(
    where: str, group: Mapping[str, Any], targets: tuple[str, ...], written_as: Any, rules: EngineRules
) -> Group:
    """A group whose targets are known; the engine checks its specs whether a module asks for them or not."""
    weights = Spec.of(group.get("weights"))
    inputs = Spec.of(group["input_activations"]) if group.get("input_activations") else None
    specs = [(weights, "weights"), *([(inputs, "input_activations")] if inputs else [])]
    problems = [f"{KEY}.{where}.{key} {spec.problem}" for spec, key in specs if spec.problem]
    problems += [problem for target in targets if (problem := pattern_problem(f"{where}.targets", target))]
    if problems:
        return Group(where=where, targets=targets, problems=tuple(problems))
    uncovered = [f"{where} asks for {key} in {spec.words}, {UNREAD}" for spec, key in specs if not spec.is_fp8]
    if group.get("output_activations"):
        uncovered.append(f"{where} quantizes output_activations, {UNREAD}")
    scheme, refusal = _scheme(weights, inputs, written_as, rules)
    return Group(
        where=where,
        targets=targets,
        scheme=scheme,
        refusal=f"{where} {refusal}" if refusal else "",
        uncovered=tuple(uncovered),
    )


def _scheme(weights: Spec, inputs: Spec | None, written_as: Any, rules: EngineRules) -> tuple[Scheme | None, str]:
    """The scheme of FP8 specs, or why the engine has none; "per_channel" activations are scaled per token."""
    if written_as not in _FORMATS:
        none = "for which vLLM has no FP8 scheme: it stops with NotImplementedError. Write 'float-quantized'."
        return None, f"is written as format {written_as!r}, {none}"
    if weights.dynamic or not weights.symmetric or weights.strategy not in _GRANULARITY:
        return None, "has weights that are dynamic, not symmetric or per token: vLLM stops with NotImplementedError."
    is_static_tensor = inputs is not None and inputs.strategy == "tensor" and inputs.symmetric
    if inputs is None or not (inputs.dynamic or is_static_tensor):
        found = inputs.words if inputs else "high precision"
        kernel = "vLLM has a kernel for that on CUDA only, and stops elsewhere with ValueError."
        return None, f"asks for FP8 weights beside activations in {found}: {kernel}"
    wanted = _GRANULARITY[weights.strategy], "per_channel" if inputs.dynamic else "per_tensor", inputs.dynamic
    scheme = next(each for each in rules.schemes if (each.weight, each.input, each.dynamic) == wanted)
    return replace(scheme, scale_axes=2), ""


def strings_of(found: Any) -> tuple[str, ...] | None:
    """A list of strings; None if it is anything else."""
    is_list = isinstance(found, list) and all(isinstance(each, str) for each in found)
    return tuple(found) if is_list else None
