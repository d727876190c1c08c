"""Prompt: a conversation that a target is asked to continue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DEFAULT_CATEGORY = "uncategorized"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A conversation that ends with a user's turn.

    Attributes:
        id: unique in its file.
        category: coding, math …; the unit of the per-category rates.
        split: calibration, selection or parity; the three share no prompt.
        messages: in order.
        sha256: of the messages alone, so that it says whether two prompts ask the same.
    """

    id: str
    category: str
    split: str
    messages: tuple[Message, ...]
    sha256: str

    @classmethod
    def of(
        cls, messages: Sequence[Message], *, id: str, category: str = DEFAULT_CATEGORY, split: str = "parity"
    ) -> Prompt:
        """A prompt with the hash of its messages."""
        return cls(id=id, category=category, split=split, messages=tuple(messages), sha256=_hash(messages))

    @property
    def chat(self) -> list[dict[str, str]]:
        """The messages as chat templates want them."""
        return [{"role": message.role, "content": message.content} for message in self.messages]


def _hash(messages: Sequence[Message]) -> str:
    return hashlib.sha256(_canonical([{"role": m.role, "content": m.content} for m in messages])).hexdigest()


def _canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8: equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
