"""How a verdict leaves the process: tables for people, files for CI, and what GitHub Actions reads by itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quark_eagle.documents.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictFiles:
    """The files that were asked for; None is not written.

    Attributes:
        output: the verdict's own document, JSON.
        junit: JUnit XML.
        markdown: for a comment on a pull request.
    """

    output: Path | None = None
    junit: Path | None = None
    markdown: Path | None = None

    def named(self) -> dict[str, Path]:
        """Those that were asked for, by their options."""
        options = {"--output": self.output, "--junit": self.junit, "--markdown": self.markdown}
        return {option: path for option, path in options.items() if path is not None}

    def write(self, verdict: Verdict) -> None:
        """Write all of them, or none.

        Raises:
            StorageError: the disk is full, or a directory may not be written to.
        """
        from quark_eagle.documents.base import write_text
        from quark_eagle.errors import StorageError

        texts = [(path, _text(option, verdict)) for option, path in self.named().items()]
        try:
            for path, text in texts:
                write_text(path, text)
        except StorageError:
            self.remove()
            raise

    def remove(self) -> None:
        """Leave none: neither this run, which decided nothing, nor an older one may speak for it."""
        for path in self.named().values():
            path.unlink(missing_ok=True)


def _text(option: str, verdict: Verdict) -> str:
    """What the file of an option holds."""
    if option == "--junit":
        from quark_eagle.reporting.junit import to_junit

        return to_junit(verdict)
    if option == "--markdown":
        from quark_eagle.reporting.markdown import to_markdown

        return to_markdown(verdict)
    return verdict.to_json()


def tell_github(verdict: Verdict, environment: Mapping[str, str] = os.environ) -> None:
    """Append the step's summary and outputs and annotate the run, where GitHub's variables ask for it.

    The annotation goes to stderr, which the runner reads as well, so that stdout stays the answer's.

    Raises:
        StorageError: GitHub's files cannot be written to.
    """
    from quark_eagle.errors import StorageError
    from quark_eagle.reporting.github import annotation, step_outputs
    from quark_eagle.reporting.markdown import to_markdown

    for variable, render in (("GITHUB_STEP_SUMMARY", to_markdown), ("GITHUB_OUTPUT", step_outputs)):
        if not environment.get(variable):
            continue
        try:
            with Path(environment[variable]).open("a", encoding="utf-8") as file:
                file.write(render(verdict))
        except OSError as error:
            raise StorageError(
                f"${variable} = {environment[variable]}: could not be written to ({error.strerror}). "
                "Unset it, or name a file that can be."
            ) from error
    if environment.get("GITHUB_ACTIONS") == "true":
        print(annotation(verdict), file=sys.stderr)


def show_verdict(verdict: Verdict) -> None:
    """Print a verdict for people: the outcome first, then what it stands on, then what to do."""
    from quark_eagle.cli import render
    from quark_eagle.reporting import wording

    render.say(wording.headline(verdict))
    if verdict.causes:
        render.say("Likely causes, the likeliest first:")
        render.say("\n".join(f"  {place}. {cause}." for place, cause in enumerate(verdict.causes, 1)))
    for warning in wording.warnings(verdict):
        render.say(warning)
    drafts = wording.draft_rows(verdict)
    if drafts:
        render.say()
        render.show(render.table(wording.DRAFT_HEADERS, drafts, right=range(1, len(wording.DRAFT_HEADERS))))
        render.say()
        width = max(len(name) for name, _ in wording.facts(verdict))
        render.say("\n".join(f"{name:<{width}}  {text}" for name, text in wording.facts(verdict)))
    if verdict.categories:
        render.say()
        rows = wording.category_rows(verdict)
        render.show(render.table(wording.CATEGORY_HEADERS, rows, right=range(1, 5)))
    if verdict.worth is not None:
        render.say(f"\n{verdict.worth.sentence}")
    render.say(wording.how_measured(None if verdict.evidence is None else verdict.evidence.provenance))
    command = wording.next_command(verdict)
    if command is not None:
        render.say(f"Next: {command}")
