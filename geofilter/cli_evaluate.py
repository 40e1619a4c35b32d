"""`geofilter evaluate`: a finished run against labels."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from geofilter.errors import InputError
from geofilter.options import AsJson, Quiet, inert, note, notifier, open_run

app = typer.Typer()


@app.command(epilog="Example: geofilter evaluate --labels label=misaligned")
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="Run folder; by default the newest under .geofilter/.")] = None,
    labels: Annotated[
        str,
        typer.Option(help="FIELD=VALUE[,VALUE] of the rows that are bad, or a JSONL file of {sha256, label}."),
    ] = ...,  # type: ignore[assignment]
    pair: Annotated[
        str | None, typer.Option(help="Field that names rows to be drawn together; by default pair, else the prompt.")
    ] = None,
    across: Annotated[
        list[Path] | None, typer.Option(help="Other labelled rows, to fit the text controls on; repeat for several.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Amount as for filter; repeat for several. Default: 10%, 25%, 50%.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; by default the run folder.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """How well the run's score finds rows that are labelled bad, beside controls and with intervals. Loads no model."""
    from geofilter.evidence import evaluate as evaluation
    from geofilter.evidence.shown import markdown, picture
    from geofilter.store import atomic, write_json

    opened = open_run(run)
    result = evaluation.evaluate(
        opened, labels, pair=pair, across=across or (), drops=drop or evaluation.DROPS, notify=notifier(quiet)
    )
    folder = out or opened.path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be made ({error.strerror}); give another folder") from None
    for name, text in (("evaluate.md", markdown(result)), ("evaluate.svg", picture(result))):
        with atomic(folder / name) as handle:
            # A file name may hold bytes that are not text.
            handle.write(text.encode("utf-8", "backslashreplace"))
    write_json(folder / "evaluate.json", result)
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
    else:
        _print(result)
    if not quiet:
        note(f"written: {folder / 'evaluate.json'}, evaluate.md and evaluate.svg")


def _print(result: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from geofilter.evidence import shown

    console = Console(width=None if sys.stdout.isatty() else 160)
    typer.echo(inert(result["verdict"]["text"]))
    typer.echo(inert(shown.summary(result)))
    head, *columns = shown.header(result)
    table = Table(head, box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name, justify="right")
    for kind, rows in shown.table(result):
        table.add_row(Text(kind, style="bold"))
        for cells in rows:
            table.add_row(Text(f"  {inert(cells[0])}"), *(Text(c) for c in cells[1:]))
        table.add_section()
    console.print(table)
    head_cells, rows = shown.cuts(result)
    table = Table(title="the run's score at each drop", title_justify="left", box=box.SIMPLE_HEAD)
    for name in head_cells:
        table.add_column(name, justify="right")
    for cells in rows:
        table.add_row(*(Text(c) for c in cells))
    console.print(table)
    for remark in shown.remarks(result):
        typer.echo(f"- {inert(remark)}")
