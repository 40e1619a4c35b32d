"""`geofilter replace`: put new answers in the places of removed ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geofilter.cli.options import OWN_TABLE, PER_CALL, AsJson, Command, Quiet, RunArg, open_run, out_place, publish
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
        typer.Option(
            help="File, or a folder or URL for all inputs; by default NAME.replaced beside the data, in its format.",
            parser=out_place,
            metavar="PATH",
        ),
        OWN_TABLE,
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the data with the rows that the last cut removed answered anew, in their places. Loads no model.

    Rows that stay keep their bytes and their order, and each file its format; removed rows without an answer are left
    out and counted. The report of the cut says so too.
    """
    from geofilter.answers.replace import replace as put_back
    from geofilter.run.mirror import behind
    from geofilter.stores import Store

    opened = open_run(run)
    done = put_back(opened, answers, out)
    if out is not None and (mirror := behind(out)) is not None:
        store = Store(mirror.url)
        for one in done:
            written = Path(one.output)
            store.publish(written, written.name)
            one.output = store.url_of(written.name)
    publish(opened)
    if as_json:
        print_json({"run": opened.called, "files": [one.to_json() for one in done]})
        return
    say = notifier(quiet)
    for one in done:
        for text in one.text():
            say(text)
