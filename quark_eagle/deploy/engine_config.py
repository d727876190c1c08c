"""EngineConfig: config.json as the engine reads it, down to the numbers and facts that the module table names.

Nothing is guessed: a key that the geometry needs and that is not there is a problem, although transformers would fill
in a default that belongs to some other model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quark_eagle.deploy.findings import Problem
from quark_eagle.deploy.modelopt import built_otherwise
from quark_eagle.deploy.rules import EngineRules, Family

_GEOMETRY = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
_MLA_GEOMETRY = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank")
_FAMILY_GEOMETRY = {
    "deepseek_mla": _MLA_GEOMETRY,
    # transformers fills in 128 and 32 for Qwen3, where it derives the two from the other sizes for Llama.
    "qwen3": ("head_dim", "num_key_value_heads"),
}
# Sizes that may be absent or null, as they follow from others then.
_OPTIONAL = (
    *("draft_vocab_size", "target_hidden_size", "head_dim", "num_key_value_heads", "q_lora_rank"),
    *("num_aux_hidden_states", "num_aux_layers"),
)
_DEFAULT_AUX_COUNT = 3
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the engine builds a draft from.

    Attributes:
        architecture: the class that the engine looks up; empty if none could be told.
        family_name: of the module table; empty if the engine has none for it.
        dimensions: sizes by the names that the module table uses.
        facts: names of what holds, as the module table asks for it with `when`, and config flags that are true.
        num_layers: of the draft.
        stored_dtype: what the config says its weights are stored in, in safetensors' spelling.
        problems: everything that keeps the engine from building it.
        unread: what it says that the engine does not know, although the draft's result depends on it.
    """

    architecture: str
    family_name: str
    dimensions: Mapping[str, int]
    facts: frozenset[str]
    num_layers: int
    stored_dtype: str
    problems: tuple[Problem, ...]
    unread: tuple[Problem, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], rules: EngineRules) -> EngineConfig:
        """The engine's reading of a config.json, raw as it lies on disk."""
        flat = _Flat.of(config, rules)
        problems = [*flat.problems, *_wrong_sizes(flat.config, flat.family)]
        family = rules.families.get(flat.family)
        usable = family is not None and not problems
        dtype = str(flat.config.get("dtype") or flat.config.get("torch_dtype") or "bfloat16").removeprefix("torch.")
        return cls(
            architecture=flat.architecture,
            family_name=flat.family,
            dimensions=_dimensions(flat.config, family) if family and usable else {},
            facts=_facts(flat.config, family, rules) if family and usable else frozenset(),
            num_layers=int(flat.config["num_hidden_layers"]) if usable else 0,
            stored_dtype=_DTYPES.get(dtype, "BF16"),
            problems=tuple(problems),
            unread=tuple(_unread(flat.config, family, rules)) if family else (),
        )

    def holds(self, fact: str) -> bool:
        """Whether something that a row of the module table depends on is so; nothing always is."""
        return not fact or fact in self.facts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flat:
    """A config with speculators' nesting undone, the class and family that it asks for, and what is wrong with them."""

    config: Mapping[str, Any]
    architecture: str = ""
    family: str = ""
    problems: tuple[Problem, ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], rules: EngineRules) -> _Flat:
        """From config.json as it lies on disk."""
        if "speculators_model_type" in config or "transformer_layer_config" in config:
            return cls._of_speculators(config, rules)
        named = config.get("architectures")
        if not isinstance(named, list) or not named:
            problem = "config.json names no architectures, and vLLM chooses the model class by them. Add them."
            return cls(config=config, problems=(_stop(problem),))
        architecture, prefix = str(named[0]), rules.eagle_prefix
        if not architecture.startswith(prefix) and not architecture.endswith(prefix):
            architecture = f"{prefix}{architecture}"
        if architecture not in rules.architectures:
            known = ", ".join(sorted(rules.architectures))
            problem = f"{rules.name} has no Eagle3 draft class {architecture}. It knows {known}."
            return cls(config=config, architecture=architecture, problems=(_stop(problem),))
        problems = []
        model_type = config.get("model_type")
        if not isinstance(model_type, str) or not model_type:
            problems.append(_stop("config.json has no model_type, and transformers needs it. Add it."))
        elif model_type in rules.other_drafts:
            taken = f"config.json says model_type {model_type!r}, which vLLM takes for an MTP draft whatever the"
            problems.append(_stop(f"{taken} architecture, and stops. Say {rules.other_drafts[model_type]!r}."))
        family = rules.architectures[architecture]
        return cls(config=config, architecture=architecture, family=family, problems=tuple(problems))

    @classmethod
    def _of_speculators(cls, config: Mapping[str, Any], rules: EngineRules) -> _Flat:
        kind, layer = config.get("speculators_model_type"), config.get("transformer_layer_config")
        if kind not in rules.speculators_types:
            allowed = " or ".join(rules.speculators_types)
            problem = f"config.json says speculators_model_type {kind!r}, but an Eagle3 draft says {allowed}."
            return cls(config=config, problems=(_stop(problem),))
        if not isinstance(layer, Mapping):
            problem = "config.json has no transformer_layer_config, where speculators keeps the geometry."
            return cls(config=config, problems=(_stop(problem),))
        model_type = str(layer.get("model_type", "llama"))
        architecture = rules.speculators_model_types.get(model_type)
        if architecture is None:
            problem = f"vLLM has no speculators Eagle3 draft for model_type {model_type!r}."
            return cls(config=config, problems=(_stop(problem),))
        # transformers_utils/configs/speculators/algos.py: these come from the top level, and nothing else does.
        flat = dict(layer) | {"draft_vocab_size": config.get("draft_vocab_size")}
        flat["norm_before_fc"] = config.get("norm_before_fc", False)
        for key in rules.speculators_flags if kind == "eagle3" else ():
            flat[key] = config.get(key, False)
        for key in ("target_hidden_size", "eagle_aux_hidden_state_layer_ids"):
            if config.get(key):
                flat[key] = config[key]
        return cls(config=flat, architecture=architecture, family=rules.architectures[architecture])


