"""`geofilter scan`: encode and score every row."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.cli.options import AsJson, Command, Offline, Quiet, Verbose, run_place
from geofilter.cli.output import note, notifier, paragraph, print_json, say
from geofilter.cli.progress import progress
from geofilter.cli.settings import typed_options, with_settings
from geofilter.config import ROWS, RUN, ScanConfig
from geofilter.errors import RunError

if TYPE_CHECKING:
    from geofilter.report.document import Verdict
    from geofilter.run.store import Run

app = typer.Typer()


@app.command(cls=Command, epilog="Example: geofilter scan data.jsonl --model smollm2-135m")
@with_settings
def scan(
    ctx: typer.Context,
    data: Annotated[
        list[str],
        typer.Argument(
            help="JSONL, a JSON array, CSV or TSV, also packed, Parquet or Arrow; patterns; URLs; - for standard "
            "input; a folder of save_to_disk; org/name or org/name@revision for a data set of the Hugging Face hub."
        ),
    ],
    config: ScanConfig,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run folder, or a URL of one; by default .geofilter/<data>-<fingerprint>.",
            parser=run_place,
            metavar="PATH",
            rich_help_panel=RUN,
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of a data set; of the hub train when left out.", rich_help_panel=ROWS)
    ] = None,
    data_config: Annotated[
        str | None, typer.Option(help="Of a data set of the hub that has several.", rich_help_panel=ROWS)
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Only show what would be scored of the rows, by shape; loads no model.",
            rich_help_panel=ROWS,
        ),
    ] = False,
    offline: Offline = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Encode and score every row; write a run folder that filter, report and explain read.

    Other data: geofilter scan org/name --split test, or geofilter scan 'part-*.jsonl.zst' more.parquet --fields
    prompt=question,response=answer
    """
    from geofilter.cli.filtered import STYLE
    from geofilter.places import refuse_output
    from geofilter.rows.gather import gather
    from geofilter.run.banks import exclusions_said
    from geofilter.run.told import reading_said

    if run is not None:
        refuse_output(run, "--run", kind="run")
    files, origins = gather(data, split=split, config=data_config, offline=offline, notify=notifier(quiet))
    config = replace(config, data=files, origins=origins, typed=typed_options(ctx))
    if check:
        show_rows(config, as_json)
        return
    done = run_scan(config, run, offline, quiet)
    manifest = done.manifest
    if as_json:
        print_json({"run": done.called, **manifest})
        return
    c = manifest["counts"]
    found = _found(done)
    if found:
        paragraph(found["sentence"], STYLE[found["level"]])
        for text in found["why"] if verbose else ():
            paragraph(text)
    passed = f", {c['passed_over']:,} passed over" if c["passed_over"] else ""
    note(f"{c['rows']:,} rows: {c['scored']:,} scored, {c['quarantined']:,} quarantined{passed}")
    for text in (*reading_said(c, manifest["remarks"], manifest["encoding"]), *exclusions_said(manifest["banks"])):
        note(text)
    note(f"run: {done.called}")
    if found:
        paragraph(f"next: {found['action']}")
        if found["command"]:
            note(f"      {found['command']}")
    note(f"to cut: geofilter filter {shlex.quote(done.called) + ' ' if run else ''}--drop 10%")


def _found(run: Run) -> Verdict | None:
    """What there is to say of a run; nothing, but why, where what was labelled in it before is damaged."""
    from geofilter.report.content import before_any_cut

    try:
        return before_any_cut(run)
    except RunError as error:  # of labels: the scan itself is done
        note(f"note: {error}")
        return None


def show_rows(config: ScanConfig, as_json: bool) -> None:
    """Print what would be scored of the rows."""
    from geofilter.cli.checked import lines
    from geofilter.rows.check import check_rows
    from geofilter.rows.gather import refuse_twice
    from geofilter.rows.records import check_columns

    refuse_twice(config.data)
    paths = [Path(path) for path in config.data]
    check_columns(paths, config.reading, config.limit)
    checked = check_rows(paths, config.reading, config.limit)
    if as_json:
        print_json(checked.to_json())
        return
    for line in lines(checked):
        say(line)


def run_scan(config: ScanConfig, run: Path | None, offline: bool, quiet: bool) -> Run:
    """Scan with a progress bar; an interrupt ends the command."""
    notify = notifier(quiet)
    try:
        with progress("scanning", quiet) as bar:
            from geofilter.scanning.scan import scan as encode_and_score

            bar.waiting("loading the model")
            return encode_and_score(
                config, run, offline=offline, notify=notify, started=bar.started, progress=bar.advance,
                expected=bar.expect,
            )  # fmt: skip
    except KeyboardInterrupt:
        note("geofilter: interrupted; the same command goes on where it stopped")
        raise typer.Exit(130) from None
