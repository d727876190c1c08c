"""Prompt and PromptSet: the conversations that a target is asked to continue.

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

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from quark_eagle.documents.base import sha256_of_prompts
from quark_eagle.errors import StorageError, TraceError, UsageError, findings

SPLITS = ("calibration", "selection", "parity")
DEFAULT_CATEGORY = "uncategorized"

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
_KNOWN_ROLES = ("system", "user", "assistant", "tool")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Prompts in the order of their file.

    Attributes:
        prompts: at least one.
        source: the file they come from, or "calib" for the packaged ones.
        notes: what was left out while reading, for a person to see.
    """

    prompts: tuple[Prompt, ...]
    source: str
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path | str | None = None, split: str | None = None) -> PromptSet:
        """The prompts of a file, or the packaged ones.

        Args:
            path: a JSON Lines file or a JSON array; None for the prompts that come with the package.
            split: keep these only. A prompt whose line names no split belongs to whichever is asked for.

        Raises:
            TraceError: the file is empty or a line cannot be used; every such line is listed as file:line.
            UsageError: the split has no prompt.
            StorageError: the file may not be read.
        """
        prompts: list[Prompt] = []
        problems: list[str] = []
        notes: Counter[str] = Counter()
        files = [Path(path)] if path is not None else sorted((packaged_calib() / "prompts").glob("*.jsonl"))
        for file in files:
            for where, value in _objects(file):
                try:
                    prompts.append(_prompt(value, f"{file.stem}-{where}", split or "parity", notes))
                except ValueError as error:  # noqa: PERF203  (every line is reported)
                    problems.append(f"{file}:{where}: {error}")
        source = str(path) if path is not None else "calib"
        problems += _repeated_ids(prompts, source)
        if problems:
            raise TraceError(findings(source, problems, "Each line must hold one prompt; correct or remove these."))
        if not prompts:
            raise TraceError(
                f"{source}: is empty, but at least one prompt was needed. "
                "Nothing could be recorded. Add prompts, one JSON object a line."
            )
        chosen = tuple(prompt for prompt in prompts if split is None or prompt.split == split)
        if not chosen:
            found = ", ".join(f"{name} ({count})" for name, count in sorted(Counter(p.split for p in prompts).items()))
            raise UsageError(
                f"--split {split}: {source} has no prompt in that split, but in {found}. Choose one of these."
            )
        return cls(
            prompts=chosen, source=source, notes=tuple(f"{count} × {what}" for what, count in sorted(notes.items()))
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def limited(self, limit: int | None) -> PromptSet:
        """The first prompts of every category in turn, so that few prompts still cover many categories.

        >>> ask = [Message(role="user", content="?")]
        >>> of = lambda id, category: Prompt.of(ask, id=id, category=category)
        >>> four = PromptSet(prompts=(of("a1", "a"), of("a2", "a"), of("b1", "b"), of("b2", "b")), source="")
        >>> [prompt.id for prompt in four.limited(3)]
        ['a1', 'a2', 'b1']
        """
        if limit is None or limit >= len(self.prompts):
            return self
        seen: Counter[str] = Counter()
        turns = []
        for place, prompt in enumerate(self.prompts):
            turns.append((seen[prompt.category], place))
            seen[prompt.category] += 1
        kept = sorted(place for _, place in sorted(turns)[:limit])
        return replace(self, prompts=tuple(self.prompts[place] for place in kept))

    @property
    def categories(self) -> Mapping[str, int]:
        """Number of prompts by category, sorted by name."""
        return dict(sorted(Counter(prompt.category for prompt in self.prompts).items()))

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt, at most, but for the few that a chat template adds.

        How many it has is known once an engine renders it; no tokenizer makes more of them than the text has bytes.
        """
        return max(sum(len(message.content.encode()) for message in prompt.messages) for prompt in self.prompts)

    @property
    def sha256(self) -> str:
        """Of ids and contents in order: the same prompts in another file have the same hash."""
        return sha256_of_prompts((it.id, it.category, it.split, it.sha256) for it in self.prompts)


def packaged_calib() -> Path:
    """The directory of the prompts that come with the package: its data once installed, ``calib/`` in a checkout.

    Raises:
        TraceError: it is neither here nor there.
    """
    package = Path(str(resources.files("quark_eagle")))
    for candidate in (package / "calib", package.parent / "calib"):
        if (candidate / "prompts").is_dir():
            return candidate
    raise TraceError(
        f"{package}: has no calib/prompts, but the package's own prompts should lie there. "
        "Install it anew, or name a file with --prompts."
    )


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, value) of every JSON value in a file; a JSON array counts its items instead.

    A line that is not JSON comes as a ValueError instance's message through `_Broken`, so that all are reported.
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
                yield number, _Broken(f"is not JSON ({error}).")


class _Broken(str):
    """Why a line could not be read."""


def _prompt(value: Any, default_id: str, default_split: str, notes: Counter[str]) -> Prompt:
    """The prompt in one JSON value.

    Raises:
        ValueError: says what was found and what was needed.
    """
    if isinstance(value, _Broken):
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


def _repeated_ids(prompts: Sequence[Prompt], source: str) -> list[str]:
    counts = Counter(prompt.id for prompt in prompts)
    return [
        f"{source}: the id {name!r} occurs {count} times, but ids tell prompts apart."
        for name, count in counts.items()
        if count > 1
    ]


def _hash(messages: Sequence[Message]) -> str:
    return hashlib.sha256(_canonical([{"role": m.role, "content": m.content} for m in messages])).hexdigest()


def _canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8: equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
