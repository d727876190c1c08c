"""RMSNorm as engines compute it: in float32, rounded once."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x`` [..., width] over its root mean square, times ``weight`` [width]; x's dtype. vLLM 0.32, ``layernorm.py``.

    >>> rms_norm(torch.tensor([3.0, 4.0]), torch.ones(2), 0.0).square().mean()
    tensor(1.)
    """
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (wide * weight.float()).to(x.dtype)
