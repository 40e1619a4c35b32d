"""`geofilter gate`: the step of a CI job that a bad data drop must not pass."""

from __future__ import annotations

from typing import Annotated

import typer

from geofilter.cli.options import AsJson, Command, Quiet, RunArg, StepSummary, open_run
from geofilter.cli.output import note, print_json, print_table, summary_file
from geofilter.cli.settings import taken_from_file, with_settings
from geofilter.config import FLAGGED, MAX_FLAGGED

app = typer.Typer()


@app.command(cls=Command, epilog="Example: geofilter gate --threshold 0.99 --max-flagged 5%")
@with_settings
def gate(
    ctx: typer.Context,
    run: RunArg = None,
    threshold: Annotated[
        float, typer.Option(help="Percentile of ordinary chat from which on a row is flagged.")
    ] = FLAGGED,
    max_flagged: Annotated[str, typer.Option(help="Rows that may be flagged: 5% of them, or 500.")] = MAX_FLAGGED,
    by: Annotated[
        str | None, typer.Option(help="Field of the rows, source for instance: each of its values must pass alone.")
    ] = None,
    max_quarantined: Annotated[int, typer.Option(help="Rows that may have been left unscored.")] = 0,
    max_truncated: Annotated[
        int | None,
        typer.Option(
            help="Rows that may be longer than --max-tokens, or have response tokens that were not read; any number "
            "unless given.",
            show_default=False,
        ),
    ] = None,
    require_power: Annotated[
        bool, typer.Option("--require-power", help="Do not pass a run on which no bank is said to react.")
    ] = False,
    step_summary: StepSummary = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Exit with 1 when more rows of a scanned data set are flagged than may be; each input file is checked too.

    Of ordinary chat about 1 % lies above the 99th percentile under each bank, so about 2 % with the two built-in ones.
    """
    from geofilter.cut.gate import check, markdown, table, text
    from geofilter.files import append

    summary_file(step_summary)  # before anything is read
    opened, taken = open_run(run), taken_from_file(ctx)
    summary = summary_file(step_summary, opened.manifest["data"])
    verdict = check(
        opened, threshold, max_flagged, by=by, max_quarantined=max_quarantined, require_power=require_power,
        max_truncated=max_truncated,
        settings=None if taken is None else {"file": taken.name, "values": taken.values},
    )  # fmt: skip
    if summary is not None:
        append(summary, markdown(verdict))
    if as_json:
        print_json(verdict)
    elif not quiet:
        print_table("", *table(verdict))
    note(text(verdict))
    if not verdict["passed"]:
        raise typer.Exit(1)
