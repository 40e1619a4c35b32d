"""The command line: every command by its name, and errors as one line with an exit code."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from geofilter.cli import bank, demo, evaluate, explain, filter, gate, judge, label, report, runs, scan, target, trial  # noqa: A004
from geofilter.errors import GeofilterError
from geofilter.text import inert
from geofilter.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find and remove the fine-tuning rows whose SAE features lie closest to a model's toxic features.",
    epilog="Exit codes: 0 done, 1 gate not passed, 2 bad usage or input, 3 target or bank not available or not "
    "matching, 4 run incomplete, locked or of another configuration, 130 interrupted (the run is kept).",
)

for module in (scan, filter, demo, explain, bank, report, runs, target, label, gate, evaluate, judge, trial):
    app.add_typer(module.app, name="bank" if module is bank else None)


def main() -> None:
    """Entry point: expected failures become one line on stderr and their exit code."""
    # File names may hold bytes that are not text; JSON reads the escapes as what they stand for.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except GeofilterError as error:
        # Paths and data can hold control characters; a terminal must not act on them.
        print(f"geofilter: error: {inert(str(error))}", file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None
    except OSError as error:  # of a disk that fails; what is expected of files is told of where they are read
        place = f"{error.filename}: " if error.filename else ""
        said = inert(f"{place}{error.strerror or error}; see to it, then run this again")
        print(f"geofilter: error: {said}", file=sys.stderr)  # noqa: T201
        raise SystemExit(GeofilterError.exit_code) from None


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
