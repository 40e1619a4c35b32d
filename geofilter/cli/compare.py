"""`geofilter compare`: two scanned data sets beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geofilter.cli.options import OWN_TABLE, AsJson, Command, Quiet, open_run, run_place
from geofilter.cli.output import note, print_json, print_table, say
from geofilter.cli.settings import with_settings

app = typer.Typer()

FILES = ("compare.html", "compare.json", "compare.md")


@app.command(cls=Command, epilog="Example: geofilter compare runs/october runs/november --out changes")
@with_settings
def compare(
    ctx: typer.Context,
    first: Annotated[Path, typer.Argument(help="Run to compare with.", parser=run_place, metavar="RUN")],
    second: Annotated[Path, typer.Argument(help="Run whose rows may differ.", parser=run_place, metavar="RUN")],
    count: Annotated[int, typer.Option(help="Features that are listed.", min=1)] = 10,
    out: Annotated[
        Path | None, typer.Option(help=f"Folder for {', '.join(FILES)}; by default none is written."), OWN_TABLE
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """What differs between two scanned data sets: flagged rows, topics, groups, features. Loads no model."""
    from geofilter.compare.compare import compare as beside
    from geofilter.compare.said import html, markdown, notes, sides, tables
    from geofilter.files import json_text, make_folder, write_text
    from geofilter.places import refuse_output, refuse_outputs

    before, after = open_run(first), open_run(second)
    if out is not None:
        refuse_output(out, "--out", kind="folder")
        read = [Path(info["path"]) for run in (before, after) for info in run.manifest["data"]]
        refuse_outputs([out / name for name in FILES], "--out", read)
    found = beside(before, after, count)
    if out is not None:
        make_folder(out)
        contents = (html(found), json_text(found, indent=1) + "\n", markdown(found))
        for name, text in zip(FILES, contents, strict=True):
            write_text(out / name, text)
    if as_json:
        print_json(found)
        return
    say(found["sentence"])
    if quiet:
        return
    for text in sides(found):
        say(text)
    for title, head, rows in tables(found):
        print_table(title, head, rows)
    for text in notes(found):
        note(text)
    if out is not None:
        note(f"result: {', '.join(str(out / name) for name in FILES)}")
