"""told(): mistakes that are raised one by one, as findings that are told together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quark_eagle.errors import QuarkEagleError


@contextmanager
def told(problems: list[str], where: str = "", option: str = "") -> Iterator[None]:
    """An error is a finding beside the others.

    Args:
        problems: that it is added to.
        where: in the recipe, to be said before it.
        option: of the command line, which a recipe does not have and is left out of the sentence.
    """
    try:
        yield
    except QuarkEagleError as error:
        sentence = str(error).removeprefix(f"{option} ") if option else str(error)
        problems.append(f"{where}: {sentence}" if where else sentence)
