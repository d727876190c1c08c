"""The `quark-eagle` command: its name, its commands, and the boundary around them.

A command is the function of its own name (`-` read as `_`) in `quark_eagle.cli.<name>`. It is imported when it is
needed, and those modules import the heavy parts (torch, Quark, transformers) inside the function, so that `--help` is
quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from quark_eagle.cli.exit_codes import run

COMMANDS = {
    "doctor": "Say what this machine has for the job, and what it lacks.",
    "recipe": "Print how to serve a target with a draft, and why so.",
    "inspect": "Show what a draft is and what FP8 would do with it.",
    "quantize": "Make an FP8 draft with AMD Quark: whole or not at all.",
    "verify": "Say what an engine will do with a checkpoint's modules.",
    "trace": "Run the target once; keep its path and hidden states.",
    "compare-schemes": "Hold several ways to quantize a draft against BF16.",
    "parity": "Count what two drafts get accepted, replayed or served.",
    "gate": "Decide whether the FP8 draft may ship; the exit code says.",
    "explain": "Show where acceptance was lost, down to the tokens.",
    "throughput": "Measure tokens per second with no draft, BF16 and FP8.",
    "plan-prompts": "Say how many conversations a margin needs.",
    "export-onnx": "Write the draft step as ONNX, checked against the draft.",
    "release": "Make what is published: card, report, evidence, signature.",
    "verify-release": "Check that a bundle is as it was released, offline.",
    "run": "Run a whole job as one file; skip what is done already.",
}
"""Every command and its line in `quark-eagle --help`, in the order of the work."""

NEEDS_NO_ARGUMENT = {"doctor"}
"""Commands that have an answer when nothing is given; the others print their help."""


def command(name: str) -> TyperCommand:
    """The Typer command made of the function of its name in `quark_eagle.cli.<name>`."""
    function = name.replace("-", "_")
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, short_help=COMMANDS[name], no_args_is_help=name not in NEEDS_NO_ARGUMENT)(
        getattr(import_module(f"quark_eagle.cli.{function}"), function)
    )
    made = typer.main.get_command(single)
    assert isinstance(made, TyperCommand)  # what a Typer app of one command is
    return made


class Commands(TyperGroup):
    """The group: commands are loaded when asked for, and errors end at one boundary."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the work, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """The command of this name, imported now."""
        return command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of commands, for which none needs to be imported."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Parse and run, inside the boundary that turns errors into exit codes."""
        with run():
            return super().main(args, *rest, **extra)


# Plain help: rich's panels would double the time of --help (0.13 s against 0.30 s on a slow core).
app = typer.Typer(
    name="quark-eagle",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from quark_eagle import __version__

        typer.echo(f"quark-eagle {__version__}")
        raise typer.Exit


@app.callback()
def _quark_eagle(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Quantize an Eagle3 draft to FP8, check what an engine will make of it, and measure what acceptance it keeps."""


def main() -> None:
    """The console script."""
    app(prog_name="quark-eagle")
