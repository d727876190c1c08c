"""The scales of a draft's KV cache: what ``quantization_config`` says of it, and the parameters that take them.

``self_attn.k_scale`` and ``….v_scale`` on disk end in ``attn.k_scale`` and ``attn.v_scale`` in all of vLLM 0.19 to 0.32
(``weight_utils.py``, `maybe_remap_kv_scale_name`; since 0.25 ``base_config.py``, `get_cache_scale_mapper`). They matter
where the cache is in FP8, which is an option of serving; the scale is 1 where none was loaded
(``layers/quantization/kv_cache.py``, `process_weights_after_loading`).

Quark's own spelling, ``k_proj.output_scale``, is known to ``layers/quantization/quark/quark.py`` in all of them. Up to
0.22 the draft's loader asks there first (``models/llama_eagle3.py``, `load_weights`: `get_cache_scale`). Since 0.23 it
first takes ``k_proj`` for a part of ``qkv_proj`` and stops.

Latent attention takes none. `MLAAttention` would multiply by them (``layers/attention/mla_attention.py``), but it is no
`Attention`, and only to that do Quark's and compressed-tensors' `get_quant_method` give one that loads scales; so its
cache is stored with scale 1 in all of 0.19 to 0.32 (ModelOpt's does ask for `MLAAttention`). A scale on disk stops
the load since 0.25: it is looked for in a module ``self_attn.attn``, which is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from quark_eagle.checkpoint.reader import TensorInfo
from quark_eagle.deploy.findings import Parameter, Problem, RuntimeModule
from quark_eagle.deploy.rules import LAYER_COUNT

_COLLAPSES = "an FP8 cache is stored with scale 1, which has made drafts worthless"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """What ``quantization_config`` says of a KV cache.

    Attributes:
        declared: whether it says that the cache is quantized.
        layer_configs: ``layer_quant_config`` without what it says of the cache, as the engine goes on with it.
        problems: why the engine stops, as sentences.
    """

    declared: bool
    layer_configs: Mapping[str, Any]
    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, layer_configs: Mapping[str, Any], group: Sequence[str]) -> CacheConfig:
        """Read ``layer_quant_config`` as `QuarkConfig.from_config` does.

        Args:
            layer_configs: as written.
            group: ``export.kv_cache_group``.
        """
        cached = {name for name in layer_configs if any(fnmatchcase(name, pattern) for pattern in group)}
        if not group:
            return cls(declared=False, layer_configs=layer_configs)
        if not cached:
            problem = (
                f"quantization_config.export.kv_cache_group names {', '.join(group)}, but layer_quant_config has none "
                "of them: vLLM stops with ValueError. Write them there, or empty the group."
            )
            return cls(declared=True, layer_configs=layer_configs, problems=(problem,))
        specs = [_mapping(layer_configs[name]).get("output_tensors") for name in sorted(cached)]
        cleared = cached | ({"*q_proj"} & layer_configs.keys())
        return cls(
            declared=True,
            layer_configs={
                name: {**_mapping(config), "output_tensors": None} if name in cleared else config
                for name, config in layer_configs.items()
            },
            problems=tuple(_about_specs(specs)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheScales:
    """How a format writes the scales of a KV cache, and what it says of them.

    Attributes:
        declared: whether ``quantization_config`` says that the cache is quantized.
        declared_by: the key that says so.
        tensors: parameter of the attention → its tensor on disk, by the name below ``self_attn``.
        renamed: other names that the loader takes for those tensors.
        shape: of the parameter that the engine builds.
        dtype: of it: Quark's is made in the model's (``kv_cache.py``, `KVCacheScaleParameter`), and rounds the scale.
        makes_fp8: whether the cache is in FP8 wherever serving says ``auto``: vLLM 0.32 asks for a ``kv_cache_scheme``
            (``layers/attention/attention.py``, `Attention.__init__`), which Quark's config does not have.
        dropped_by: the entry that keeps the attention itself, so that it takes no scales; None if none does.
    """

    declared: bool
    declared_by: str
    tensors: Mapping[str, str]
    shape: tuple[int, ...]
    dtype: str = "F32"
    makes_fp8: bool = False
    dropped_by: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)

    def place(self, place: str) -> str:
        """The place of a tensor by the name that it is looked for under, if its own is but another one for that."""
        parent, attention, name = place.rpartition(".self_attn.")
        return f"{parent}{attention}{self.renamed.get(name, name)}"


def fill_cache(
    num_layers: int, places: Mapping[str, TensorInfo], scales: CacheScales
) -> Iterator[tuple[RuntimeModule, tuple[str, ...]]]:
    """The cache of each layer that has scales, or should have them, with the places that it takes them from.

    Args:
        num_layers: of the draft.
        places: tensors by runtime name before stacking.
        scales: where they lie, by the format.
    """
    for layer in range(num_layers):
        attention = f"model.layers.{layer}.self_attn"
        wanted = {name: f"{attention}.{tensor}" for name, tensor in scales.tensors.items()}
        found = {name: places.get(place) for name, place in wanted.items()}
        if not scales.declared and not any(found.values()):
            continue
        offset = f"+{layer}" if layer else ""
        module = RuntimeModule(
            name=f"{attention}.attn",
            lookup=f"model.layers.{LAYER_COUNT}{offset}.self_attn.attn",
            parts=(),
            dtype=scales.dtype,
            scheme=None,
            decided_by=scales.declared_by if scales.declared else "scales of a KV cache",
            parameters=tuple(_parameter(f"{attention}.attn.{name}", scales, info) for name, info in found.items()),
            shape=scales.shape,
            scale_shape=None,
            problems=tuple(_about_layer(wanted, found)),
        )
        yield module, tuple(wanted.values())


def dropped(scales: CacheScales, place: str) -> str:
    """What becomes of a scale of the cache where the attention takes none, as a sentence without its subject.

    Args:
        scales: where they lie, by the format.
        place: runtime name of a tensor before stacking. Empty is returned if it is no such scale, or is taken.
    """
    if scales.dropped_by is None or not place.endswith(tuple(f".{tensor}" for tensor in scales.tensors.values())):
        return ""
    return (
        f"is dropped without a word: {scales.dropped_by!r} means the attention too, and {_COLLAPSES}. Name its linears "
        "instead."
    )


def _parameter(name: str, scales: CacheScales, info: TensorInfo | None) -> Parameter:
    return Parameter(name=name, dtype=scales.dtype, shape=scales.shape, sources=(info.name if info else None,))


def _about_layer(wanted: Mapping[str, str], found: Mapping[str, TensorInfo | None]) -> Iterator[Problem]:
    missing = [wanted[name] for name, info in found.items() if info is None]
    if missing:
        both = " and ".join(missing)
        yield Problem(message=f"nothing on disk fills {both}: {_COLLAPSES}. Put both back, or quantize again.")
    for info in found.values():
        if info is not None and info.shape not in ((), (1,)):
            built = f"{info.name} has shape {list(info.shape)}, but a cache has one scale"
            yield Problem(message=f"{built}: vLLM stops. Store one number.", stops=True)


def _about_specs(specs: Sequence[Any]) -> Iterator[str]:
    first = _mapping(specs[0])
    if any(spec != specs[0] for spec in specs):
        yield "layer_quant_config quantizes keys and values of the cache differently: vLLM stops with ValueError."
    elif not first:
        yield "layer_quant_config has no output_tensors for the cache: vLLM stops with ValueError. Write them."
    elif (first.get("dtype"), first.get("qscheme")) != ("fp8_e4m3", "per_tensor"):
        asked = f"{first.get('dtype')} {first.get('qscheme')}"
        yield f"layer_quant_config asks for a cache in {asked}, but vLLM has fp8_e4m3 per_tensor only and stops."


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
