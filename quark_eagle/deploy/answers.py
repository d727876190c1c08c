"""What ``quantization_config`` tells a module that asks, whatever format it is written in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from quark_eagle.deploy.kv_cache import CacheScales
from quark_eagle.deploy.rules import Scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one module is told.

    Attributes:
        scheme: how it is quantized; None if it stays in high precision.
        reason: the entry that decided, in words.
        problem: why the engine stops instead; empty if it does not.
    """

    scheme: Scheme | None
    reason: str
    problem: str = ""


class Quantization(Protocol):
    """A ``quantization_config`` as the engine reads it, and its answers."""

    @property
    def kept_key(self) -> str:
        """The key of the list that keeps modules in high precision, as the format spells it."""

    @property
    def kept(self) -> tuple[str, ...]:
        """The entries of that list, as written."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the engine stops before any module asks, as sentences."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What works, but should be known, as sentences."""

    @property
    def means_head(self) -> bool:
        """Whether the LM head asks, too, and is told to be quantized."""

    def cache_scales(self, lookup: str) -> CacheScales:
        """The scales of a KV cache, as the attention of this lookup name takes them."""

    def answer(self, lookup: str) -> Answer:
        """What the module of this lookup name is told."""


def matches(entry: str, lookup: str) -> bool:
    """Whether an entry means this module: equal or, after ``re:``, an expression matching from its start.

    vLLM 0.32, ``layers/quantization/utils/config_utils.py``, `is_equal_or_regex_match`. Both formats go by it.

    >>> matches("fc", "model.fc"), matches("re:fc", "model.fc"), matches("re:.*fc", "model.fc")
    (False, False, True)
    """
    if not entry.startswith("re:"):
        return entry == lookup
    try:
        return re.match(entry[3:], lookup) is not None
    except re.error:
        return False


def pattern_problem(key: str, entry: str) -> str:
    """What is wrong with an entry that should be an expression; empty if nothing is.

    Args:
        key: of the list that it stands in.
        entry: as written.
    """
    if not entry.startswith("re:"):
        return ""
    try:
        re.compile(entry[3:])
    except re.error as error:
        return f"quantization_config.{key} has {entry!r}, no regular expression ({error}): vLLM stops. Repair it."
    return ""
