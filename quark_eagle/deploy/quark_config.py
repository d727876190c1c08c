"""QuarkConfig: ``quantization_config`` as the engine reads it, and its answer when a module asks for its scheme."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from quark_eagle.deploy.answers import Answer, matches, pattern_problem
from quark_eagle.deploy.findings import MODEL_DTYPE
from quark_eagle.deploy.kv_cache import CacheConfig, CacheScales
from quark_eagle.deploy.rules import EngineRules, Scheme

_WHAT_IS_KNOWN = "ptpc_fp8, fp8 and fp8_channel_static are what quark-eagle writes"

# quark.py, `get_cache_scale`
_OUTPUT_SCALES = {"k_proj.output_scale": "k_scale", "v_proj.output_scale": "v_scale"}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarkConfig:
    """The parts of ``quantization_config`` that decide, for one version of the engine.

    Attributes:
        exclude: entries, as written.
        cache: what it says of a KV cache, and ``layer_quant_config`` apart from that.
        global_config: ``global_quant_config``.
        problems: what is missing or of the wrong type, as sentences.
        rules: of the engine.
    """

    exclude: tuple[str, ...]
    cache: CacheConfig
    global_config: Mapping[str, Any]
    problems: tuple[str, ...]
    rules: EngineRules

    @classmethod
    def of(cls, quantization: Mapping[str, Any], rules: EngineRules) -> QuarkConfig:
        """Read one; whatever is wrong with it is collected, not raised."""
        problems = []
        for path, (kind, consequence) in rules.required_keys.items():
            parent, _, key = path.rpartition(".")
            container = quantization.get(parent) if parent else quantization
            if isinstance(container, Mapping) and not isinstance(container.get(key), kind):
                found = f"is {container[key]!r}" if key in container else "is missing"
                problems.append(
                    f"quantization_config.{path} {found}, but must be a {kind.__name__}: {consequence}. "
                    "Write it, empty if need be."
                )
        exclude = quantization.get("exclude")
        entries = tuple(str(entry) for entry in exclude) if isinstance(exclude, list) else ()
        problems += [problem for entry in entries if (problem := pattern_problem("exclude", entry))]
        group = _mapping(quantization.get("export")).get("kv_cache_group")
        cache = CacheConfig.of(
            _mapping(quantization.get("layer_quant_config")), group if isinstance(group, list) else ()
        )
        problems += cache.problems
        return cls(
            exclude=entries,
            cache=cache,
            global_config=_mapping(quantization.get("global_quant_config")),
            problems=tuple(problems),
            rules=rules,
        )

    @property
    def kept_key(self) -> str:
        """``exclude``."""
        return "exclude"

    @property
    def kept(self) -> tuple[str, ...]:
        """The entries of ``exclude``."""
        return self.exclude

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing of it needs to be known beyond what its modules are told."""
        return ()

    @property
    def means_head(self) -> bool:
        """Never: only a LinearBase is given a scheme (quark.py, `get_quant_method_target`)."""
        return False

    def cache_scales(self, lookup: str) -> CacheScales:
        """Those of the attention; an excluded one drops them."""
        return CacheScales(
            declared=self.cache.declared,
            declared_by="export.kv_cache_group",
            tensors={"k_scale": "k_scale", "v_scale": "v_scale"},
            shape=(),
            dtype=MODEL_DTYPE,
            dropped_by=self.excluded_by(lookup),
            renamed=_OUTPUT_SCALES if self.rules.takes_output_scales else {},
        )

    def excluded_by(self, lookup: str) -> str | None:
        """The entry that keeps a module in high precision, if any does (`is_equal_or_regex_match`)."""
        return next((entry for entry in self.exclude if matches(entry, lookup)), None)

    def answer(self, lookup: str) -> Answer:
        """What the module of this lookup name is told."""
        entry = self.excluded_by(lookup)
        if entry is not None:
            return Answer(scheme=None, reason=f"excluded by {entry!r}")
        for pattern, config in self.cache.layer_configs.items():
            # quark.py, get_layer_quant_config_from_name: without a star the lookup is searched in the key.
            if fnmatch(lookup, pattern) if "*" in pattern else lookup in pattern:
                return self._scheme(_mapping(config), f"layer_quant_config {pattern!r}")
        # layer_type_quant_config is asked with a class, which no JSON key equals: it never decides.
        return self._scheme(self.global_config, "global_quant_config")

    def _scheme(self, config: Mapping[str, Any], reason: str) -> Answer:
        """`_get_scheme_cls_from_config`, as far as FP8 goes."""
        if config.get("output_tensors") or config.get("bias"):
            return Answer(
                scheme=None,
                reason=reason,
                problem=f"{reason} quantizes output_tensors or bias: vLLM stops with NotImplementedError. "
                "Set both to null.",
            )
        specs = config.get("weight"), config.get("input_tensors")
        if any(isinstance(spec, list) for spec in specs) and not self.rules.takes_lists:
            return Answer(
                scheme=None,
                reason=reason,
                problem=f"{reason} has weight or input_tensors in a list: {self.rules.name} stops with AttributeError. "
                "Write the object itself.",
            )
        weight, inputs = map(_single, specs)
        spelled = {str(spec.get("dtype")) for spec in (weight, inputs) if spec}
        if not inputs or spelled != {self.rules.fp8_dtype}:
            found = " and ".join(sorted(spelled)) or "nothing"
            missing = "" if inputs else ", and has no input_tensors"
            return Answer(
                scheme=None,
                reason=reason,
                problem=f"{reason} says dtype {found}{missing}, but weight and input_tensors must both say "
                f"{self.rules.fp8_dtype!r}: vLLM stops with NotImplementedError. Write it so.",
            )
        for scheme in self.rules.schemes:
            if _fits(scheme, weight, inputs):
                return Answer(scheme=scheme, reason=reason)
        asked = f"{weight.get('qscheme')} weights and {inputs.get('qscheme')} activations"
        return Answer(
            scheme=None,
            reason=reason,
            problem=f"{reason} asks for {asked}, which vLLM has no FP8 scheme for and stops; {_WHAT_IS_KNOWN}.",
        )


def _fits(scheme: Scheme, weight: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    if weight.get("is_dynamic") or weight.get("qscheme") != scheme.weight:
        return False
    if scheme.weight == "per_block":
        blocks = list(weight.get("block_size") or []) == [128, 128] and weight.get("symmetric") is True
        groups = (
            inputs.get("qscheme") == scheme.input
            and inputs.get("group_size") == 128
            and inputs.get("symmetric") is True
        )
        return blocks and groups and bool(inputs.get("is_dynamic"))
    if bool(inputs.get("is_dynamic")) != scheme.dynamic:
        return False
    # A dynamic activation that is not per_channel is taken per tensor, whatever it says.
    return (inputs.get("qscheme") == "per_channel") == (scheme.input == "per_channel") and (
        scheme.dynamic or inputs.get("qscheme") == "per_tensor"
    )


def _single(spec: Any) -> Mapping[str, Any]:
    """A spec, out of the list of one in which Quark may put it."""
    return _mapping(spec[0] if isinstance(spec, list) and len(spec) == 1 else spec)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
