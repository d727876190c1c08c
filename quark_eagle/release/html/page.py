"""The page: sections put into the template, under a policy that lets a browser load nothing and run nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from quark_eagle.release.evidence import Evidence
from quark_eagle.release.html.acceptance import by_category, by_position
from quark_eagle.release.html.blocks import Section
from quark_eagle.release.html.engine import calibrated, engine_check
from quark_eagle.release.html.numerics import numerics
from quark_eagle.release.html.prompts import prompt_by_prompt
from quark_eagle.release.html.provenance import environment, provenance
from quark_eagle.release.html.sizes import sizes
from quark_eagle.release.html.verdict import banner, what_was_measured
from quark_eagle.release.model_card_text import visible

_HERE = Path(__file__).parent
_OF_A_COMPARISON: tuple[Callable[[Evidence], Section], ...] = (
    what_was_measured,
    by_position,
    by_category,
    prompt_by_prompt,
)


def html_report(evidence: Evidence) -> str:
    """The text of report.html. The same evidence gives the same bytes; it ends with one newline."""
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    return (
        _templates()
        .get_template("report.html.j2")
        .render(
            release=evidence.release,
            scheme=evidence.record["plan"]["scheme"],
            banner=banner(evidence),
            sections=list(_sections(evidence)),
            style=Markup(style),
            policy=_policy(style),
        )
    )


def _sections(evidence: Evidence) -> Iterator[Section]:
    # A verdict that compared nothing has no rates to show; what the files are is there all the same.
    if evidence.verdict.difference is not None:
        yield from (section(evidence) for section in _OF_A_COMPARISON)
    yield sizes(evidence)
    yield numerics(evidence)
    yield engine_check(evidence)
    yield from calibrated(evidence)
    yield environment(evidence)
    yield provenance(evidence)


def _policy(style: str) -> str:
    """Content-Security-Policy: nothing but this very stylesheet, and an icon that is no file.

    Source: W3C CSP Level 3, "Usage of 'unsafe-inline'…" and hash-source: the sha256 of what stands between the tags.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _printable(value: Any) -> Any:
    """Text without characters that nobody sees and that turn others round; SVG is made of such text already."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
