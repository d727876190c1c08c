"""Rendering: everything in a bundle that is prose, from the evidence in it and from nothing else.

    render(Evidence.read(bundle))[name] == (bundle / name).read_text()

`release` writes what this gives, and `verify-release` asks for it again and compares byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from quark_eagle.release import contents
from quark_eagle.release.bom import bill_of_materials
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.html.page import html_report
from quark_eagle.release.model_card import model_card
from quark_eagle.release.reproduce import script

RENDERERS: Mapping[str, Callable[[Evidence], str]] = MappingProxyType(
    {
        contents.CARD: model_card,
        contents.REPORT: html_report,
        contents.BOM: bill_of_materials,
        contents.SCRIPT: script,
    }
)
"""What makes each of `contents.RENDERED`: pure functions of the evidence."""


def render(evidence: Evidence) -> dict[str, str]:
    """The text of every rendered file, by its name."""
    return {name: RENDERERS[name](evidence) for name in contents.RENDERED}
