"""A page for each command: what it says of itself, its arguments and options, its exit codes and examples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import typer

from quark_eagle.cli.app import COMMANDS, app, command
from quark_eagle.cli.exit_codes import ExitCode
from tools.markdown import GENERATED_NOTE, escaped, listed, table

ALWAYS = (ExitCode.DONE, ExitCode.BUG, ExitCode.USAGE, ExitCode.FAILED, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
"""What every command may end with; 3 and 4 are answers, and the help of a command that gives them says so."""

_EXAMPLE = re.compile(r"(?:^|(?<=[.:] ))(?P<of>[A-Z][\w ]*): (?P<line>quark-eagle .+)$")
_ENTRY = re.compile(r"(?P<text>.*?)(?:(?:^|  )\[(?P<extra>[^\[\]]*)\])?", flags=re.DOTALL)


def command_pages() -> dict[str, str]:
    """`commands/README.md`, and a page for each command."""
    rows = [(f"[`{name}`]({name}.md)", escaped(line)) for name, line in COMMANDS.items()]
    index = "\n\n".join(
        (
            "# Commands",
            GENERATED_NOTE,
            "In the order of the work. Every command takes `--json` (one object on stdout, everything else on stderr) "
            "and `--help`; what a [number that it ends with](../exit-codes.md) means is the same for all.",
            table(("command", "in a sentence"), rows),
        )
    )
    return {"commands/README.md": index + "\n"} | {f"commands/{name}.md": command_page(name) for name in COMMANDS}


def command_page(name: str) -> str:
    """The page of one command."""
    made, program = command(name), typer.main.get_command(app)
    above = program.make_context("quark-eagle", [], resilient_parsing=True)
    context = made.make_context(name, [], parent=above, resilient_parsing=True)
    prose, examples = told(made.help or "")
    usage = " ".join(("quark-eagle", name, *made.collect_usage_pieces(context)))
    parts = [f"# quark-eagle {name}", GENERATED_NOTE, *map(escaped, prose), f"```text\n{usage}\n```"]
    if examples:
        shown = "\n".join(line if of == "Example" else f"# {of}\n{line}" for of, line in examples)
        parts += ["## Examples" if len(examples) > 1 else "## Example", f"```bash\n{shown}\n```"]
    for kind, heading in (("argument", "Arguments"), ("option", "Options")):
        rows = list(_rows(kind, made.get_params(context), context))
        if rows:
            parts += [f"## {heading}", table((kind, "what it is", "default"), rows)]
    codes = listed([str(int(code)) for code in exit_codes(prose)], "or")
    parts += ["## Exit codes", f"{codes}: [what each number means](../exit-codes.md)."]
    return "\n\n".join(parts) + "\n"


def told(help: str) -> tuple[list[str], list[tuple[str, str]]]:
    r"""A docstring's paragraphs, and the examples with which some of them end: (of what, the command line).

    >>> told("Make it.\n\nWhole or\nnot at all. Example: quark-eagle make X")
    (['Make it.', 'Whole or not at all.'], [('Example', 'quark-eagle make X')])
    """
    prose, examples = [], []
    for paragraph in help.split("\n\n"):
        line = " ".join(paragraph.split())
        found = _EXAMPLE.search(line)
        if found:
            examples.append((found["of"], found["line"]))
            line = line[: found.start()].rstrip()
        if line:
            prose.append(line)
    return prose, examples


def exit_codes(prose: Sequence[str]) -> list[ExitCode]:
    """What a command may end with: what all may, and the answers that its help names in a sentence about exits.

    >>> [int(code) for code in exit_codes(["It counts 4 things.", "Exits with 0, or with 3 if not."])]
    [0, 1, 2, 3, 5, 130, 143]
    """
    sentences = [it for paragraph in prose for it in re.split(r"(?<=\.) ", paragraph) if re.search(r"(?i)\bexit", it)]
    named = {int(number) for it in sentences for number in re.findall(r"(?<![\w.-])[0-9](?![\w.])", it + " ")}
    return sorted({*ALWAYS, *(code for code in ExitCode if int(code) in named)})


def exit_code_page() -> str:
    """`exit-codes.md`."""
    meanings = [(str(int(code)), escaped(code.meaning)) for code in ExitCode]
    found = {name: exit_codes(told(command(name).help or "")[0]) for name in COMMANDS}
    answers = [
        (f"[`{name}`](commands/{name}.md)", "yes", "yes" if ExitCode.INCONCLUSIVE in codes else "")
        for name, codes in found.items()
        if ExitCode.NO in codes
    ]
    parts = (
        "# Exit codes",
        GENERATED_NOTE,
        "A crash never reads like a verdict: 1 is left to Python's own uncaught exception and 2 to wrong usage, so "
        '"the answer is no" is 3 and "nothing could be decided" is 4.',
        table(("exit", "means"), meanings),
        "Every command may end with 0, 1, 2, 5, 130 and 143. The answer of these may be no, or open:",
        table(("command", "3: no", "4: inconclusive"), answers),
    )
    return "\n\n".join(parts) + "\n"


def _rows(kind: str, parameters: Sequence[object], context: object) -> Iterator[tuple[str, str, str]]:
    """(name, meaning, default) of the arguments or options, by what help says of them."""
    for parameter in parameters:
        record = parameter.get_help_record(context)  # type: ignore[attr-defined]
        if parameter.param_type_name != kind or record is None:  # type: ignore[attr-defined]
            continue
        name, entry = record
        name = name.replace(" range>", ">")
        found = _ENTRY.fullmatch(entry)
        assert found is not None  # it matches every text
        extras = (found["extra"] or "").split("; ") if found["extra"] else []
        default = next((it.removeprefix("default: ") for it in extras if it.startswith("default: ")), "")
        limits = [_limit(it) for it in extras if re.search(r"x[<>]|[<>]=?x", it)]
        text = " ".join((found["text"], *(f"({it})" for it in limits)))
        yield f"`{name}`".replace("|", "\\|"), escaped(text), "required" if "required" in extras else _code(default)


def _limit(range_: str) -> str:
    """A range as people write it.

    >>> _limit("x>=1"), _limit("1<=x<=16")
    ('at least 1', '1 to 16')
    """
    low, _, high = range_.partition("<=x<=")
    return f"{low} to {high}" if high else range_.replace("x>=", "at least ")


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""
