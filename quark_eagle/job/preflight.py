"""What can be told before hours are spent: of draft and prompts headers and text are read, no weights."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from quark_eagle.errors import UsageError, findings
from quark_eagle.job.places import expanded, is_hub_id
from quark_eagle.job.recipe import Recipe
from quark_eagle.job.release_preflight import release_problems
from quark_eagle.job.told import told


def preflight(recipe: Recipe, base: Path) -> None:
    """See that a job can be done, as far as that can be told before it begins.

    The draft can be quantized as the recipe says, there are such prompts, the packages are installed that its steps
    need, and what is made can be named and signed as the recipe says. What is named by a
    Hugging Face id is not fetched for this.

    Raises:
        UsageError: it cannot; all findings.
    """
    problems: list[str] = []
    _look_at_draft(recipe, base, problems)
    _look_at_prompts(recipe, base, problems)
    problems += _missing_extras(recipe)
    problems += release_problems(recipe, base)
    if problems:
        raise UsageError(findings("recipe", problems, "Nothing was run. Correct these."))


def _missing_extras(recipe: Recipe) -> Iterator[str]:
    """What this Python lacks; of vLLM's own it is asked when it starts."""
    records = recipe.records or (recipe.calibrates and recipe.calibration.trace is None)
    needed = (
        (recipe.quantizes, "quark", "does the quantization", "quantize"),
        (records and recipe.engine.name != "vllm", "transformers", "runs the target", "trace"),
        (recipe.outputs.plot is not None, "matplotlib", "draws the plot", "plot"),
    )
    for is_needed, package, what, extra in needed:
        if is_needed and find_spec(package) is None:
            yield f"{package}: not installed, but it {what}. Install it: pip install 'quark-eagle[{extra}]'."


def _look_at_draft(recipe: Recipe, base: Path, problems: list[str]) -> None:
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.quantize.format import Format
    from quark_eagle.quantize.plan import QuantPlan, require_quantizable
    from quark_eagle.quantize.scheme import Scheme

    if recipe.draft is None or is_hub_id(recipe.draft, base):
        return
    wanted = recipe.quantize
    with told(problems):
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
        with told(problems):
            PromptSet.load(None if file is None else base / expanded(file), split).limited(limit)
