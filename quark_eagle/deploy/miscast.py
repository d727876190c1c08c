"""Weights that the engine casts on loading: written in one dtype, and taken into a parameter of another.

It is the failure that nobody hears: the draft loads, serving goes on, and the module computes nonsense. A replay that
is to tell what a server would accept must compute the same nonsense.
"""

from __future__ import annotations

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.engine_config import EngineConfig
from quark_eagle.deploy.findings import FP8
from quark_eagle.deploy.loading import load
from quark_eagle.deploy.quantization import quantization_of
from quark_eagle.deploy.rules import EngineRules
from quark_eagle.deploy.vllm_rules import VLLM_0_32
from quark_eagle.errors import VerificationError


def miscast_weights(
    checkpoint: Checkpoint, num_target_layers: int | None = None, rules: EngineRules = VLLM_0_32
) -> tuple[str, ...]:
    """Names on disk of the high-precision weights that end in an FP8 parameter, whose scale nothing sets.

    Reads headers only. Of a checkpoint whose quantization the rules do not cover, or whose config the engine cannot
    build, it says nothing: that is for `quark_eagle.deploy.verify` to report.
    """
    config = EngineConfig.of(checkpoint.config, rules)
    try:
        quantization = quantization_of(checkpoint, rules)
    except VerificationError:
        return ()
    if quantization is None or config.problems:
        return ()
    modules = load(checkpoint, config, quantization, rules, num_target_layers).modules
    return tuple(
        name
        for module in modules
        if module.dtype == FP8
        for name in module.sources
        if name.endswith(".weight") and checkpoint.tensors[name].dtype != FP8
    )
