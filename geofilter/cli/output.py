"""What commands print: notes on stderr, tables on stdout, a job's summary."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from geofilter.errors import InputError
from geofilter.files import json_text, silent
from geofilter.places import refuse_output
from geofilter.text import inert, inert_json, unheard, unheard_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from geofilter.run.manifest import InputFile


UNWRAPPED = 100_000
"""characters of a line where there is no terminal"""


def note(text: str) -> None:
    """A line on stderr; what a terminal or a CI job would act on, in data or in a bank's labels, is replaced."""
    typer.echo(unheard(inert(text)), err=True)


def job_commands(lines: Iterable[str]) -> None:
    """Lines on stderr that the runner of a CI job is to act on; what is foreign in them is escaped already."""
    for line in lines:
        typer.echo(inert(line), err=True)


def paragraph(text: str | Text, style: str = "", err: bool = True) -> None:
    """Text on stderr or stdout, wrapped at words where that is a terminal, else as it is, for whoever searches it.

    Args:
        text: a string, or styled text that is inert already.
        err: on stderr.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=err)
    if not console.is_terminal:
        console.width = UNWRAPPED
    _print(console, text if isinstance(text, Text) else Text(inert(text), style=style), err)


def _print(console: Console, what: Text | Table, err: bool) -> None:
    """Print what Rich lays out; only then is it known what each line begins with."""
    with console.capture() as laid_out:
        console.print(what)
    typer.echo(unheard(laid_out.get()), err=err, nl=False, color=console.color_system is not None)


def coloured(err: bool = True) -> bool:
    """Whether stderr, or stdout, shows styles."""
    return (sys.stderr if err else sys.stdout).isatty()


def say(text: str) -> None:
    """A line on stdout, likewise."""
    typer.echo(unheard(inert(text)))


def print_json(value: Any) -> None:
    """A line of JSON on stdout, or JSON that is text already; what a terminal or a CI job would act on is escaped."""
    typer.echo(unheard_json(inert_json(value if isinstance(value, str) else json_text(value))))


def verbatim(text: str) -> None:
    """A text of our own on stdout, as it is."""
    typer.echo(text, nl=False)


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout: first column left, the others right; wide enough for its text where stdout is no terminal.

    A row of one cell is the heading of those that follow.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # As Text: a string would be searched for Rich's own markup, which [names] in brackets look like.
    table = Table(title=Text(inert(title)) if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(head):
        table.add_column(Text(inert(name, keep="\n")), justify="right" if i else "left")
    for cells in rows:
        heading = len(cells) == 1 < len(head)
        if heading:
            table.add_section()
        table.add_row(*(Text(inert(c), style="bold" if heading else "") for c in cells))
    print_laid_out(table)


def print_laid_out(table: Table) -> None:
    """A table of Rich on stdout; its cells are inert already."""
    from rich.console import Console

    _print(Console(width=None if sys.stdout.isatty() else 160), table, err=False)


def notifier(quiet: bool) -> Callable[[str], None]:
    """`note`, or nothing when quiet; then the bars that pip, transformers and the hub draw are off too."""
    if not quiet:
        return note
    os.environ |= {"PIP_QUIET": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    return silent


def summary_file(wanted: bool, inputs: Iterable[InputFile] = ()) -> Path | None:
    """Where GitHub takes the job's summary from; None when it is not wanted.

    Args:
        inputs: of the run that is summarised.

    Raises:
        InputError: it is, and GitHub does not run the job, or it must not be added to.
    """
    if not wanted:
        return None
    named = os.environ.get("GITHUB_STEP_SUMMARY")
    if not named:
        raise InputError(
            "--step-summary: GITHUB_STEP_SUMMARY is not set; leave it out where GitHub does not run the job"
        )
    # A log that is added to may well be /dev/stdout, which shows it where no runner is.
    refuse_output(Path(named), "GITHUB_STEP_SUMMARY", [Path(f["path"]) for f in inputs], device=True)
    return Path(named)
