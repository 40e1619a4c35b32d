"""`geofilter filter`: cut a scanned data set."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.cli.options import OWN_TABLE, AsJson, Quiet, RunArg, StepSummary, open_run
from geofilter.cli.output import note, summary_file
from geofilter.cli.settings import with_settings
from geofilter.errors import InputError

if TYPE_CHECKING:
    from geofilter.cut.cut import Cut
    from geofilter.run.store import Run


app = typer.Typer()


@app.command(epilog="Example: geofilter filter --drop 10%")
@with_settings
def filter(  # noqa: A001 (the command's name)
    ctx: typer.Context,
    run: RunArg = None,
    drop: Annotated[str | None, typer.Option(help="Amount to remove: 10% of the scored rows, or 500 rows.")] = None,
    keep: Annotated[str | None, typer.Option(help="Amount to keep: 90% or a number of rows.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Remove rows from this percentile on, 0.99 for instance.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the kept rows, a folder for all outputs, or - for standard output."),
        OWN_TABLE,
    ] = None,
    removed: Annotated[Path | None, typer.Option(help="File for the removed rows."), OWN_TABLE] = None,
    step_summary: StepSummary = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Cut a scanned data set: kept, removed and quarantined rows and a report, beside the data. Loads no model."""
    cut, summary = _parse_cut(drop, keep, threshold), summary_file(step_summary)
    run_filter(open_run(run), cut, out, removed, summary=summary, as_json=as_json, quiet=quiet)


def run_filter(
    opened: Run, cut: Cut, out: Path | None, removed: Path | None, *, summary: Path | None, as_json: bool, quiet: bool
) -> None:
    """Cut a run and say what came of it."""
    from geofilter.cut.cut import Selection
    from geofilter.files import append
    from geofilter.report.content import Tally, build
    from geofilter.report.plain import summary as summarised
    from geofilter.report.write import write

    piped = str(out) == "-"
    if piped and (as_json or len(opened.manifest["data"]) > 1):
        why = (
            "--json is on standard output too; leave it out" if as_json else "the run has several inputs; give a folder"
        )
        raise InputError(f"--out -: {why}")
    with opened.lock():
        selection = Selection.of(opened, cut)
        tally = Tally()
        outputs = selection.write(opened.path if piped else out, removed, tally.add)
        made = build(selection, outputs, tally)
        pages = write(made)
    if summary is not None:
        append(summary, (opened.path / "report.md").read_text("utf-8"))
    if as_json:
        typer.echo(json.dumps(made.data, ensure_ascii=False))
        return
    if not quiet:
        for line in summarised(made.data):
            note(line)
        note("")
    for o in outputs:
        note(f"kept: {o.kept}\nremoved: {o.removed}\nquarantined: {o.quarantined}")
    note(f"report: {pages[0]}")
    if piped:
        with outputs[0].kept.open("rb") as kept:
            shutil.copyfileobj(kept, sys.stdout.buffer)


def _parse_cut(drop: str | None, keep: str | None, threshold: float | None) -> Cut:
    from geofilter.cut.cut import Cut

    if sum(x is not None for x in (drop, keep, threshold)) != 1:
        raise InputError("give exactly one of --drop, --keep and --threshold, for instance --drop 10%")
    if threshold is not None:
        return Cut.threshold(threshold)
    return Cut.parse(keep, keep=True) if keep is not None else Cut.parse(drop or "")
