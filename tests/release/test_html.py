"""report.html says what the evidence says, needs nothing but itself, and no name in the evidence is markup in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.documents.verdict import Verdict
from quark_eagle.errors import QuarkEagleError
from quark_eagle.release import contents
from quark_eagle.release.evidence import Evidence, read_verification
from quark_eagle.release.html import html_report
from tests.release.made_evidence import HOSTILE, VARIANTS, evidence_of
from tests.reports import report, verdict, verdict_on

VOID = {"meta", "link", "br", "img", "input"}
Bundle = Callable[[str], Path]


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    inside: tuple[str, ...]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """A page taken apart by a parser that knows nothing of how it was made."""

    source: str
    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.source)
        assert not self.open, f"not closed: {[it.tag for it in self.open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, tuple(it.tag for it in self.open))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs), tuple(it.tag for it in self.open)))  # type: ignore[arg-type]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        return [
            it
            for it in self.elements
            if it.tag == tag and all(it.attributes.get(name.rstrip("_")) == value for name, value in attributes.items())
        ]

    def table(self, caption: str) -> list[list[str]]:
        """The cells of the table with this caption, its header first."""
        here = next(i for i, it in enumerate(self.elements) if it.tag == "caption" and it.text.strip() == caption)
        rows: list[list[str]] = []
        for element in self.elements[here + 1 :]:
            if element.tag == "table":
                break
            if element.tag == "tr":
                rows.append([])
            if element.tag in ("td", "th"):
                rows[-1].append(element.text)
        return rows


@pytest.fixture(scope="module")
def page(made_bundle: Bundle) -> Callable[[str], Page]:
    made: dict[str, Page] = {}

    def of(variant: str = "pass") -> Page:
        if variant not in made:
            made[variant] = Page(html_report(Evidence.read(made_bundle(variant))))
        return made[variant]

    return of


@pytest.fixture(scope="module")
def evidence(made_bundle: Bundle) -> Callable[[str], Evidence]:
    return lambda variant="pass": Evidence.read(made_bundle(variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_page_asks_for_nothing_and_runs_nothing(variant: str, page: Callable[[str], Page]) -> None:
    found = page(variant)
    assert not {it.tag for it in found.elements} & {"script", "img", "iframe", "object", "embed", "form", "base"}
    for element in found.elements:
        assert not [name for name in element.attributes if name.startswith("on") or name in ("style", "src", "srcset")]
        address = element.attributes.get("href", "#")
        assert address.startswith("#") or address == "data:,", address
    (style,) = found.all("style")
    assert not re.search(r"url\(|@import|@font-face", style.text)


def test_the_policy_allows_this_stylesheet_and_nothing_else(page: Callable[[str], Page]) -> None:
    found = page("pass")
    (policy,) = [it.attributes["content"] for it in found.all("meta") if "http-equiv" in it.attributes]
    style = re.search(r"<style>(.*?)</style>", found.source, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy.split("; ")[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    assert "unsafe" not in policy


def test_what_a_stranger_named_is_text(page: Callable[[str], Page]) -> None:
    usual, hostile = page("pass"), page("hostile")
    assert {it.tag for it in hostile.elements} == {it.tag for it in usual.elements} | {"aside", "strong"}
    words = {name for it in usual.elements for name in it.attributes}
    assert {name for it in hostile.elements for name in it.attributes} <= words | {"role", "aria-label"}
    assert HOSTILE in hostile.all("h2", id="verdict")[0].text or HOSTILE in hostile.all("p", class_="subject")[0].text
    assert HOSTILE in [row[0] for row in hostile.table("τ, intervals and margins by category")]


@pytest.mark.parametrize("name", ['"><b>', "' onclick='x", "</style><b>", "</title><b>", "a\u202ecba", "a\x1b[31m"])
def test_no_name_breaks_out_of_where_it_stands(name: str, made_bundle: Bundle) -> None:
    usual = Evidence.read(made_bundle("pass"))
    prompts = [it.model_copy(update={"id": f"{name}{place}"}) for place, it in enumerate(usual.parity.prompts)]
    changed = evidence_of(
        usual.directory,
        parity=usual.parity.model_copy(update={"prompts": prompts}),
        release=usual.release.model_copy(update={"name": name, "base_model": name, "license": name}),
    )
    found = Page(html_report(changed))
    assert Counter(it.tag for it in found.elements) == Counter(it.tag for it in Page(html_report(usual)).elements)
    assert not any(name.startswith("on") for it in found.elements for name in it.attributes)
    assert "\u202e" not in found.source
    assert "\x1b" not in found.source


def test_the_same_evidence_is_the_same_page_wherever_it_lies(made_bundle: Bundle, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(made_bundle("static"), tmp_path / "another name")
    assert html_report(Evidence.read(elsewhere)) == html_report(Evidence.read(made_bundle("static")))


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_path_of_the_releaser_is_in_it(variant: str, page: Callable[[str], Page], made_bundle: Bundle) -> None:
    assert "/home/releaser" not in page(variant).source
    assert str(made_bundle(variant).parent) not in page(variant).source


def test_what_was_set_aside_stands_before_anything_else(page: Callable[[str], Page]) -> None:
    body = page("override").all("body")[0].text
    assert body.index("Nothing was measured on gfx950.") < body.index("tiny-eagle3-fp8")
    assert not page("pass").all("aside")


def test_each_outcome_has_its_own_word_colour_and_shape(made_bundle: Bundle) -> None:
    looks = [
        outcome_of(evidence_of(made_bundle("pass"), verdict=verdict(name)))
        for name in ("pass", "fail", "inconclusive", "not evaluated")
    ]
    assert all(len({look[part] for look in looks}) == 4 for part in range(3)), looks
    assert [look[0] for look in looks] == ["PASS", "FAIL", "INCONCLUSIVE", "NOT EVALUATED"]


def outcome_of(evidence: Evidence) -> tuple[str, str, str]:
    page = Page(html_report(evidence))
    (banner,) = [it for it in page.all("section") if it.attributes.get("class", "").startswith("banner")]
    return page.all("h2", id="verdict")[0].text, banner.attributes["class"], page.all("path")[0].attributes["d"]


def test_every_drawing_is_told_or_stands_beside_its_numbers(page: Callable[[str], Page]) -> None:
    for variant in VARIANTS:
        for drawing in page(variant).all("svg"):
            told = drawing.attributes.get("aria-label", "")
            assert drawing.attributes.get("aria-hidden") == "true" or (drawing.attributes["role"] == "img" and told)
        assert page(variant).all("html")[0].attributes["lang"] == "en"


@pytest.mark.parametrize("variant", VARIANTS)
def test_headings_skip_no_level_and_every_link_leads_somewhere(variant: str, page: Callable[[str], Page]) -> None:
    levels = [int(it.tag[1]) for it in page(variant).elements if re.fullmatch(r"h[1-6]", it.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    anchors = [it.attributes["id"] for it in page(variant).elements if "id" in it.attributes]
    assert len(set(anchors)) == len(anchors)
    assert {it.attributes["href"][1:] for it in page(variant).all("a")} <= set(anchors)
    assert all(row.attributes.get("scope") == "col" for row in page(variant).all("th"))


def test_shares_by_position_are_those_of_a_plain_loop(
    page: Callable[[str], Page], evidence: Callable[[str], Evidence]
) -> None:
    rows = page("override").table("Marginal acceptance by position, with counts")[1:]
    prompts = evidence("override").parity.prompts
    assert len(rows) == 3
    for i, row in enumerate(rows):
        for column, arm in ((1, "baseline"), (3, "candidate")):
            drafts = accepted = 0
            for prompt in prompts:
                for j, number in enumerate(getattr(prompt, arm).walk):
                    drafts += number
                    accepted += number if j > i else 0
            assert row[column] == f"{accepted / drafts:.4f}"
            assert row[column + 1].replace(" ", "") == f"{accepted}of{drafts}"


def test_marks_by_position_stand_as_high_as_their_shares(
    page: Callable[[str], Page], evidence: Callable[[str], Evidence]
) -> None:
    found = page("override")
    here, there = (found.elements.index(found.all("section", id=it)[0]) for it in ("position", "category"))
    marks = [it for it in found.elements[here:there] if it.attributes.get("class") in ("before", "after")]
    walk = evidence("override").parity.summary.overall.walk
    shares = [
        (look, rate)
        for both in zip(walk.baseline.marginal_acceptance or (), walk.candidate.marginal_acceptance or (), strict=True)
        for look, rate in zip(("before", "after"), both, strict=True)
    ]
    assert [it.attributes["class"] for it in marks] == [look for look, _ in shares]
    heights = [-float(it.attributes.get("cy") or it.attributes["y"]) for it in marks]
    # On a linear axis heights and shares differ by the same two numbers everywhere.
    slope = (heights[0] - heights[-1]) / (shares[0][1] - shares[-1][1])
    assert slope > 0
    for height, (_, rate) in zip(heights, shares, strict=True):
        assert height - heights[0] == pytest.approx(slope * (rate - shares[0][1]), abs=0.02)


def test_every_prompt_is_a_mark_and_a_row_with_its_own_counts(
    page: Callable[[str], Page], evidence: Callable[[str], Evidence]
) -> None:
    found, prompts = page("override"), evidence("override").parity.prompts
    marks = [it for it in found.all("circle") if it.attributes["class"].startswith("pair")]
    assert len(marks) == len(prompts)
    rows = found.table(f"All {len(prompts)} prompts")[1:]
    for row, prompt in zip(rows, prompts, strict=True):
        emitted = prompt.num_generated_tokens - 1  # by the rounds of either draft, on one path
        tau = [emitted / sum(counts) for counts in (prompt.baseline.walk, prompt.candidate.walk)]
        assert row[:4] == [prompt.id, prompt.category, f"{tau[0]:.3f}", f"{tau[1]:.3f}"]
        assert row[4:] == [str(sum(prompt.baseline.walk)), str(sum(prompt.candidate.walk))]


def test_a_mark_lies_above_the_diagonal_exactly_if_its_prompt_gained(made_bundle: Bundle) -> None:
    usual = Evidence.read(made_bundle("pass"))
    losses = (0, 5, -5, 20, -20, 0)
    counted = usual.parity.model_copy(update={"prompts": report(losses).prompts})
    found = Page(html_report(evidence_of(usual.directory, parity=counted)))
    marks = [it for it in found.all("circle") if it.attributes["class"].startswith("pair")]
    for mark, loss in zip(marks, losses, strict=True):
        across = float(mark.attributes["cx"].removesuffix("%")) / 100
        up = (370 - float(mark.attributes["cy"])) / (370 - 30)
        assert (up - across > 0.002, across - up > 0.002) == (loss < 0, loss > 0)


def test_the_ruler_puts_the_change_on_the_right_side_of_the_margin(made_bundle: Bundle) -> None:
    for name in ("pass", "fail"):
        found = verdict(name)
        page = Page(html_report(evidence_of(made_bundle("pass"), verdict=found)))
        drawn = [it for it in page.elements if "figure" in it.inside and it.inside[-1] in ("svg", "g")]
        margin = next(it for it in drawn if it.attributes.get("class") == "margin")
        mark = next(it for it in drawn if it.tag == "rect" and it.attributes.get("class") == "after")
        is_right = percent(mark.attributes["x"]) > percent(margin.attributes["x1"])
        assert found.difference is not None
        assert is_right == (found.difference.estimate > -found.margin) == (name == "pass")


def percent(place: str) -> float:
    return float(place.removesuffix("%"))


def test_every_quantized_weight_has_its_scales_and_errors_shown(
    page: Callable[[str], Page], evidence: Callable[[str], Evidence]
) -> None:
    found = page("two layers")
    quantized = [it for it in evidence("two layers").weights.modules if it.action == "quantize"]
    assert len(quantized) == 14
    for caption, distributions in (
        ("Relative error by weight", [it.relative_error for it in quantized]),
        ("Scales by weight", [it.scales for it in quantized]),
    ):
        rows = found.table(caption)[1:]
        assert [row[0] for row in rows] == [it.tensor for it in quantized]
        assert [row[1].replace(" ", "") for row in rows] == [str(it.count) for it in distributions if it is not None]
    bars = [it for it in found.all("rect") if it.attributes["class"] == "bar"]
    drawn = [
        count for it in quantized for both in (it.relative_error, it.scales) for count in (both.counts if both else [])
    ]
    assert len(bars) == sum(count > 0 for count in drawn)


def test_whether_it_was_measured_on_the_hardware_it_is_for_is_said(made_bundle: Bundle) -> None:
    usual = Evidence.read(made_bundle("pass"))
    there = {"arch": "x86_64, gfx950", "recorded_with": usual.parity.provenance.recorded_with | {"arch": "gfx950"}}
    provenance = usual.parity.provenance.model_copy(update=there)
    changed = evidence_of(usual.directory, parity=usual.parity.model_copy(update={"provenance": provenance}))
    for evidence, said in ((usual, "not measured (gfx950)"), (changed, "all of it was measured there")):
        assert said in Page(html_report(evidence)).all("section", id="measured")[0].text


def test_bytes_by_part_and_by_dtype_add_up_to_the_files(
    page: Callable[[str], Page], evidence: Callable[[str], Evidence]
) -> None:
    record = evidence("static").record
    for caption in ("Bytes by part of the draft", "Bytes by dtype"):
        rows = page("static").table(caption)[1:]
        for column, total in ((2, "tensors_before_bytes"), (3, "tensors_after_bytes")):
            assert sum(int(row[column].replace(" ", "")) for row in rows) == record[total]


def test_bars_of_bytes_are_as_long_as_what_they_stand_for(
    page: Callable[[str], Page], evidence: Callable[[str], Evidence]
) -> None:
    bars = [it for it in page("pass").all("rect") if it.attributes["class"].startswith("part-")]
    length = {"before": 0.0, "after": 0.0}
    first = bars[0].attributes["y"]
    for bar in bars:
        length["before" if bar.attributes["y"] == first else "after"] += percent(bar.attributes["width"])
    record = evidence("pass").record
    shrunk = record["tensors_after_bytes"] / record["tensors_before_bytes"]
    assert length["before"] == pytest.approx(100, abs=0.05)
    assert length["after"] == pytest.approx(100 * shrunk, abs=0.05)


def test_only_static_scales_have_a_calibration_to_show(page: Callable[[str], Page]) -> None:
    shown = {variant: bool(page(variant).all("section", id="calibration")) for variant in VARIANTS}
    assert shown == {variant: variant == "static" for variant in VARIANTS}


def test_a_replay_beside_a_served_measurement_is_shown_as_such(page: Callable[[str], Page]) -> None:
    (row,) = page("served").table("Measured beside it")[1:]
    assert row[0] == "replayed"


def test_every_hash_is_there_in_full(page: Callable[[str], Page], evidence: Callable[[str], Evidence]) -> None:
    bound = evidence("pass").release.bound_to
    rows = dict(page("pass").table("The same hashes in full")[1:])
    assert rows["FP8 draft, weights"] == bound.candidate.weights_sha256
    assert rows["trace"] == bound.trace_sha256
    assert {it.attributes["title"] for it in page("pass").all("code", class_="hash")} >= {bound.parity_sha256}


def test_without_the_bf16_draft_the_page_says_so(made_bundle: Bundle) -> None:
    usual = Evidence.read(made_bundle("pass"))
    unknown = {"dtype_before": None, "size_bytes_before": None, "relative_error": None, "zeros": None}
    modules = [it.model_copy(update=unknown) for it in usual.weights.modules]
    changed = evidence_of(usual.directory, weights=usual.weights.model_copy(update={"modules": modules}))
    page = Page(html_report(changed))
    assert "not at hand" in page.all("section", id="numerics")[0].text
    assert "before" not in page.all("section", id="size")[0].text.split("Bytes of all tensors")[0]


def test_a_verdict_about_nothing_still_shows_what_the_files_are(made_bundle: Bundle) -> None:
    nothing: Verdict = verdict("not evaluated")
    page = Page(html_report(evidence_of(made_bundle("pass"), verdict=nothing)))
    assert nothing.difference is None
    assert not page.all("section", id="position")
    assert page.all("section", id="size")
    assert page.all("section", id="provenance")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda said: said.pop("modules"),
        lambda said: said.update(modules=3),
        lambda said: said["modules"][0].update(shape=5),
        lambda said: said.update(findings=[{}]),
        lambda said: said.update(num_errors="<b>"),
        lambda said: said["modules"].append(None),
    ],
)
def test_a_verification_that_is_none_is_refused_before_anything_is_rendered(
    spoil: Callable[[dict[str, Any]], object], made_bundle: Bundle, tmp_path: Path
) -> None:
    said = json.loads((made_bundle("pass") / contents.VERIFICATION).read_text(encoding="utf-8"))
    path = tmp_path / "verification.json"
    path.write_text(json.dumps(said), encoding="utf-8")
    assert read_verification(path) == said
    spoil(said)
    path.write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(QuarkEagleError, match="verification"):
        read_verification(path)


def test_a_page_of_330_prompts_is_below_a_megabyte(made_bundle: Bundle) -> None:
    many = report((0, 3, -3) * 110)
    usual = Evidence.read(made_bundle("pass"))
    page = html_report(evidence_of(usual.directory, parity=many, verdict=verdict_on(many)))
    assert len(many.prompts) == 330
    assert len(page.encode()) < 1_000_000
