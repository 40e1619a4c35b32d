"""The command line: every command by its name, and errors as one line with an exit code."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from geofilter.cli import (
    bank,
    bank_name,  # noqa: F401, adds its command to those of bank
    compare,
    demo,
    evaluate,
    explain,
    filter,  # noqa: A004
    gate,
    judge,
    label,
    merge,
    replace,
    report,
    runs,
    sae,
    scan,
    similar,
    target,
    trial,
    verify,
)
from geofilter.cli.edge import carried, guarded
from geofilter.cli.output import say
from geofilter.cli.trust import app as trust
from geofilter.errors import EXIT_CODES
from geofilter.version import __version__


class Root(TyperGroup):
    """All commands; what Typer would end the process for comes to `edge.guarded` as it is."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """What prints help and the version."""
        with carried():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """What runs a command."""
        with carried():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find and remove the fine-tuning rows whose SAE features lie closest to a model's toxic features.",
    epilog=f"Exit codes: {', '.join(f'{code} {means}' for code, means in EXIT_CODES.items())}.",
)

for module in (
    scan,
    merge,
    filter,
    replace,
    demo,
    explain,
    similar,
    compare,
    bank,
    report,
    runs,
    target,
    label,
    gate,
    evaluate,
    judge,
    verify,
    trial,
):
    app.add_typer(module.app, name="bank" if module is bank else None)
app.add_typer(sae.app, name="sae")
app.add_typer(trust, name="settings")


def main() -> None:
    """Run the command line in this process, whose signals and streams stay as they are; see `process.run`.

    Raises:
        SystemExit: always, with the exit code.
    """
    raise SystemExit(guarded(lambda: _command()()))


@cache
def _command() -> Any:
    """What Typer makes of all commands; once, as a program may call `main` often."""
    return typer.main.get_command(app)


def _version(show: bool) -> None:
    if show:
        say(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
