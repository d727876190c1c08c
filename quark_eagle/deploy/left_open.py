"""What a live load could not find out, because the device that it ran on cannot run the scheme at all.

A draft with static activation scales loads in vLLM's CPU build, parameter by parameter, and then stops: that the engine
comes up with it and computes with it remains to be asked on another device. That is neither a fault of the draft nor a
pass.
"""

from __future__ import annotations

from quark_eagle.deploy.live_load import LiveLoad
from quark_eagle.deploy.rules import EngineRules
from quark_eagle.deploy.verify import VerifyReport


def left_open(live: LiveLoad, foretold: VerifyReport, rules: EngineRules) -> tuple[str, ...]:
    """What was not asked and why, in sentences; none if the device runs every scheme of the draft."""
    device = device_of(live.arch)
    schemes = {module.scheme for module in foretold.modules}
    return tuple(
        f"{scheme.name}: vLLM {live.vllm} cannot run it on {device} ({scheme.fails_on[device]}). What was asked is "
        "where every tensor goes as it loads; not whether the engine comes up with them, nor what it computes. Ask on "
        f"{' or '.join(each for each in ('ROCm', 'CUDA') if each not in scheme.fails_on)}."
        for scheme in rules.schemes
        if scheme.name in schemes and device in scheme.fails_on
    )


def device_of(arch: str) -> str:
    """The kind of device that an arch is, as `Scheme.fails_on` calls it.

    >>> device_of("gfx950"), device_of("sm_90"), device_of("x86_64 AVX2")
    ('ROCm', 'CUDA', 'CPU')
    """
    return "ROCm" if arch.startswith("gfx") else "CUDA" if arch.startswith("sm_") else "CPU"
