"""A job whose commands are played: each writes what follows from its arguments and from what it reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from quark_eagle.job.books import Books, open_books
from quark_eagle.job.places import Places
from quark_eagle.job.reading import read_recipe
from quark_eagle.job.run import Done, refuse_unknown, run
from quark_eagle.job.step import Step
from quark_eagle.job.steps import steps

JOB = """\
draft = "draft"
target = "target"
num_speculative_tokens = 3
show = ["inspect", "explain"]

[quantize]
scheme = "fp8"
keep = ["*.down_proj"]

[calibration]
limit = 16

[prompts]
limit = 64

[gate]
margin = 0.01
looks = 2

[outputs]
junit = "work/gate.xml"

[release]
name = "tiny"
signing_key = "key.pem"
public_key = "key.pub.pem"
"""
DIRECTORIES = {"trace", "calibration-trace", "quantize", "release"}


@dataclass
class World:
    """A directory with a recipe, its inputs, and commands that are played."""

    directory: Path
    version: str = "1"
    answers: dict[str, int] = field(default_factory=dict)
    killed: str = ""
    calls: list[list[str]] = field(default_factory=list)
    table: tuple[Step, ...] = ()

    @classmethod
    def made(cls, directory: Path, text: str = JOB) -> World:
        for name in ("draft", "target"):
            (directory / name).mkdir(parents=True)
            (directory / name / "config.json").write_text(f"{name} of the first day")
        for name in ("key.pem", "key.pub.pem", "prompts.jsonl"):
            (directory / name).write_text(name)
        (directory / "job.toml").write_text(text)
        return cls(directory)

    @property
    def recipe(self) -> Path:
        return self.directory / "job.toml"

    @property
    def steps(self) -> tuple[Step, ...]:
        return steps(read_recipe(self.recipe))

    @contextmanager
    def books(self, *, write: bool = True) -> Iterator[Books]:
        ledger = Places.of(read_recipe(self.recipe)).ledger(self.recipe)
        with open_books(ledger, self.directory, self.version, recipe=self.recipe, write=write) as books:
            yield books

    def run(self) -> list[Done]:
        self.calls.clear()
        self.table = self.steps
        with self.books() as books:
            refuse_unknown(self.table, books)
            return run(self.table, books, start=self.play)

    def ran(self) -> list[str]:
        """The steps that were run, and not skipped."""
        return [it.step.name for it in self.run() if it.status == "run"]

    def change(self, old: str, new: str) -> None:
        text = self.recipe.read_text()
        assert old in text
        self.recipe.write_text(text.replace(old, new))

    def play(self, arguments: Sequence[str], directory: Path, *, lock: int, quiet: bool) -> int:
        """Write what a step writes; refuse to replace anything without --overwrite, as every command does."""
        self.calls.append(list(arguments))
        said = [it for it in arguments if it != "--overwrite"]
        step = next(it for it in self.table if list(it.arguments) == said)
        for name in step.writes:
            path = directory / name
            last = "anchor.json" if "vllm" in arguments else "trace.json"  # of a recording that is finished
            unfinished = path.is_dir() and not (path / last).exists() and step.resumes
            if path.exists() and not unfinished and "--overwrite" not in arguments:
                return 2
            path.parent.mkdir(parents=True, exist_ok=True)
            if name == step.writes[0] and step.name in DIRECTORIES:
                path.mkdir(exist_ok=True)
                if step.resumes:
                    (path / "recording.json").write_text("unfinished")
                path = path / ("trace.json" if step.resumes else "config.json")
            if self.killed == step.name:
                return -9
            path.write_text(self._content(step, said, directory))
            if last == "anchor.json" and step.resumes and step.name not in self.answers:
                (path.parent / last).write_text("replay is what was served")
        return self.answers.get(step.name, 0)

    def _content(self, step: Step, said: Sequence[str], directory: Path) -> str:
        """Of arguments and of what is read: real outputs name their command line, too."""
        content = hashlib.sha256(" ".join(said).encode())
        for name in (*step.reads, *step.secrets):
            files = sorted((directory / name).rglob("*.json")) if (directory / name).is_dir() else [directory / name]
            for file in files:
                content.update(file.read_bytes())
        return content.hexdigest()
