"""The answers of a compressed-tensors config against those of vLLM's own class, over thousands of questions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest

from quark_eagle.deploy.compressed_tensors_config import _CLASSES, CompressedTensorsConfig
from quark_eagle.deploy.vllm_rules import VLLM_0_32
from tests.deploy.compressed import INPUTS, WEIGHTS, compressed_config, group
from tests.deploy.test_against_vllm import EXCLUDES, LOOKUPS, PARTS, SPELLINGS

pytestmark = pytest.mark.vllm

ASKED = [*LOOKUPS, "lm_head"]
TARGETS = [
    *([spelling.format(part)] for part in PARTS for spelling in SPELLINGS),
    *(
        [name]
        for name in ("Linear", "linear", "ParallelLinear", "LMHead", "", "re:.*", "re:.*Linear$", "re:Row", "Fused")
    ),
    *([kind] for kind in sorted(set(_CLASSES.values()))),
    ["re:.*o_proj", "Linear"],
    ["Linear", "re:.*o_proj"],
    [],
]
SPECS: list[dict[str, Any]] = [
    *({"strategy": strategy} for strategy in ("tensor", "channel", "token", "Channel", "attn_head", "rows", None)),
    *({"dynamic": dynamic} for dynamic in (True, False, "local", None, "always")),
    *({"symmetric": symmetric} for symmetric in (False, None)),
    *({"group_size": size} for size in (-1, -2, 0, 64)),
    *({"strategy": "group", "group_size": size} for size in (None, 0, 64)),
    *({"type": kind} for kind in ("FLOAT", "fp8", None)),
    *({"num_bits": None}, {"block_structure": [128, 128]}, {"strategy": "block"}, {"scale": 1}),
    *({"strategy": None, "group_size": size} for size in (-1, 0, 64)),
    *({"strategy": "tensor", "dynamic": dynamic} for dynamic in (True, False)),
    {"strategy": "tensor", "dynamic": False, "symmetric": False},
]
FORMATS = (
    "float-quantized",
    "naive-quantized",
    "int-quantized",
    "pack-quantized",
    "dense",
    "mixed-precision",
    "",
    None,
)


def configs() -> list[dict[str, Any]]:
    two = {"a": group(targets=["re:.*down_proj"]), "b": group(WEIGHTS | {"strategy": "tensor"})}
    static = INPUTS | {"strategy": "tensor", "dynamic": False}
    return [
        *(compressed_config(ignore) for ignore in EXCLUDES),
        *(compressed_config([], config_groups={"g": group(targets=targets)}) for targets in TARGETS),
        *(compressed_config([], config_groups={"g": group(WEIGHTS | spec)}) for spec in SPECS),
        *(compressed_config([], config_groups={"g": group(inputs=INPUTS | spec)}) for spec in SPECS),
        *(compressed_config([], config_groups={"g": group(WEIGHTS | s, static)}) for s in ({}, {"strategy": "tensor"})),
        *(compressed_config([], format=written) for written in FORMATS),
        *(compressed_config([], format="dense", config_groups={"g": group(format=written)}) for written in FORMATS),
        *(compressed_config([], config_groups=groups) for groups in (two, dict(reversed(two.items())), {}, None, [])),
        *(compressed_config([], config_groups={"g": each}) for each in (None, {}, group(targets=[1]), ["Linear"])),
        *(compressed_config([], config_groups={"g": group(inputs=inputs)}) for inputs in (None, {}, [])),
        compressed_config([], config_groups={"g": group(targets=["LlamaAttention"])}),
        compressed_config() | {"ignore": None},
        {key: value for key, value in compressed_config().items() if key != "ignore"},
        {key: value for key, value in compressed_config([]).items() if key != "config_groups"},
    ]


@pytest.fixture(scope="module")
def ask_vllm() -> Iterator[Callable[[dict[str, Any], str], list[str]]]:
    """What a module of this lookup name is told by the installed engine."""
    import torch
    from compressed_tensors.quantization import QuantizationStrategy
    from vllm.model_executor.kernels import linear as kernels
    from vllm.model_executor.layers.quantization.compressed_tensors import compressed_tensors
    from vllm.model_executor.layers.quantization.compressed_tensors.schemes import (
        CompressedTensorsW8A8Fp8,
        CompressedTensorsW8A16Fp8,
        compressed_tensors_w8a8_fp8,
        compressed_tensors_w8a16_fp8,
    )
    from vllm.platforms import PlatformEnum

    # What such a scheme stops on, when its weights are made.
    assert not kernels._POSSIBLE_WFP8A16_KERNELS[PlatformEnum.ROCM]
    assert not kernels._POSSIBLE_WFP8A16_KERNELS[PlatformEnum.CPU]
    modules = {name: type(name, (torch.nn.Module,), {})() for name in set(_CLASSES.values())}

    def ask(config: dict[str, Any], lookup: str) -> list[str]:
        try:
            theirs = compressed_tensors.CompressedTensorsConfig.from_config(deepcopy(config))
            scheme = theirs.get_scheme(modules[_CLASSES[lookup.rpartition(".")[2]]], lookup)
        except Exception as error:  # whatever it is, it is the answer
            return ["stops", type(error).__name__]
        if scheme is None:
            return ["kept"]
        if isinstance(scheme, CompressedTensorsW8A16Fp8):
            return ["stops", "ValueError"]
        if not isinstance(scheme, CompressedTensorsW8A8Fp8):
            return ["another", type(scheme).__name__]
        return [
            "quantized",
            QuantizationStrategy(scheme.strategy).value,
            "static" if scheme.is_static_input_scheme else "dynamic",
        ]

    served = SimpleNamespace(model_config=SimpleNamespace(dtype=torch.bfloat16))
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's, of observers that a dynamic spec does not use
        for module in (compressed_tensors_w8a8_fp8, compressed_tensors_w8a16_fp8):
            patched.setattr(module, "get_current_vllm_config", lambda: served)
        yield ask


def ours(config: dict[str, Any], lookup: str) -> list[str]:
    read = CompressedTensorsConfig.of(config, VLLM_0_32)
    if read.uncovered:
        return ["not covered"]
    answer = read.answer(lookup)
    if read.problems or answer.problem:
        return ["stops"]
    if answer.scheme is None:
        return ["kept"]
    weights = {"per_channel": "channel", "per_tensor": "tensor"}[answer.scheme.weight]
    return ["quantized", weights, "dynamic" if answer.scheme.dynamic else "static"]


def test_every_config_is_read_as_vllm_reads_it(ask_vllm: Callable[[dict[str, Any], str], list[str]]) -> None:
    different, kinds = [], dict[str, int]()
    for config in configs():
        theirs = {lookup: ask_vllm(config, lookup) for lookup in ASKED}
        stops = [answer for answer in theirs.values() if answer[0] == "stops"]
        for lookup in ASKED:
            mine = ours(config, lookup)
            kinds["/".join(mine)] = kinds.get("/".join(mine), 0) + 1
            # A config that stops one module stops them all; vLLM notices only when it asks.
            agreed = mine == theirs[lookup][: len(mine)] or (mine == ["stops"] and stops) or mine == ["not covered"]
            if not agreed:
                different.append((config["config_groups"], config.get("ignore"), lookup, mine, theirs[lookup]))

    assert not different, f"{len(different)}: {different[:9]}"
    assert sum(kinds.values()) > 5000
    assert {"kept", "stops", "not covered", "quantized/channel/dynamic", "quantized/tensor/dynamic"} < kinds.keys()
    assert {"quantized/channel/static", "quantized/tensor/static"} < kinds.keys()
    assert kinds["not covered"] < sum(kinds.values()) / 10


def test_every_lookup_has_a_class() -> None:
    assert {lookup.rpartition(".")[2] for lookup in ASKED} == set(_CLASSES)
