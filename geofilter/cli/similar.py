"""`geofilter similar`: the rows that are about the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geofilter.cli.options import PER_CALL, AsJson, Command, Quiet, RunArg, open_run
from geofilter.cli.output import note, notifier, print_json, say
from geofilter.cli.progress import loading_libraries
from geofilter.cli.row import position_of
from geofilter.cli.settings import with_settings
from geofilter.errors import InputError
from geofilter.text import counted, one_line

app = typer.Typer()

SHOWN = 100
"""characters of a row's text on a line"""


@app.command(cls=Command, epilog="Example: geofilter similar --row '#1' --count 10")
@with_settings
def similar(
    ctx: typer.Context,
    run: RunArg = None,
    row: Annotated[
        str | None,
        typer.Option(help="Line in the input, from 1; or '#3': the row with the third highest score."),
        PER_CALL,
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="A text, read as the response of a row; runs the model."), PER_CALL
    ] = None,
    count: Annotated[int, typer.Option(help="Rows shown.", min=1)] = 20,
    file: Annotated[str | None, typer.Option(help="Input file, when the run has several."), PER_CALL] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The rows that are about the same as a row, or as a text, the most similar one first."""
    from geofilter.groups.similar import similar as search
    from geofilter.run.vectors import required

    if (row is None) == (text is None):
        raise InputError("give either --row or --text, for instance --row '#1'")
    opened = open_run(run)
    vectors = required(opened)
    if text is not None:
        with loading_libraries(quiet):
            from geofilter.scanning.text import text_vector

        position, query = None, text_vector(opened, vectors, text, notifier(quiet))
    else:
        position = position_of(opened, row or "", file)
        query = vectors.rows.read(position, position + 1)[0].astype("float32")
    found = search(opened, vectors, query, count, position)
    if as_json:
        print_json({"recall": found.recall, "rows": found.rows})
        return
    several = len(opened.manifest["data"]) > 1
    for of in found.rows:
        place = f"{Path(of['file']).name}:{of['line']}" if several else f"line {of['line']}"
        say(f"{of['similarity']:6.3f}  #{of['rank']:<7} {of.get('difference', of['score']):6.2f}  "
            f"{one_line(place):<16} {one_line(of['text'])[:SHOWN]}")  # fmt: skip
    if found.recall is not None:
        note(f"searched with an index: it finds {found.recall:.1%} of the nearest {counted(count, 'row')}")
