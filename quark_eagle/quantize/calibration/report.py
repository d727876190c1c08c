"""From a finished run to its scales and its document; what cannot be a scale is refused."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from math import isfinite
from typing import TYPE_CHECKING, Literal

import torch

from quark_eagle import __version__
from quark_eagle.documents.base import sha256_of_prompts
from quark_eagle.documents.calibration import (
    CalibratedPrompt,
    CalibratedScale,
    Calibration,
    ChainTokens,
    ConvergencePoint,
    ObserverUsed,
    StepPeak,
)
from quark_eagle.errors import QuantizationError, findings
from quark_eagle.quantize.activation_scales import ActivationScales
from quark_eagle.quantize.calibration.chosen_prompts import SPLIT, rows_of
from quark_eagle.quantize.calibration.state import Seen
from quark_eagle.quantize.quark_backend import quark_version
from quark_eagle.trace.device import arch_of

if TYPE_CHECKING:
    from quark_eagle.quantize.calibration.run import CalibrationRun


@dataclass(frozen=True)
class Found:
    """What a run came to.

    Attributes:
        run: that is finished.
        convergence: scales at each point; the last ones are the scales.
    """

    run: CalibrationRun
    convergence: tuple[Seen, ...]

    @cached_property
    def scales(self) -> dict[str, float]:
        """Quark's, by name of what was observed."""
        return dict(self.convergence[-1].scales)

    @property
    def activation_scales(self) -> ActivationScales:
        """As a static scheme writes them."""
        kinds: dict[str, dict[str, float]] = defaultdict(dict)
        for name, scale in self.scales.items():
            kinds[kind_of(name)][name] = scale
        return ActivationScales(
            inputs=kinds["input"],
            keys={layer_of(name): scale for name, scale in kinds["keys"].items()},
            values={layer_of(name): scale for name, scale in kinds["values"].items()},
        )

    def require_sound(self) -> None:
        """See that every scale is one.

        Raises:
            QuantizationError: a module saw zeros alone. All of them are listed.
        """
        magnitudes = self.run.module.magnitudes
        problems = [
            f"{name}: scale {scale:g} of {magnitudes[name].num_values} values, the largest {magnitudes[name].absmax:g}."
            for name, scale in self.scales.items()
            if not (isfinite(scale) and scale > 0 and magnitudes[name].absmax > 0)
        ]
        if problems:
            advice = (
                "A static scale is positive and stands for values that were seen. Give more prompts, or --keep the "
                "module."
            )
            raise QuantizationError(findings("calibration found no scale", problems, advice))


def kind_of(name: str) -> Literal["input", "keys", "values"]:
    """What is observed under a name.

    >>> kind_of("layers.0.self_attn.keys"), kind_of("layers.0.self_attn.k_proj")
    ('keys', 'input')
    """
    last = name.rpartition(".")[2]
    return "keys" if last == "keys" else "values" if last == "values" else "input"


def layer_of(name: str) -> int:
    """The layer in a canonical name.

    >>> layer_of("layers.1.self_attn.keys")
    1
    """
    return int(name.split(".")[1])


def report(found: Found, command_line: Sequence[str]) -> Calibration:
    """The document of a finished run."""
    run = found.run
    module, choice = run.module, run.options.choice
    scales = [_scale(found, name) for name in found.scales]
    prompts = [
        CalibratedPrompt(id=info.id, category=info.category, sha256=info.sha256, num_tokens=rows_of(info))
        for info in run.prompts.infos
    ]
    return Calibration(
        schema_version=1,
        observer=ObserverUsed(
            name=choice.observer.value, quark_class=choice.observer.quark_class, parameters=dict(choice.parameters)
        ),
        draft_weights_sha256=run.draft_weights_sha256,
        draft_config_sha256=run.draft_config_sha256,
        trace_sha256=run.trace.sha256,
        target=run.trace.target.name,
        split="calibration",
        num_speculative_tokens=module.num_speculative_tokens,
        dtype=str(module.draft.dtype).removeprefix("torch."),
        engine=f"quark-eagle {__version__}, torch {torch.__version__}",
        arch=arch_of(str(module.draft.device)),
        num_tokens_of_step=module.tally.rows,
        chain_tokens=ChainTokens(
            own_proposals=module.tally.own, recorded=module.tally.recorded, ended=module.tally.ended
        ),
        scales=scales,
        outliers=[it.module for it in scales if it.has_outliers],
        prompts_sha256=sha256_of_prompts((it.id, it.category, SPLIT, it.sha256) for it in prompts),
        prompts=prompts,
        command_line=list(command_line),
        versions={
            "quark_eagle": __version__,
            "amd-quark": quark_version(),
            "torch": torch.__version__,
            "safetensors": metadata.version("safetensors"),
            "python": platform.python_version(),
        },
    )


def _scale(found: Found, name: str) -> CalibratedScale:
    scale, magnitudes = found.scales[name], found.run.module.magnitudes[name]
    percentile = magnitudes.percentile(99.99)
    return CalibratedScale(
        module=name,
        kind=kind_of(name),
        scale=scale,
        num_values=magnitudes.num_values,
        absmax=magnitudes.absmax,
        percentile_99_99=percentile,
        outlier_ratio=magnitudes.absmax / percentile if percentile else None,
        num_clipped=magnitudes.num_clipped(scale),
        num_flushed=magnitudes.num_flushed(scale),
        convergence=[
            ConvergencePoint(num_tokens=seen.num_tokens, scale=seen.scales[name]) for seen in found.convergence
        ],
        peaks=[StepPeak(**asdict(peak)) for peak in magnitudes.peaks],
    )
