"""How to serve a released draft, on the model card: what `quark-eagle recipe` says, for MI355X, at the measured k."""

from __future__ import annotations

import shlex
from dataclasses import replace

from quark_eagle.parity.arch import measured_elsewhere
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.model_card_text import code, escape, shell, visible
from quark_eagle.serving.recipe_model import ServedModel
from quark_eagle.serving.recipes import Job, Recipe, num_speculative_tokens, recipe

GPU = "mi355x"
ARCH = "gfx950"


def serving(evidence: Evidence) -> str:
    """The section."""
    made = served_by(evidence)
    job = made.job
    assert job.draft is not None
    asked = ["quark-eagle", "recipe", job.target.name, job.draft.name, "--gpu", GPU]
    asked += ["--num-speculative-tokens", str(evidence.parity.num_speculative_tokens)]
    notes = [note for note in made.notes if not note.startswith(f"{job.target.name} is not on this disk")]
    own, _, _ = num_speculative_tokens(replace(job, num_speculative_tokens=None))
    if own != job.num_speculative_tokens:
        notes.append(f"k = {job.num_speculative_tokens} is what was measured; the recipe's own would be {own}.")
    return "\n\n".join(
        [
            "## How to serve it",
            shell(commands(made)),
            f"{_tried(evidence)} {code(shlex.join(asked))} prints it with the reason and the source of every part.",
            *(["\n".join(f"* {escape(note)}" for note in notes)] if notes else []),
        ]
    )


def served_by(evidence: Evidence) -> Recipe:
    """The recipe: the target by its name, the draft as its config is, k as it was measured."""
    release = evidence.release
    return recipe(
        Job(
            target=ServedModel.of(visible(release.target), None),
            draft=ServedModel.of(visible(release.repo_id or release.name), evidence.directory),
            gpu=GPU,
            num_speculative_tokens=evidence.parity.num_speculative_tokens,
        )
    )


def commands(made: Recipe) -> str:
    """The environment and the command alone; the recipe's comments are for who asks it."""
    return "\n".join(line for line in made.shell().splitlines() if not line.startswith("#"))


def _tried(evidence: Evidence) -> str:
    """Whether these flags were ever run there, as far as the evidence tells: a replay starts no server."""
    if evidence.parity.served is None:
        return f"The evidence was replayed, so this command was never run for it, on MI355X ({ARCH}) or anywhere else."
    elsewhere = measured_elsewhere(evidence.parity, ARCH)
    if elsewhere:
        return f"This command was never run on MI355X ({ARCH}) for this release: {escape('; '.join(elsewhere))}."
    return f"The drafts were served on MI355X ({ARCH}); with which flags is in the measurement, under `served.arms`."
