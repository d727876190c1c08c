"""report.html in a real browser: it is seen, in light and in dark, on a narrow screen, without a word to the network.

Each question is put to a broken page as well: a look that cannot be disappointed is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from quark_eagle.release.evidence import Evidence
from quark_eagle.release.html import html_report
from tests.release import browser
from tests.release.browser import Visit, document, visit

NARROW = 360
# A window is never narrower than 500 pixels, but a frame is as narrow as it is told to be, and is asked from inside.
_TELL = """<script>onload = () => {
  const name = location.pathname.match(/(\\w+)\\.html$/)[1];
  parent.postMessage(`${name} ${document.documentElement.scrollWidth} ${innerWidth};`, '*');
}</script>"""
_SMUGGLED = (
    '<img src="http://tracker.example/pixel.png"><link rel="stylesheet" href="https://tracker.example/x.css">'
    "<script>document.body.remove()</script><style>body { display: none }</style>"
)
_NO_DARK = ("@media (prefers-color-scheme: dark)", "@media none")
_LIGHT_ALONE = ("light dark", "light")
BROKEN = (
    '<!doctype html><html lang="en"><title>broken</title><link rel="icon" href="data:,"><body style="min-width: 900px">'
    '<img src="http://tracker.example/pixel.png" alt=""><script>nobodyDefinedThis()</script>'
)


@pytest.fixture(scope="module", autouse=True)
def _there_is_a_browser() -> None:
    why_not = browser.missing()
    if why_not is not None:
        pytest.skip(why_not)


@pytest.fixture(scope="module")
def report(made_bundle: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the kind of release that has the most to show."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html_report(Evidence.read(made_bundle("static"))), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def light(report: Path) -> Visit:
    return visit(report)


@pytest.fixture(scope="module")
def dark(report: Path) -> Visit:
    return visit(report, dark=True)


@pytest.fixture(scope="module")
def broken(report: Path) -> Visit:
    return visit(changed(report, "broken", lambda _: BROKEN))


def changed(report: Path, name: str, change: Callable[[str], str]) -> Path:
    path = report.with_name(f"{name}.html")
    path.write_text(change(report.read_text(encoding="utf-8")), encoding="utf-8")
    return path


def ink(picture: Image.Image) -> float:
    """How much of a picture is not its background: of its brightness, the spread."""
    return float(ImageStat.Stat(picture.convert("L")).stddev[0])


def brightness(picture: Image.Image) -> float:
    """Of the page around its content, from 0 to 255."""
    return float(ImageStat.Stat(picture.crop((0, 0, 8, picture.height)).convert("L")).mean[0])


def test_there_is_something_to_see(light: Visit, broken: Visit) -> None:
    assert light.picture.size == (1100, 1600)
    assert ink(light.picture) > 10 > ink(broken.picture)
    colours = light.picture.getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 100


def test_dark_is_dark_and_light_is_light(report: Path, light: Visit, dark: Visit) -> None:
    assert brightness(light.picture) > 200
    assert brightness(dark.picture) < 60
    assert ink(dark.picture) > 10
    # The same words in other colours: laid over each other, everything differs.
    difference = ImageChops.difference(light.picture, dark.picture).convert("L")
    assert ImageStat.Stat(difference).mean[0] > 100
    # Without its dark colours the page is bright for this reader, too: the preference alone darkens nothing.
    one_look = changed(report, "one look", lambda page: without_policy(page).replace(*_NO_DARK).replace(*_LIGHT_ALONE))
    assert brightness(visit(one_look, dark=True).picture) > 200


def test_the_browser_has_nothing_to_complain_of(light: Visit, dark: Visit, broken: Visit) -> None:
    assert [*light.console, *dark.console] == []
    assert any("nobodyDefinedThis" in line for line in broken.console)


def test_nothing_is_asked_of_the_network(light: Visit, dark: Visit, broken: Visit) -> None:
    assert [*light.requests, *dark.requests] == []
    assert broken.requests == ["http://tracker.example/pixel.png"]


def test_no_script_runs_and_nothing_is_loaded_whatever_is_smuggled_into_the_page(report: Path, light: Visit) -> None:
    """So what is seen is seen without scripts."""
    smuggled = changed(report, "smuggled", lambda page: page.replace("</main>", f"{_SMUGGLED}</main>"))
    found, let_in = visit(smuggled), visit(changed(smuggled, "let in", without_policy))
    assert found.requests == []
    assert sum("Content Security Policy" in line for line in found.console) >= 3
    assert ink(found.picture) == pytest.approx(ink(light.picture), rel=0.1)
    # Without the policy it is loaded, and the script takes everything away.
    assert set(let_in.requests) == {"http://tracker.example/pixel.png", "https://tracker.example/x.css"}
    assert ink(let_in.picture) < 1


def test_a_narrow_screen_scrolls_down_only(report: Path) -> None:
    rigid = "table { min-width: 900px } .scroll { overflow: visible }"
    (whole, window), (too_wide, same_window) = widths(
        changed(report, "narrow", lambda page: telling(without_policy(page))),
        changed(report, "rigid", lambda page: telling(without_policy(page).replace("</style>", f"{rigid}</style>"))),
    )
    assert window == same_window == NARROW
    assert whole <= window < too_wide


def telling(page: str) -> str:
    return page.replace("</body>", f"{_TELL}</body>")


def widths(*pages: Path) -> list[tuple[int, int]]:
    """Of a narrow frame around each page: how wide the page is, and how wide the frame is inside."""
    heard = "<title></title><script>onmessage = told => { document.title += told.data }</script>"
    frames = "".join(f'<iframe src="{page.as_uri()}" style="width: {NARROW}px; border: 0"></iframe>' for page in pages)
    title = re.search(r"<title>(.*?)</title>", document(changed(pages[0], "frames", lambda _: heard + frames)))
    assert title is not None
    told = {name: (int(whole), int(window)) for name, whole, window in re.findall(r"(\w+) (\d+) (\d+);", title[1])}
    return [told[page.stem] for page in pages]


def without_policy(page: str) -> str:
    """The page with leave to run a test's script; it looks the same."""
    return re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page, count=1)
