"""What the outputs of quantized layers lose, for the BF16 draft's own activations on recorded prompts.

Each layer is fed the same input as its BF16 twin, so a loss is the layer's own and not an earlier one's. The
activations are those that calibration sees too (`ObservedDraft`): at step 1 every row of the text, at steps 2 … k the
draft's own states and proposals. All candidates are fed in one pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from quark_eagle.compare.weight_error import Sums
from quark_eagle.documents.schemes import Error
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.model.parts import LinearLayer
from quark_eagle.quantize.calibration.observed_draft import ObservedDraft
from quark_eagle.trace.target_trace import TracedPrompt

Layers = Mapping[str, LinearLayer]
"""Quantized layers by canonical module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputErrors:
    """Of one layer; None where it was not run."""

    first_step: Error | None
    later_steps: Error | None


@dataclass(slots=True, kw_only=True)
class _Meter:
    """What stands beside each layer of the BF16 draft as it runs.

    Attributes:
        candidates: quantized layers by the candidate's name.
        sums: by candidate, module, and whether it was step 1.
        calls: of each module in this prompt: a layer runs once in every step.
    """

    dtype: torch.dtype
    candidates: Mapping[str, Layers]
    sums: dict[tuple[str, str, bool], Sums] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    def see(self, module: str, child: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Feed the layers of all candidates what the BF16 layer was fed."""
        self.calls[module] += 1
        x, exact = inputs[0].to(self.dtype), output.to(self.dtype)
        for name, layers in self.candidates.items():
            sums = self.sums.setdefault((name, module, self.calls[module] == 1), Sums())
            sums.see(exact, layers[module](x))

    def errors(self, name: str, module: str) -> OutputErrors:
        """Of one candidate's layer."""
        first, later = (self.sums.get((name, module, is_first)) for is_first in (True, False))
        return OutputErrors(
            first_step=None if first is None else first.error(), later_steps=None if later is None else later.error()
        )


def output_errors(
    baseline: Eagle3Draft,
    candidates: Mapping[str, Layers],
    prompts: Iterable[TracedPrompt],
    num_speculative_tokens: int,
) -> dict[str, dict[str, OutputErrors]]:
    """Errors of every candidate's layers, by its name and the layer's canonical module.

    Args:
        baseline: the BF16 draft; its linears are exchanged for observed ones, so it is of no other use afterwards.
        candidates: by name; all quantize the same modules.
        prompts: of a trace that fits the draft.
        num_speculative_tokens: k.
    """
    modules = sorted({module for layers in candidates.values() for module in layers})
    observed = ObservedDraft(baseline, modules, num_speculative_tokens)
    meter = _Meter(dtype=baseline.dtype, candidates=candidates)
    for module in modules:
        observed.get_submodule(module).register_forward_hook(partial(meter.see, module))
    for traced in prompts:
        meter.calls.clear()
        observed(traced)
    return {name: {module: meter.errors(name, module) for module in layers} for name, layers in candidates.items()}
