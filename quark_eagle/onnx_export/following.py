"""Following: the draft's FP8 layers with the graph's choice wherever an activation lies between two FP8 numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quark_eagle.fp8 import quantize_per_token, quantize_static
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.model.linear import Linear
from quark_eagle.onnx_export.agreement import TIE


@dataclass(slots=True, kw_only=True)
class Choices:
    """What the graph made of the rows that the draft is about to compute: by module, dequantized [rows, in]."""

    made: Mapping[str, Tensor] = field(default_factory=dict)
    num_quantized: int = 0
    num_ties: int = 0

    @contextmanager
    def of(self, made: Mapping[str, Tensor]) -> Iterator[None]:
        """Follow these inside the block."""
        self.made = made
        try:
            yield
        finally:
            self.made = {}


class Following:
    """A layer in the place of `Linear`: the same product, of inputs that may follow the graph's choice."""

    def __init__(self, module: str, linear: Linear, choices: Choices) -> None:
        """``linear``: in FP8; ``choices`` are looked into at every call."""
        assert linear.scale is not None
        self.module, self.linear, self.choices = module, linear, choices
        self._weight = linear.weight.float() * linear.scale.float().reshape(-1, 1)

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self.linear.out_features

    def argmax(self, x: Tensor) -> Tensor:
        """Index [tokens] of the largest output."""
        return self(x).argmax(dim=-1)

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output for ``x`` [tokens, in] float32."""
        own = self._quantized(x)
        self.choices.num_quantized += x.numel()
        y = torch.nn.functional.linear(self._followed(x, own), self._weight)
        return y if self.linear.bias is None else y + self.linear.bias.float()

    def _followed(self, x: Tensor, own: Tensor) -> Tensor:
        """``own`` with the graph's choice where both are as near to ``x``; as it is if the graph does not quantize."""
        theirs = self.choices.made.get(self.module, own)
        slack = TIE * x.abs().amax(dim=-1, keepdim=True)
        is_tie = ((x - theirs).abs() <= (x - own).abs() + slack) & ((own - theirs).abs() > slack)
        self.choices.num_ties += int(is_tie.sum())
        return torch.where(is_tie, theirs, own)

    def _quantized(self, x: Tensor) -> Tensor:
        """``x`` through FP8, by the definition."""
        if self.linear.input_scale is not None:
            return quantize_static(x, self.linear.input_scale).float() * self.linear.input_scale
        q, scale = quantize_per_token(x)
        return q.float() * scale


def follow(draft: Eagle3Draft) -> Choices:
    """Put `Following` layers in the place of a draft's FP8 ones; they follow what the returned `Choices` hold."""
    choices = Choices()
    for module, linear in draft.linears.items():
        if isinstance(linear, Linear) and linear.scale is not None:
            draft.linears[module] = Following(module, linear, choices)
    return choices
