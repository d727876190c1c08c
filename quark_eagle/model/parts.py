"""What a draft's layers are made of: their weights and linear layers, found by canonical name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from quark_eagle.checkpoint.geometry import Flags, Geometry
from quark_eagle.model.norm import rms_norm


class LinearLayer(Protocol):
    """What stands for a linear layer: `model.linear.Linear`, or an observed one in its place."""

    @property
    def out_features(self) -> int:
        """Rows of the weight."""

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` [..., in] → [..., out]."""

    def argmax(self, x: Tensor) -> Tensor:
        """Index [tokens] of the largest output for ``x`` [tokens, in]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one draft, or those of one of its modules.

    Attributes:
        geometry: the draft's sizes.
        flags: its switches.
        weights: canonical name → tensor, of the whole draft.
        linears: canonical module → layer, of the whole draft. It is looked into at every call, so that a layer that
            takes another's place there is used from then on.
        caches: what keys and values pass on their way into the KV cache, by ``layers.<i>.self_attn.keys`` and
            ``….values``: [..., tokens, kv_heads, head_dim] in and out. Looked into as ``linears``; what is not there is
            stored as it is.
        prefix: what the names below are read after, ``layers.0.self_attn.`` for one attention.
    """

    geometry: Geometry
    flags: Flags
    weights: Mapping[str, Tensor]
    linears: Mapping[str, LinearLayer]
    caches: Mapping[str, Callable[[Tensor], Tensor]]
    prefix: str = ""

    def below(self, prefix: str) -> Parts:
        """The same parts, with names read after ``prefix``."""
        return replace(self, prefix=f"{self.prefix}{prefix}")

    def has(self, tensor: str) -> bool:
        """Whether the draft holds that tensor."""
        return f"{self.prefix}{tensor}" in self.weights

    def weight(self, tensor: str) -> Tensor:
        """A tensor."""
        return self.weights[f"{self.prefix}{tensor}"]

    def linear(self, module: str, x: Tensor) -> Tensor:
        """The output of a linear layer for ``x`` [..., in]."""
        return self.linears[f"{self.prefix}{module}"](x)

    def norm(self, module: str, x: Tensor) -> Tensor:
        """The output of a norm for ``x`` [..., width]."""
        return rms_norm(x, self.weight(f"{module}.weight"), self.geometry.rms_norm_eps)

    def cached(self, kind: str, x: Tensor) -> Tensor:
        """``keys`` or ``values`` as they are read from the KV cache again."""
        cache = self.caches.get(f"{self.prefix}{kind}")
        return x if cache is None else cache(x)
