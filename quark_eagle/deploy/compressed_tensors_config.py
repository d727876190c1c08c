"""CompressedTensorsConfig: a ``quantization_config`` of compressed-tensors as the engine reads it, and its answers.

Read in vLLM 0.32.0, ``layers/quantization/compressed_tensors``: ``compressed_tensors.py`` (`from_config`,
`get_quant_method`, `get_scheme_dict`, `_get_scheme_from_parts`) and ``utils.py`` (`should_ignore_layer`,
`find_matched_target`); tests hold the answers against the installed engine's.

* A draft's modules ask with the same raw names as under Quark's config, ``model.fc``, ``….self_attn.qkv_proj``: the
  table of fused modules is empty for a draft, so an entry for ``q_proj`` means nothing.
* ``ignore`` comes first. Then the first target that means the name; then the first that means the module's class: a
  plain target is searched *in* the class's name, so that ``Linear`` means QKVParallelLinear and ReplicatedLinear.
* The LM head asks, too, which it does not under Quark's config; its class, ParallelLMHead, has no ``Linear`` in it.
* Activations that are dynamic are scaled per token, whatever strategy the config gives them.
* With a ``kv_cache_scheme`` the KV cache of the draft is FP8 unless serving says otherwise.

What is not FP8 is not covered, and told so: nothing is known then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from quark_eagle.deploy.answers import Answer, matches, pattern_problem
from quark_eagle.deploy.compressed_tensors_group import KEY, UNREAD, groups_of, strings_of
from quark_eagle.deploy.kv_cache import CacheScales
from quark_eagle.deploy.rules import EngineRules

METHOD = "compressed-tensors"
_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "fc": "ReplicatedLinear",
        "qkv_proj": "QKVParallelLinear",
        "o_proj": "RowParallelLinear",
        "gate_up_proj": "MergedColumnParallelLinear",
        "down_proj": "RowParallelLinear",
        "fused_qkv_a_proj": "DeepSeekV2FusedQkvAProjLinear",
        "q_b_proj": "ColumnParallelLinear",
        "q_proj": "ColumnParallelLinear",
        "kv_a_proj_with_mqa": "ReplicatedLinear",
        "kv_b_proj": "ColumnParallelLinear",
        "lm_head": "ParallelLMHead",
    }
)
"""The engine's class of each module, by the last part of its lookup name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedTensorsConfig:
    """The parts of ``quantization_config`` that decide, for one version of the engine.

    Attributes:
        kept: the entries of ``ignore``, as written.
        targets: what each target of ``config_groups`` gives, in the order in which they are tried.
        problems: why the engine stops while it reads the config, as sentences.
        notes: what works, but should be known, as sentences.
        quantizes_cache: whether it has a ``kv_cache_scheme``.
        uncovered: what it asks for that no rule here covers, as sentences.
        rules: of the engine.
    """

    kept: tuple[str, ...]
    targets: Mapping[str, Answer]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    quantizes_cache: bool
    uncovered: tuple[str, ...]
    rules: EngineRules

    @property
    def kept_key(self) -> str:
        """``ignore``."""
        return "ignore"

    @property
    def means_head(self) -> bool:
        """Whether a target means ``lm_head`` or its class, in a version in which the head asks."""
        return self.rules.asks_for_head and self.answer("lm_head") in self.targets.values()

    @classmethod
    def of(cls, quantization: Mapping[str, Any], rules: EngineRules) -> CompressedTensorsConfig:
        """Read one; whatever is wrong with it is collected, not raised."""
        kept, problems = _ignore(quantization.get("ignore", []))
        targets, uncovered = dict[str, Answer](), list(_uncovered(quantization))
        for group in groups_of(quantization, rules):
            problems += group.problems
            uncovered += group.uncovered
            for target in group.targets:
                targets[target] = group.answer(target)
        if not isinstance(quantization.get("config_groups", {}), Mapping):
            problems.append(f"{KEY}.config_groups is no object: vLLM stops with AttributeError. Repair it.")
        kv_problem, kv_note = _kv_cache(quantization.get("kv_cache_scheme"))
        return cls(
            kept=kept,
            targets=targets,
            problems=tuple(filter(None, (*problems, kv_problem))),
            notes=(kv_note,) if kv_note else (),
            quantizes_cache=quantization.get("kv_cache_scheme") is not None,
            uncovered=tuple(dict.fromkeys(uncovered)),
            rules=rules,
        )

    def cache_scales(self, lookup: str) -> CacheScales:
        """Those of the attention, which takes them whatever is ignored (`CompressedTensorsKVCacheMethod`)."""
        return CacheScales(
            declared=self.quantizes_cache,
            declared_by="kv_cache_scheme",
            tensors={"k_scale": "k_scale", "v_scale": "v_scale"},
            shape=(1,),
            makes_fp8=self.quantizes_cache,
        )

    def answer(self, lookup: str) -> Answer:
        """What the module of this lookup name is told."""
        entry = next((entry for entry in self.kept if matches(entry, lookup)), None)
        if entry is not None:
            return Answer(scheme=None, reason=f"ignored by {entry!r}")
        if not self.targets:
            return Answer(scheme=None, reason="config_groups is empty")
        kind = _CLASSES.get(lookup.rpartition(".")[2], "Linear")
        named = (target for target in self.targets if matches(target, lookup))
        of_class = (target for target in self.targets if _means_class(target, kind))
        target = next(named, None) or next(of_class, None)
        if target is not None:
            return self.targets[target]
        problem = f"no target of config_groups means {lookup!r}: {self.rules.name} stops with ValueError. Ignore it."
        return Answer(
            scheme=None,
            reason="no target of config_groups means it",
            problem=problem if self.rules.needs_target else "",
        )


def _uncovered(quantization: Mapping[str, Any]) -> Iterator[str]:
    for key in ("sparsity_config", "transform_config"):
        if quantization.get(key):
            yield f"{key} is set, {UNREAD}"
    cached = quantization.get("kv_cache_scheme")
    if isinstance(cached, Mapping) and cached.get("strategy") == "attn_head":
        yield f"kv_cache_scheme has a scale per head, {UNREAD}"


def _ignore(found: Any) -> tuple[tuple[str, ...], list[str]]:
    """The entries of ``ignore``, and what is wrong with them."""
    entries = strings_of(found)
    if entries is None:
        return (), [f"{KEY}.ignore is {found!r}, but must be a list of strings: vLLM stops with TypeError. Write it."]
    return entries, [problem for entry in entries if (problem := pattern_problem("ignore", entry))]


def _kv_cache(scheme: Any) -> tuple[str, str]:
    """What is wrong with ``kv_cache_scheme``, and what should be known of it (`validate_kv_cache_scheme`)."""
    if scheme is None:
        return "", ""
    found = scheme if isinstance(scheme, Mapping) else {}
    is_fp8 = (found.get("type"), found.get("num_bits")) == ("float", 8) and found.get("symmetric") is True
    if not is_fp8 or found.get("strategy") not in ("tensor", "attn_head"):
        wrong = "is no symmetric FP8 scheme per tensor or head: vLLM stops with NotImplementedError. Repair it."
        return f"{KEY}.kv_cache_scheme {wrong}", ""
    return "", "has a kv_cache_scheme: where serving names no KV cache dtype, vLLM keeps keys and values in FP8."


def _means_class(target: str, kind: str) -> bool:
    """Whether a target means modules of this class (utils.py, `_find_first_match` with ``check_contains``)."""
    return matches(target, kind) if target.startswith("re:") else target.lower() in kind.lower()
