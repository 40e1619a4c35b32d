"""`geofilter replace`: put new answers in the places of removed ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geofilter.cli.options import OWN_TABLE, PER_CALL, AsJson, Command, Quiet, RunArg, open_run
from geofilter.cli.output import notifier, print_json
from geofilter.cli.settings import with_settings

app = typer.Typer()


@app.command(cls=Command, epilog="Example: geofilter replace --answers answers.jsonl")
@with_settings
def replace(
    ctx: typer.Context,
    run: RunArg = None,
    *,
    answers: Annotated[
        Path,
        typer.Option(help="JSONL: lines of filter --prompts with their answers filled in, or {sha256, answer}."),
        PER_CALL,
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="File, or folder for several inputs; by default NAME.replaced.jsonl beside the data."),
        OWN_TABLE,
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the data with the rows that the last cut removed answered anew, in their places. Loads no model.

    Rows that stay keep their bytes and their order; removed rows without an answer are left out and counted.
    """
    from geofilter.answers.replace import replace as put_back

    opened = open_run(run)
    done = put_back(opened, answers, out)
    if as_json:
        print_json({"run": opened.called, "files": [one.to_json() for one in done]})
        return
    say = notifier(quiet)
    for one in done:
        for text in one.text():
            say(text)
