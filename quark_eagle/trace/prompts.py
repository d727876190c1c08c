"""PromptSet: the prompts of a file, or those that come with the package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from quark_eagle.documents.base import sha256_of_prompts
from quark_eagle.errors import TraceError, UsageError, findings
from quark_eagle.trace.prompt import DEFAULT_CATEGORY, Message, Prompt
from quark_eagle.trace.prompt_file import json_values, prompt_of

__all__ = ["DEFAULT_CATEGORY", "SPLITS", "Message", "Prompt", "PromptSet", "packaged_calib"]

SPLITS = ("calibration", "selection", "parity")


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
            for where, value in json_values(file):
                try:
                    prompts.append(prompt_of(value, f"{file.stem}-{where}", split or "parity", notes))
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


def _repeated_ids(prompts: Sequence[Prompt], source: str) -> list[str]:
    counts = Counter(prompt.id for prompt in prompts)
    return [
        f"{source}: the id {name!r} occurs {count} times, but ids tell prompts apart."
        for name, count in counts.items()
        if count > 1
    ]
