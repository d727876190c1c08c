"""Rotary position embedding: the cosines and sines by which queries and keys are turned.

The formulas are vLLM 0.32's (``rotary_embedding/__init__.py``, `get_rope`, and the class that it picks). Four kinds
occur in published Eagle3 drafts: ``default``, ``linear``, ``llama3`` (Llama 3.1 drafts) and ``yarn`` (Kimi and gpt-oss
drafts); another kind is refused. DeepSeek-type drafts turn neighbouring pairs, and have a YaRN of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quark_eagle.errors import CheckpointError


class Rope:
    """Turns the first dimensions of ``[..., tokens, heads, head_dim]`` by position; the others pass."""

    def __init__(self, inverse_frequencies: Tensor, magnitude: float = 1.0, *, interleaved: bool = False) -> None:
        """What is turned by how much.

        Args:
            inverse_frequencies: [turned / 2] float32.
            magnitude: multiplies cosines and sines (YaRN's mscale).
            interleaved: pairs are neighbours (GPT-J, DeepSeek); if not, the first half goes with the second (NeoX).
        """
        self.inverse_frequencies, self.magnitude, self.interleaved = inverse_frequencies, magnitude, interleaved

    @classmethod
    def of(cls, rope: Mapping[str, Any], head_dim: int) -> Rope:
        """Llama's and Qwen3's, from the config's rope parameters.

        Raises:
            CheckpointError: a kind of rotary embedding that replay does not know, or a missing field.
        """
        turned = int(rope.get("rope_dim") or head_dim * float(rope.get("partial_rotary_factor", 1.0)))
        # A multimodal draft's sections turn by three positions, which are one and the same in text.
        kind = {"mrope": "default"}.get(_kind(rope), _kind(rope))
        try:
            plain = _plain(rope, turned)
            if kind == "default":
                return cls(plain)
            if kind == "linear":
                return cls(plain / float(rope["factor"]))
            if kind == "llama3":
                return cls(_llama3(plain, rope))
            if kind == "yarn":
                return cls(_yarn(plain, rope), _yarn_magnitude(rope))
        except KeyError as error:
            raise _incomplete(kind, error) from None
        raise _unknown(kind, "default, linear, llama3 and yarn")

    @classmethod
    def deepseek(cls, rope: Mapping[str, Any], rope_head_dim: int) -> Rope:
        """Of the part of a latent attention's heads that holds the position.

        vLLM 0.32 takes whatever is not ``default`` for DeepSeek's YaRN (``models/deepseek_v2.py``), whose magnitude is
        that of ``deepseek_scaling_rope.py``; here any other kind is refused.

        Raises:
            CheckpointError: as `of`.
        """
        kind = _kind(rope)
        if kind not in _DEEPSEEK_KINDS:
            raise _unknown(kind, ", ".join(_DEEPSEEK_KINDS))
        try:
            plain = _plain(rope, rope_head_dim)
            if kind == "default":
                return cls(plain, interleaved=True)
            factor = float(rope["factor"])
            magnitude = _grown(factor, float(rope.get("mscale", 1))) / _grown(factor, _mscale_all_dim(rope))
            return cls(_yarn(plain, {**rope, "truncate": True}), magnitude, interleaved=True)
        except KeyError as error:
            raise _incomplete(kind, error) from None

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        """``x`` [..., tokens, heads, head_dim] turned by ``positions`` [..., tokens]; float32 inside, x's dtype out."""
        inverse = self.inverse_frequencies.to(positions.device)
        angles = positions[..., None].float() * inverse  # [..., tokens, turned / 2]
        cos, sin = (angles.cos() * self.magnitude)[..., None, :], (angles.sin() * self.magnitude)[..., None, :]
        wide, passed = torch.split(x.float(), [2 * len(inverse), x.shape[-1] - 2 * len(inverse)], dim=-1)
        first, second = (wide[..., ::2], wide[..., 1::2]) if self.interleaved else wide.chunk(2, dim=-1)
        both = (first * cos - second * sin, second * cos + first * sin)
        turned = torch.stack(both, dim=-1).flatten(-2) if self.interleaved else torch.cat(both, dim=-1)
        return torch.cat((turned, passed), dim=-1).to(x.dtype)


_DEEPSEEK_KINDS = ("default", "yarn", "deepseek_yarn")


def deepseek_score_factor(rope: Mapping[str, Any]) -> float:
    """What a latent attention's scores are multiplied by besides head_dim ** -0.5: ``mscale_all_dim``'s, squared.

    Source: vLLM 0.32, ``models/deepseek_v2.py``, `DeepseekV2MLAAttention`: not with an ``attention_factor`` of 1.

    >>> deepseek_score_factor({"rope_type": "default"})
    1.0
    """
    if _kind(rope) == "default" or rope.get("attention_factor") == 1.0:
        return 1.0
    return _grown(float(rope["factor"]), _mscale_all_dim(rope)) ** 2


def _kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _incomplete(kind: str, missing: KeyError) -> CheckpointError:
    return CheckpointError(
        f"config.json: rope parameters of kind '{kind}' have no {missing}, which its formula needs. "
        "Positions would be turned by wrong angles. Complete the config."
    )


def _unknown(kind: str, known: str) -> CheckpointError:
    return CheckpointError(
        f"config.json: rotary embedding of kind '{kind}', but replay knows {known}. "
        "The draft can be quantized and verified, not replayed. Measure it with the engine instead."
    )


def _plain(rope: Mapping[str, Any], turned: int) -> Tensor:
    return 1.0 / float(rope["rope_theta"]) ** (torch.arange(0, turned, 2, dtype=torch.float32) / turned)


def _llama3(plain: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """Long wavelengths are slowed by ``factor``, short ones kept, those between interpolated."""
    low, high, factor = float(rope["low_freq_factor"]), float(rope["high_freq_factor"]), float(rope["factor"])
    length = float(rope["original_max_position_embeddings"])
    wavelength = 2 * math.pi / plain
    smooth = (length / wavelength - low) / (high - low) if high != low else torch.zeros_like(plain)
    between = (1 - smooth) * plain / factor + smooth * plain
    return torch.where(
        wavelength < length / high, plain, torch.where(wavelength > length / low, plain / factor, between)
    )


def _yarn(plain: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """YaRN (arXiv 2309.00071): interpolated where a dimension turns rarely, kept where it turns often."""
    turned = 2 * len(plain)
    theta, length = float(rope["rope_theta"]), float(rope["original_max_position_embeddings"])

    def dimension(rotations: float) -> float:
        return turned * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(float(rope.get("beta_fast") or 32)), dimension(float(rope.get("beta_slow") or 1))
    if rope.get("truncate", True):  # gpt-oss says no
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, turned - 1)
    ramp = ((torch.arange(turned // 2, dtype=torch.float32) - low) / (high - low or 0.001)).clamp(0, 1)
    return plain / float(rope["factor"]) * ramp + plain * (1 - ramp)


def _yarn_magnitude(rope: Mapping[str, Any]) -> float:
    factor = float(rope["factor"])
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return _grown(factor, float(rope["mscale"])) / _grown(factor, float(rope["mscale_all_dim"]))
    return _grown(factor, 1.0)


def _grown(factor: float, mscale: float) -> float:
    """VLLM's `yarn_get_mscale`."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _mscale_all_dim(rope: Mapping[str, Any]) -> float:
    return float(rope.get("mscale_all_dim") or 0)
