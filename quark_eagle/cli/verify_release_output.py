"""How the checks of a bundle are shown: a line for each, then all differences, then the answer."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from quark_eagle.cli import render

if TYPE_CHECKING:
    from quark_eagle.documents.release_check import ReleaseCheck


def show(made: ReleaseCheck) -> None:
    """The whole answer on stdout."""
    named = f"{made.release}, by quark-eagle {made.made_by}" if made.release else "a bundle that cannot be read"
    render.say(f"{made.bundle}: {named}\n")
    for override in made.overrides:
        render.warn(f"it was released with a rule set aside: {override}")
    render.show(render.table(["check", "", "what it says"], [(it.name, it.status, it.says) for it in made.checks]))
    for check in made.checks:
        for difference in check.differences:
            render.say(f"NOT OK {check.name}: {difference}")
    if any(check.differences for check in made.checks):
        render.say()
    if made.beside:
        render.say(f"Not part of the release, and not looked at: {', '.join(made.beside)}.")
    render.say(_answer(made))


def _answer(made: ReleaseCheck) -> str:
    wrong = [check.name for check in made.checks if check.status == "not ok"]
    left = [check for check in made.checks if check.status == "not checked"]
    if made.outcome == "not as released":
        return f"NOT AS RELEASED: {', '.join(wrong)}. Do not serve it; fetch it again from whoever released it."
    if made.outcome == "not checked":
        return f"NOT CHECKED: {', '.join(check.name for check in left if check.asked)}. Nothing else is wrong with it."
    unchecked = f" Not checked: {', '.join(check.name for check in left)}." if left else ""
    said = f"AS RELEASED: {len(made.checks) - len(left)} checks hold.{unchecked}"
    if any(check.name == "signature" for check in left):
        return f"{said}\nThat nobody made all of it anew only its signature shows: {_again(made)} --public-key PEM"
    if not any(check.name == "source" for check in made.checks):
        return f"{said}\nNext, compare it with its BF16 draft: {_again(made)} --source DRAFT"
    return f"{said}\nNext, serve it: quark-eagle recipe TARGET {shlex.quote(made.bundle)}"


def _again(made: ReleaseCheck) -> str:
    return f"quark-eagle verify-release {shlex.quote(made.bundle)}"
