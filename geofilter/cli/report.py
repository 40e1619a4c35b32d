"""`geofilter report`: where the page of the last cut is, and its tokens shaded."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.cli.options import PER_CALL, AsJson, Command, Quiet, RunArg, open_run, publish
from geofilter.cli.output import note, notifier, print_json, say
from geofilter.cli.progress import loading_libraries
from geofilter.cli.settings import with_settings
from geofilter.errors import InputError
from geofilter.files import from_json

if TYPE_CHECKING:
    from geofilter.run.store import Run


app = typer.Typer()


@app.command(cls=Command, epilog="Example: geofilter report --open")
@with_settings
def report(
    ctx: typer.Context,
    run: RunArg = None,
    shade: Annotated[
        int, typer.Option(help="Shade the tokens of the N highest removed rows by their part of the score.")
    ] = 0,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in a browser."), PER_CALL] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Where the report of the last cut is; --json prints its content.

    --shade runs the model again on the rows it shades and writes the report anew.
    """
    from geofilter.report.last import cut_record, doubts, report_of, scored_anew
    from geofilter.report.plain import replaced_said

    opened = open_run(run, inputs=shade > 0)
    record = cut_record(opened)
    if record is None:
        again = f"geofilter filter {shlex.quote(opened.called)} --drop 10%"
        raise InputError(f"{opened.called}: not cut yet; run {again} first")
    if shade < 0:
        raise InputError(f"--shade {shade}: give the number of rows to shade")
    if shade:
        shaded(opened, shade, quiet)
        publish(opened)
        record = cut_record(opened) or record
    if scored_anew(opened, record):
        note("the run has been scored anew since this report; geofilter filter writes one of its scores now")
    for doubt in doubts(opened, record):
        note(f"note: {doubt}")
    page, written = report_of(opened, record, "html"), report_of(opened, record).read_text("utf-8")
    for text in replaced_said(from_json(written)):
        note(text)
    if as_json:
        print_json(written.rstrip("\n"))
    else:
        say(str(page))
    if open_page:
        typer.launch(str(page))


def shaded(opened: Run, most: int, quiet: bool) -> list[Path]:
    """Make the report of a run's last cut again, with tokens shaded, and return its pages; `most`: removed rows."""
    from geofilter.report.write import write_shaded

    with loading_libraries(quiet):
        from geofilter.scanning.explain import shade

    pages, n = write_shaded(opened, most, lambda run, rows: shade(run, rows, notifier(quiet)))
    if not quiet:
        note(f"shaded the tokens of {n} rows")
    return pages
