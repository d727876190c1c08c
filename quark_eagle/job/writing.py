"""A recipe as the text of its file: what was said, and nothing else."""

from __future__ import annotations

from pydantic import BaseModel

from quark_eagle.job.recipe import Recipe


def to_toml(recipe: Recipe, comment: str = "") -> str:
    """The text that `read_recipe` reads as this recipe.

    Args:
        recipe: to be written.
        comment: above it, without the hash signs.
    """
    import tomlkit

    document = tomlkit.document()
    for line in comment.splitlines():
        document.add(tomlkit.comment(line) if line else tomlkit.nl())
    said = recipe.model_dump(exclude_unset=True)
    tables = {name: value for name, value in said.items() if isinstance(getattr(recipe, name), BaseModel)}
    for name, value in said.items():
        if name not in tables and value not in (None, ()):
            document.add(name, list(value) if isinstance(value, tuple) else value)
    for name, values in tables.items():
        table = tomlkit.table()
        for key, value in values.items():
            if value not in (None, ()):
                table.add(key, list(value) if isinstance(value, tuple) else value)
        document.add(name, table)
    return tomlkit.dumps(document)
