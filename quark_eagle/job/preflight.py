"""What only draft and prompts themselves can tell, before hours are spent: headers and text are read, no weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quark_eagle.errors import QuarkEagleError, UsageError, findings
from quark_eagle.job.places import expanded, is_hub_id
from quark_eagle.job.recipe import Recipe


def preflight(recipe: Recipe, base: Path) -> None:
    """See that the draft can be quantized as the recipe says, and that there are such prompts.

    What is named by a Hugging Face id is not fetched for this.

    Raises:
        UsageError: it cannot; all findings.
    """
    problems: list[str] = []
    _look_at_draft(recipe, base, problems)
    _look_at_prompts(recipe, base, problems)
    if problems:
        raise UsageError(findings("recipe", problems, "Nothing was run. Correct these."))


@contextmanager
def _told(problems: list[str]) -> Iterator[None]:
    """An error is a finding beside the others."""
    try:
        yield
    except QuarkEagleError as error:
        problems.append(str(error))


def _look_at_draft(recipe: Recipe, base: Path, problems: list[str]) -> None:
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.quantize.format import Format
    from quark_eagle.quantize.plan import QuantPlan, require_quantizable
    from quark_eagle.quantize.scheme import Scheme

    if recipe.draft is None or is_hub_id(recipe.draft, base):
        return
    wanted = recipe.quantize
    with _told(problems):
        checkpoint = Checkpoint.open(base / expanded(recipe.draft))
        layout = Eagle3Layout.of(checkpoint)
        if recipe.quantizes:
            form = Format.QUARK if wanted.format is None else Format(wanted.format)
            plan = QuantPlan.of(layout, Scheme(wanted.scheme), wanted.keep, wanted.quantize_fc, form)
            require_quantizable(checkpoint, plan)


def _look_at_prompts(recipe: Recipe, base: Path, problems: list[str]) -> None:
    from quark_eagle.trace.prompts import PromptSet

    wanted = []
    if recipe.records or recipe.serves:
        wanted.append((recipe.prompts.file, recipe.prompts.split or "parity", recipe.prompts.limit))
    if recipe.calibrates and recipe.calibration.trace is None:
        wanted.append((recipe.calibration.file, "calibration", recipe.calibration.limit))
    for file, split, limit in wanted:
        with _told(problems):
            PromptSet.load(None if file is None else base / expanded(file), split).limited(limit)
