"""A file of prompts as people write one: from its lines to prompts, or to what is wrong with each.

Four spellings are read, one JSON object a line (or one JSON array of such objects):

    {"id": "math-7", "category": "math", "split": "parity", "messages": [{"role": "user", "content": "…"}]}
    {"prompt": "…"}
    {"id": "x", "conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}     ShareGPT
    {"question_id": 81, "category": "writing", "turns": ["…", "…"]}                                  MT-Bench

``id``, ``category`` and ``split`` may be missing in all of them. A conversation ends with the user's last turn, since
that is what the target answers. Of MT-Bench turns the first is asked: a later one needs the target's own answer to
the one before.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quark_eagle.errors import StorageError, TraceError
from quark_eagle.trace.prompt import DEFAULT_CATEGORY, Message, Prompt

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
_KNOWN_ROLES = ("system", "user", "assistant", "tool")


def json_values(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, value) of every JSON value in a file; a JSON array counts its items instead.

    A line that is not JSON comes as `Broken`, so that all of them can be reported.

    Raises:
        TraceError: there is no such file, or it is no text, or a damaged array.
        StorageError: it may not be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TraceError(f"{path}: not found, but the prompts were to be read from it. Check the path.") from None
    except UnicodeDecodeError as error:
        raise TraceError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read ({error.strerror}). Check what it is and its permissions."
        ) from error
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text), 1)
        except ValueError as error:
            raise TraceError(
                f"{path}: is not a JSON array ({error}). Correct it, or write one JSON object a line."
            ) from error
        return
    # Not str.splitlines: it also splits at U+2028 and the like, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                yield number, Broken(f"is not JSON ({error}).")


class Broken(str):
    """Why a line could not be read."""


def prompt_of(value: Any, default_id: str, default_split: str, notes: Counter[str]) -> Prompt:
    """The prompt in one JSON value.

    Raises:
        ValueError: says what was found and what was needed.
    """
    if isinstance(value, Broken):
        raise ValueError(value)
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}, but a JSON object was needed.")
    messages = _messages(value, notes)
    while messages and messages[-1].role == "assistant":
        messages.pop()
        notes["answer at the end of a conversation left out"] += 1
    if not any(message.role == "user" for message in messages):
        raise ValueError("has no user's turn, but the target answers one.")
    identity = value.get("id", value.get("question_id", default_id))
    category, split = value.get("category") or DEFAULT_CATEGORY, value.get("split") or default_split
    for key, field in (("id", identity), ("category", category), ("split", split)):
        if not isinstance(field, str | int) or isinstance(field, bool):
            raise ValueError(f"{key} is {type(field).__name__}, but a string was needed.")
        if any(unicodedata.category(character) == "Cc" for character in str(field)):
            raise ValueError(f"{key} holds a control character. Names are printed, and read by other programs.")
    return Prompt.of(messages, id=str(identity), category=str(category), split=str(split))


def _messages(value: Mapping[str, Any], notes: Counter[str]) -> list[Message]:
    spellings = [key for key in ("messages", "prompt", "conversations", "turns") if key in value]
    if len(spellings) != 1:
        found = (
            " and ".join(spellings) if spellings else f"only {', '.join(sorted(map(str, value))) or 'an empty object'}"
        )
        raise ValueError(f"found {found}, but exactly one of messages, prompt, conversations, turns was needed.")
    (key,) = spellings
    turns = value[key]
    if key == "prompt":
        return [_message({"role": "user", "content": turns}, "role", "content", key)]
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"{key} is {json.dumps(turns)[:40]}, but a list with at least one turn was needed.")
    if key == "turns":
        notes["later MT-Bench turn not asked"] += len(turns) - 1
        notes += Counter()  # drops zero counts
        return [_message({"role": "user", "content": turns[0]}, "role", "content", "turns[0]")]
    names = ("role", "content") if key == "messages" else ("from", "value")
    return [_message(turn, *names, f"{key}[{place}]") for place, turn in enumerate(turns)]


def _message(turn: Any, role_key: str, content_key: str, where: str) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get(role_key), str):
        raise ValueError(f"{where} has no {role_key}, but each turn needs {role_key} and {content_key}.")
    role = turn[role_key].lower()
    role = _ROLES.get(role, role)
    if role not in _KNOWN_ROLES:
        raise ValueError(
            f"{where} has the {role_key} {turn[role_key]!r}, but one of {', '.join(_KNOWN_ROLES)} was needed."
        )
    content = turn.get(content_key)
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"{where} has no text in {content_key}, but text was needed.")
    return Message(role=role, content=content)