def _unread(flat: Mapping[str, Any], family: Family, rules: EngineRules) -> Iterator[Problem]:
    """Flags that are set and not known; ModelOpt's settings that are not built."""
    for path, instead in family.unread.items():
        if _at(flat, path):
            yield Problem(message=f"config.json says {path}, which {rules.name} does not know: {instead}.")
    yield from built_otherwise(flat)


def _stop(message: str) -> Problem:
    return Problem(message=message, stops=True)


def _wrong_sizes(flat: Mapping[str, Any], family: str) -> list[Problem]:
    """Every size that the module table needs and the config does not give, or gives as something else."""
    if not family:
        return []
    needed = [*_GEOMETRY, *_FAMILY_GEOMETRY.get(family, ())]
    missing = [
        f"config.json has no {key}, which would be filled in with a default made for another model. Add it."
        for key in needed
        if flat.get(key) is None
    ]
    wrong = [
        f"config.json says {key} {flat[key]!r}, but it is a count. Repair it."
        for key in (*needed, *(key for key in _OPTIONAL if key not in needed))
        if flat.get(key) is not None and not _is_size(flat[key])
    ]
    return [Problem(message=message) for message in missing + wrong]


def _facts(flat: Mapping[str, Any], family: Family, rules: EngineRules) -> frozenset[str]:
    """Names of everything that holds."""
    eagle = _mapping(flat.get("eagle_config"))
    facts = {key for linear in family.layer_linears for key in linear.bias if flat.get(key)}
    facts |= {"fc_norm"} if flat.get("fc_norm") else set()
    facts |= {"query_rank"} if flat.get("q_lora_rank") else {"no_query_rank"}
    # deepseek_eagle3.py asks for neither: it always has fc and never input_norm.
    takes_aux = "fc." not in family.skipped or eagle.get("use_aux_hidden_state", True)
    facts |= {"aux"} if takes_aux else set()
    nested = {} if "eagle_config.norm_before_fc" in family.unread else eagle
    if "input_norm." in family.skipped and nested.get("norm_before_fc", flat.get("norm_before_fc", False)):
        facts.add("norm_before_fc")
    if flat.get("draft_vocab_size") not in (None, flat.get("vocab_size")):
        facts |= {"draft_vocabulary", "vocabulary_map"}
    facts |= {"vocabulary_map"} if rules.maps_every_vocabulary else set()
    return frozenset(facts)


def _dimensions(flat: Mapping[str, Any], family: Family) -> dict[str, int]:
    hidden, heads = int(flat["hidden_size"]), int(flat["num_attention_heads"])
    head = int(flat.get("head_dim") or hidden // heads)
    target_hidden = int(flat.get("target_hidden_size") or hidden)
    aux_count = _aux_count(flat, family.aux_count)
    dimensions = {
        "hidden": hidden,
        "intermediate": int(flat["intermediate_size"]),
        "head": head,
        "query": heads * head,
        "key_value": int(flat.get("num_key_value_heads") or heads) * head,
        "target_hidden": target_hidden,
        "aux_count": aux_count,
        "fc_input": target_hidden * aux_count,
        "vocabulary": int(flat["vocab_size"]),
        "draft_vocabulary": int(flat.get("draft_vocab_size") or flat["vocab_size"]),
    }
    if all(_is_size(flat.get(key)) for key in _MLA_GEOMETRY):
        nope, rope, value, rank = (int(flat[key]) for key in _MLA_GEOMETRY)
        dimensions |= {
            "query": heads * (nope + rope),
            "query_rank": int(flat.get("q_lora_rank") or 0),
            "key_value_rank": rank,
            "key_value_rank_and_rope": rank + rope,
            "key_value_up": heads * (nope + value),
            "value": heads * value,
        }
    return dimensions


def _aux_count(flat: Mapping[str, Any], keys: Iterable[str]) -> int:
    for path in keys:
        found = _at(flat, path)
        count = len(found) if isinstance(found, list) else found
        if _is_size(count):
            return int(count)
    return _DEFAULT_AUX_COUNT


def _at(flat: Mapping[str, Any], path: str) -> Any:
    """What lies at a dotted path; None if nothing does."""
    found: Any = flat
    for key in path.split("."):
        found = _mapping(found).get(key)
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
