"""`geofilter gate`: the step of a CI job that a bad data drop must not pass."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.cli.options import (
    OUTPUT,
    OWN_TABLE,
    AsJson,
    Command,
    Quiet,
    RunArg,
    StepSummary,
    open_run,
    run_place,
)
from geofilter.cli.output import job_commands, note, print_json, print_table, say, summary_file
from geofilter.cli.settings import taken_from_file, with_settings
from geofilter.config import FLAGGED, MAX_FLAGGED, MIN_ROWS
from geofilter.errors import InputError
from geofilter.files import append, atomic, write_json
from geofilter.places import refuse_output

if TYPE_CHECKING:
    from geofilter.cut.gate_verdict import GateVerdict
    from geofilter.run.store import Run

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
    min_rows: Annotated[
        int,
        typer.Option(help="With --by: values of fewer rows are not judged by their share alone, but together."),
    ] = MIN_ROWS,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="An accepted earlier run: only rows that it does not have are counted. Named like RUN.",
            parser=run_place,
            metavar="RUN",
        ),
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
    annotations: Annotated[
        bool,
        typer.Option(
            "--annotations",
            help="Have GitHub show the highest flagged rows at their lines, of a gate that is not passed.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    junit: Annotated[
        Path | None, typer.Option(help="File for the verdict as JUnit XML.", rich_help_panel=OUTPUT), OWN_TABLE
    ] = None,
    sarif: Annotated[
        Path | None,
        typer.Option(help="File for the highest flagged rows as SARIF 2.1.0.", rich_help_panel=OUTPUT),
        OWN_TABLE,
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Exit with 1 when more rows of a scanned data set are flagged than may be; each input file is checked too.

    Of ordinary chat about 1 % lies above the 99th percentile under each bank, so about 2 % with the two built-in ones.
    """
    from geofilter.cut.gate import check
    from geofilter.cut.gate_text import markdown, row_commands, row_lines, table, text

    summary_file(step_summary)  # before anything is read
    opened, taken = open_run(run), taken_from_file(ctx)
    summary = summary_file(step_summary, opened.manifest["data"])
    _refuse_files(opened, junit, sarif)
    verdict = check(
        opened, threshold, max_flagged, by=by, min_rows=min_rows, baseline=_earlier(baseline),
        max_quarantined=max_quarantined, require_power=require_power, max_truncated=max_truncated,
        settings=None if taken is None else {"file": taken.name, "values": taken.values},
    )  # fmt: skip
    _write_files(verdict, opened, junit, sarif)
    if summary is not None:
        append(summary, markdown(verdict))
    if as_json:
        print_json(verdict)
    elif not quiet:
        print_table("", *table(verdict))
        if verdict["highest"]:
            say("highest flagged rows:")
        for line in row_lines(verdict):
            say(line)
    if annotations:  # on stderr: the runner reads both streams, and JSON has the other to itself
        job_commands(row_commands(verdict, _root()))
    note(text(verdict))
    if not verdict["passed"]:
        raise typer.Exit(1)


def _earlier(baseline: Path | None) -> Run | None:
    """The run that a baseline is, named where it was not given as a folder."""
    from geofilter.run.find import named

    if baseline is None:
        return None
    found = named(baseline, Path.cwd(), note)
    if found.path != baseline:
        note(f"baseline: {found.path}")
    return found


def _refuse_files(run: Run, junit: Path | None, sarif: Path | None) -> None:
    """Refuse places that must not be written, before the rows are judged."""
    inputs = [Path(info["path"]) for info in run.manifest["data"]]
    for option, path in (("--junit", junit), ("--sarif", sarif)):
        if path is not None:
            refuse_output(path, option, inputs)
    if junit is not None and sarif is not None and junit.resolve() == sarif.resolve():
        raise InputError(f"--sarif {sarif}: is the file of --junit; give another place")


def _write_files(verdict: GateVerdict, run: Run, junit: Path | None, sarif: Path | None) -> None:
    if junit is None and sarif is None:
        return
    from geofilter.cut import gate_files

    if junit is not None:
        with atomic(junit, run.mode) as handle:
            handle.write(gate_files.junit(verdict))
    if sarif is not None:
        write_json(sarif, gate_files.sarif(verdict, _root()), run.mode)


def _root() -> Path:
    """Of the repository: where GitHub has checked it out, else the working folder."""
    return Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).absolute()
