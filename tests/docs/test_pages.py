"""Links lead somewhere, and every command line on a page is one that the program takes."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from quark_eagle.cli.app import COMMANDS, command
from tests.docs import pages as module
from tests.docs.pages import (
    GENERATED,
    REPOSITORY,
    Shown,
    anchors,
    blocks,
    commands,
    inline_commands,
    links,
    name_of,
    pages,
)

TEXTS = {name_of(page): page.read_text(encoding="utf-8") for page in pages()}
BLOCK_LINES = [(name, shown) for name, text in TEXTS.items() for shown in commands(text)]
INLINE_LINES = [(name, line) for name, text in TEXTS.items() for line in inline_commands(text)]


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_to_a_file_and_a_heading(name: str) -> None:
    problems = []
    for link in links(TEXTS[name]):
        path, _, anchor = link.partition("#")
        target = (REPOSITORY / name).parent / path if path else REPOSITORY / name
        if not target.exists():
            problems.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            problems.append(f"{link}: no such heading")
    assert not problems, f"{name}: {problems}"


@pytest.mark.parametrize("name", [name for name in TEXTS if name.startswith("docs/") and name != "docs/README.md"])
def test_every_page_is_linked_from_another(name: str) -> None:
    page = (REPOSITORY / name).resolve()
    from_others = {
        ((REPOSITORY / other).parent / link.partition("#")[0]).resolve()
        for other, text in TEXTS.items()
        for link in links(text)
        if other != name
    }
    assert page in from_others


@pytest.mark.parametrize(("name", "shown"), BLOCK_LINES, ids=[f"{name}: {it.line}"[:90] for name, it in BLOCK_LINES])
def test_every_command_line_is_understood(name: str, shown: Shown) -> None:
    """Parsed by the real parsers, types and required parts too: what is renamed fails here, not at a reader's desk."""
    program, wanted, *arguments = shown.words
    assert program == "quark-eagle"
    if wanted.startswith("-") or "--help" in arguments:
        return
    assert wanted in COMMANDS, f"{name}: there is no command {wanted}"
    command(wanted).make_context(wanted, arguments)


@pytest.mark.parametrize(("name", "line"), INLINE_LINES, ids=[f"{name}: {line}"[:90] for name, line in INLINE_LINES])
def test_every_option_in_running_text_exists(name: str, line: str) -> None:
    _, wanted, *arguments = Shown(line=line, output=()).words
    assert wanted in COMMANDS, f"{name}: there is no command {wanted}"
    known = {option for parameter in command(wanted).params for option in parameter.opts} | {"--help"}
    assert {argument.partition("=")[0] for argument in arguments if argument.startswith("-")} <= known


@pytest.mark.parametrize("wanted", COMMANDS)
def test_every_command_is_shown_at_work(wanted: str) -> None:
    """On a page that somebody wrote: the reference is made of the command itself."""
    shown = {it.words[1] for name, it in BLOCK_LINES if not name.startswith(GENERATED)}
    assert wanted in shown


def test_a_command_line_ends_where_the_shell_ends_it() -> None:
    of_bash = "```bash\nquark-eagle gate a \\\n  --margin 0.02 > out.txt # why\n```\n"
    of_console = "```console\n$ quark-eagle run \\\n  b\nvllm serve \\\n    --port 1\n```\n"
    first, second = commands(of_bash + of_console)
    assert first.words == ["quark-eagle", "gate", "a", "--margin", "0.02"]
    assert second.words == ["quark-eagle", "run", "b"]
    assert second.output == ("vllm serve \\", "    --port 1"), "what it prints is not joined"


def test_every_block_says_its_language() -> None:
    bare = [name for name, text in TEXTS.items() if text.count("\n```") != 2 * len([*blocks(text, *LANGUAGES)])]
    assert not bare, f"each block begins with one of {LANGUAGES}"


LANGUAGES = ("bash", "console", "json", "python", "text", "toml", "yaml")


def test_the_reader_of_pages_reads_right() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", TEXTS)
def test_every_file_of_the_repository_that_is_named_is_there(name: str) -> None:
    named = re.findall(r"\b(?:quark_eagle|benchmarks|tests|tools|examples|calib|docs)/[\w./-]*\w", TEXTS[name])
    assert not [path for path in named if not (REPOSITORY / path).exists()]


@pytest.mark.parametrize("name", [*TEXTS, "CHANGELOG.md"])
def test_no_placeholder_is_left(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|TBD|FIXME|XXX)\b", text)


@pytest.mark.parametrize("name", TEXTS)
def test_no_page_names_a_place_of_its_author(name: str) -> None:
    assert not [place for place in ("/home/", "/Users/", f"{Path.home()}/") if place in TEXTS[name]]


def test_a_broken_link_and_an_unknown_option_are_found(tmp_path: Path) -> None:
    assert links("[a](gone.md) and [b](https://x.org) and `[c](code.md)`") == ["gone.md"]
    (line,) = commands("```bash\nquark-eagle gate parity.json --margn 0.01\n```\n")
    with pytest.raises(Exception, match="margn"):
        command("gate").make_context("gate", line.words[2:])
