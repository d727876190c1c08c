"""A recipe from its file: every mistake at once, each with its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quark_eagle.documents.base import Document
from quark_eagle.errors import StorageError, UsageError, findings
from quark_eagle.job.contradictions import Finding, contradictions
from quark_eagle.job.places import missing_inputs, unusable_outputs
from quark_eagle.job.recipe import Recipe

ADVICE = "Nothing was run. Correct the recipe."


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    A mistake of one value says nothing of what it would have contradicted, so contradictions are looked for in a recipe
    that is well-formed; what does not exist is told in any case.

    Raises:
        StorageError: the file may not be read.
        UsageError: it is no TOML or no recipe, contradicts itself, or names what is not there; all findings.
    """
    text = _text(path)
    content = _parsed(text, path)
    try:
        recipe = Recipe.model_validate(content)
        found = contradictions(recipe)
    except ValidationError as error:
        found = list(_misspelled(error, content))
        recipe = _without(content, [place for place, _ in found])
    found += missing_inputs(recipe, path.absolute().parent)
    found += unusable_outputs(recipe, path.absolute().parent)
    if found:
        raise UsageError(findings(str(path), _told(found, text), ADVICE))
    return recipe


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # no UTF-8, or a NUL in the path
        why = error.strerror if isinstance(error, OSError) else error
        raise StorageError(f"{path}: could not be read ({why}), but a recipe in TOML was needed.") from error


def _parsed(text: str, path: Path) -> dict[str, Any]:
    """TOML as plain values. tomlkit (0.13, ``exceptions.py``) says the line and column of what it cannot read."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        content: dict[str, Any] = _with_tuples(tomlkit.parse(text).unwrap())
        return content
    except TOMLKitError as error:
        raise UsageError(f"{path}: is no TOML: {error}. {ADVICE}") from error


def _with_tuples(value: Any) -> Any:
    """Arrays as a frozen document has them."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _misspelled(error: ValidationError, content: Mapping[str, Any]) -> Iterator[Finding]:
    """What pydantic found, in a sentence each."""
    for it in error.errors():
        place = tuple(part for part in it["loc"] if isinstance(part, str))  # an element is told as its list
        if it["type"] == "extra_forbidden":
            yield place, f"is not known.{_meant(place)}"
        elif it["type"] == "model_type":
            yield place, f"{_shown(it['input'])} was found, but a table [{place[-1]}] was needed."
        else:
            message = it["msg"].removeprefix("Value error, ")
            yield place, f"{_shown(it['input'])} was found. {message[0].upper()}{message[1:]}."


def _shown(value: object) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _meant(place: tuple[str, ...]) -> str:
    """What an unknown key was probably meant to be: a key of the same table that looks like it, or the same elsewhere.

    >>> _meant(("gate", "magrin")), _meant(("margin",))
    (' Did you mean margin?', ' It belongs into [gate].')
    """
    tables = _tables()
    here = tables[place[0]] if len(place) > 1 and place[0] in tables else set(Recipe.model_fields)
    elsewhere = [name for name, keys in tables.items() if place[-1] in keys]
    if len(elsewhere) == 1:
        return f" It belongs into [{elsewhere[0]}]."
    if place[-1] in Recipe.model_fields and len(place) > 1:
        return " It belongs above all tables."
    close = get_close_matches(place[-1], sorted(here), n=1)
    return f" Did you mean {close[0]}?" if close else f" Known here: {', '.join(sorted(here))}."


def _tables() -> dict[str, set[str]]:
    """Every table's keys."""
    from quark_eagle.job import recipe as kinds

    classes: dict[str, type[Document]] = {
        "quantize": kinds.Quantize,
        "calibration": kinds.Calibration,
        "prompts": kinds.Prompts,
        "recording": kinds.Recording,
        "engine": kinds.Engine,
        "gate": kinds.Gate,
        "outputs": kinds.Outputs,
        "release": kinds.Release,
    }
    return {name: set(cls.model_fields) for name, cls in classes.items()}


def _without(content: Mapping[str, Any], places: list[tuple[str, ...]]) -> Recipe:
    """The recipe without what was found to be wrong in it."""
    left = {key: dict(value) if isinstance(value, Mapping) else value for key, value in content.items()}
    for place in places:
        inside = left.get(place[0])
        if len(place) > 1 and isinstance(inside, dict):
            inside.pop(place[1], None)
        else:
            left.pop(place[0], None)
    return Recipe.model_validate(left)


def _told(found: list[Finding], text: str) -> list[str]:
    """Each finding with its line, in the order of the file."""
    lines = {place: line_of(place, text) for place, _ in found}
    ordered = sorted(found, key=lambda it: (lines[it[0]] or 0, it[0]))
    return [f"{_where(place, lines[place])}: {sentence}" for place, sentence in ordered]


def _where(place: tuple[str, ...], line: int | None) -> str:
    in_table = f"[{place[0]}] " if len(place) > 1 else ""
    name = f"[{place[0]}]" if place in {(table,) for table in _tables()} else f"{in_table}{'.'.join(place[-1:])}"
    return name if line is None else f"line {line}, {name}"


def line_of(place: tuple[str, ...], text: str) -> int | None:
    r"""The line on which a key or a table begins; None if it is not in the text.

    The shortest beginning of the file that is TOML and holds the key ends with the key's value, and the one before it
    ends above its first line. So no parser has to be asked where it was.

    >>> line_of(("gate", "margin"), "# a job\n[gate]\nmargin = 1\n"), line_of(("gate", "alpha"), "[gate]\n")
    (3, None)
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    whole = 0
    lines = text.splitlines(keepends=True)
    for number in range(1, len(lines) + 1):
        try:
            content: Any = tomlkit.parse("".join(lines[:number])).unwrap()
        except TOMLKitError:
            continue  # ends in the middle of a value
        for part in place[:2]:
            content = content.get(part) if isinstance(content, Mapping) else None
        if content is not None:
            return whole + 1
        whole = number
    return None
