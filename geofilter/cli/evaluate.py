"""`geofilter evaluate`: a finished run against labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.cli.options import OWN_TABLE, AsJson, Command, Key, Quiet, RunArg, open_run, publish
from geofilter.cli.output import note, notifier, print_json, print_table, say
from geofilter.cli.settings import key_for, with_settings

if TYPE_CHECKING:
    from geofilter.evaluate.result import Evaluation
    from geofilter.run.store import Run

app = typer.Typer()


@app.command(cls=Command, epilog="Example: geofilter evaluate --labels label=misaligned")
@with_settings
def evaluate(
    ctx: typer.Context,
    labels: Annotated[
        str,
        typer.Option(help="FIELD=VALUE[,VALUE] of the rows that are bad, or a JSONL file of labels; see --key."),
    ],
    run: RunArg = None,
    key: Key = None,
    pair: Annotated[
        str | None, typer.Option(help="Field that names rows to be drawn together; by default pair, else the prompt.")
    ] = None,
    across: Annotated[
        list[Path] | None, typer.Option(help="Other labelled rows, to fit the text controls on; repeat for several.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Amount as for filter; repeat for several. Default: 10%, 25%, 50%.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; by default the run folder."), OWN_TABLE
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """How well the run's score finds rows that are labelled bad, beside controls and with intervals. Loads no model."""
    from geofilter.evaluate import evaluate as evaluation
    from geofilter.evaluate.tables import write

    opened = open_run(run)
    folder = out or opened.path
    if out is not None:
        _refuse(out, opened, labels, across or ())
    result = evaluation.evaluate(
        opened,
        labels,
        key=key_for(ctx, key, labels),
        pair=pair,
        across=across or (),
        drops=drop or evaluation.DROPS,
        notify=notifier(quiet),
    )
    write(result, folder)
    publish(opened)
    if as_json:
        print_json(result)
    else:
        _print(result)
    if not quiet:
        note(f"written: {folder / 'evaluate.json'}, evaluate.md and evaluate.svg")


def _refuse(out: Path, run: Run, labels: str, across: Sequence[Path]) -> None:
    """Refuse a folder where the results must not go, before anything is computed."""
    from geofilter.evaluate.tables import FILES
    from geofilter.places import refuse_output, refuse_outputs, same_place

    if not same_place(out, run.path):  # where they go by default
        refuse_output(out, "--out", kind="folder")
    read = [*(Path(f["path"]) for f in run.manifest["data"]), Path(labels), *across]
    refuse_outputs([out / name for name in FILES], "--out", read, named=False)


def _print(result: Evaluation) -> None:
    from geofilter.evaluate import tables

    say(result["verdict"]["text"])
    say(tables.summary(result))
    rows: list[list[str]] = []
    for kind, lines in tables.table(result):
        rows += [[kind], *([f"  {name}", *cells] for name, *cells in lines)]
    print_table("", tables.header(result), rows)
    print_table("the run's score at each drop", *tables.cuts(result))
    for remark in tables.remarks(result):
        say(f"- {remark}")
