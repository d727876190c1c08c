from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from quark_eagle.errors import QuarkEagleError, StorageError, UsageError
from quark_eagle.reporting.plot import Curve, draw, plot, require_plottable

CURVES = (
    Curve(name="draft", num_drafts=4669, rates=(0.6, 0.3, None), intervals=((0.5, 0.7), (0.2, 0.4), None)),
    Curve(name="draft-fp8 at $5 or $6", num_drafts=4681, rates=(0.5, 0.2, 0.0), intervals=((0.4, 0.6), None, None)),
)
TITLE, NOTE = "Marginal acceptance: 64 prompts", "Bars: 90% intervals by conversation."


@pytest.fixture(autouse=True, scope="module")
def _matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: `make install` brings it")


def texts(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_equal_input_makes_equal_bytes_without_a_date_whatever_the_users_settings_are(suffix: str) -> None:
    import matplotlib

    first = draw(CURVES, TITLE, NOTE, suffix)
    with matplotlib.rc_context({"svg.hashsalt": "mine", "font.size": 30, "savefig.dpi": 33, "svg.fonttype": "path"}):
        assert draw(CURVES, TITLE, NOTE, suffix) == first
        assert matplotlib.rcParams["font.size"] == 30
    assert not re.search(rb"dc:date|20\d\d-\d\d-\d\d|Matplotlib v", first)


def test_it_says_what_it_shows_with_the_counts() -> None:
    found = texts(draw(CURVES, TITLE, NOTE, "svg"))
    for words in (TITLE, NOTE, "marginal acceptance", "position in the draft", "draft (4 669 drafts)"):
        assert words in found
    assert "draft-fp8 at $5 or $6 (4 681 drafts)" in found, "dollar signs are no mathematics"
    assert {"0", "1", "2"} <= set(found)


def test_the_drafts_are_told_apart_by_shape_and_by_colours_that_the_colour_blind_tell_apart() -> None:
    svg = draw(CURVES, TITLE, NOTE, "svg").decode().lower()
    assert "#0072b2" in svg
    assert "#d55e00" in svg
    markers = {
        re.sub(r"[-\d.\s]+", " ", path) for path in re.findall(r'<path id="m\w+" d="([^"]+)" style="stroke: #', svg)
    }
    assert len(markers) >= 2


def test_the_file_is_the_drawing_and_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "p.svg"
    plot(CURVES, TITLE, NOTE, path)
    assert path.read_bytes() == draw(CURVES, TITLE, NOTE, "svg")
    assert path.stat().st_mode & 0o777 == 0o644
    plot(CURVES, TITLE, NOTE, tmp_path / "p.PNG")
    assert (tmp_path / "p.PNG").read_bytes().startswith(b"\x89PNG")


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.svg"
    path.write_text("mine")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="No space left on device"):
        plot(CURVES, TITLE, NOTE, path)
    assert path.read_text() == "mine"
    assert [one.name for one in tmp_path.iterdir()] == ["p.svg"]


@pytest.mark.parametrize("name", ["p.pdf", "p", "p.svg.gz"])
def test_another_suffix_is_wrong_usage(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"ends in \.png or \.svg"):
        require_plottable(tmp_path / name, overwrite=True)


def test_an_existing_file_is_refused_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "p.svg"
    path.write_text("mine")
    with pytest.raises(UsageError, match="nothing existing is touched"):
        require_plottable(path, overwrite=False)
    require_plottable(path, overwrite=True)


def test_without_matplotlib_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(QuarkEagleError, match=r"pip install 'quark-eagle\[plot\]'"):
        require_plottable(tmp_path / "p.svg", overwrite=False)


def test_nothing_counted_is_an_empty_plot_and_no_crash() -> None:
    nothing = tuple(Curve(name=name, num_drafts=0, rates=(None,), intervals=(None,)) for name in "ab")
    assert draw((nothing[0], nothing[1]), TITLE, NOTE, "svg").startswith(b"<?xml")
