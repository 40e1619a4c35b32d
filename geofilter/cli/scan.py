"""`geofilter scan`: encode and score every row."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.cli.options import PER_CALL, AsJson, Command, Offline, Quiet, Verbose, one_of, run_place
from geofilter.cli.output import note, notifier, paragraph, print_json, say
from geofilter.cli.progress import progress
from geofilter.cli.settings import typed_options, with_settings
from geofilter.config import ROWS, RUN, ScanConfig
from geofilter.errors import InputError, RunError
from geofilter.scanning.spread import ENGINES, HERE, LOCAL, Part, Spread

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
    shard: Annotated[
        str | None,
        typer.Option(
            help="Make only this part, 3/8 for the third of eight, of a run that several processes share; see "
            "`geofilter merge`.",
            metavar="K/N",
            rich_help_panel=RUN,
        ),
        PER_CALL,
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="local, or ray: workers on one machine or many, a model in each. The results are the same.",
            autocompletion=one_of(*ENGINES),
            rich_help_panel=RUN,
        ),
        PER_CALL,
    ] = LOCAL,
    workers: Annotated[
        int | None,
        typer.Option(help="Of --engine ray; by default one for each GPU, or else one.", rich_help_panel=RUN),
        PER_CALL,
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of --engine ray: auto, or HOST:PORT, for a cluster that this machine belongs to; by default Ray is "
            "started for the scan.",
            rich_help_panel=RUN,
        ),
        PER_CALL,
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
    from geofilter.places import refuse_output
    from geofilter.rows.gather import gather

    if run is not None:
        refuse_output(run, "--run", kind="run")
    files, origins = gather(data, split=split, config=data_config, offline=offline, notify=notifier(quiet))
    config = replace(config, data=files, origins=origins, typed=typed_options(ctx))
    if check:
        show_rows(config, as_json)
        return
    spread = Spread(engine, workers, address)
    part = None if shard is None else _part(shard, run, spread)
    done = run_scan(config, run, offline, quiet, spread, part)
    say_scanned(done, named=run is not None, verbose=verbose, as_json=as_json)


def _part(text: str, run: Path | None, spread: Spread) -> Part:
    """The part that --shard names.

    Raises:
        InputError: it is none, or does not go with the other options.
    """
    if run is None:
        raise InputError(f"--shard {text}: its run is shared by all parts; name its folder with --run")
    if spread.engine != LOCAL:
        raise InputError(f"--shard {text}: --engine {spread.engine} divides the shards itself; leave one of them out")
    return Part.parse(text)


def say_scanned(done: Run, *, named: bool, verbose: bool, as_json: bool) -> None:
    """Print what a scan has found.

    Args:
        named: the run's folder was given.
    """
    manifest = done.manifest
    if not manifest["complete"]:
        if as_json:
            print_json({"run": done.called, **manifest})
        note(f"run: {done.called}")
        note(f"this part is done, others are missing; when they are there: geofilter merge {shlex.quote(done.called)}")
        return
    from geofilter.cli.filtered import STYLE
    from geofilter.run.banks import exclusions_said
    from geofilter.run.told import reading_said

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
    note(f"to cut: geofilter filter {shlex.quote(done.called) + ' ' if named else ''}--drop 10%")


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
    checked = check_rows(paths, config.reading, config.limit, both_sides=config.pairs == "difference")
    if as_json:
        print_json(checked.to_json())
        return
    for line in lines(checked):
        say(line)


def run_scan(
    config: ScanConfig,
    run: Path | None,
    offline: bool,
    quiet: bool,
    spread: Spread = HERE,
    part: Part | None = None,
) -> Run:
    """Scan with a progress bar; an interrupt ends the command.

    Args:
        part: make only this part; then `run` is given.
    """
    notify = notifier(quiet)
    try:
        with progress("scanning", quiet) as bar:
            from geofilter.scanning.parts import scan_part
            from geofilter.scanning.scan import scan as encode_and_score

            bar.waiting("loading the model")
            if part is None or run is None:
                scan_it = partial(encode_and_score, config, run, spread=spread)
            else:
                scan_it = partial(scan_part, config, run, part)
            return scan_it(
                offline=offline, notify=notify, started=bar.started, progress=bar.advance, expected=bar.expect
            )
    except KeyboardInterrupt:
        note("geofilter: interrupted; the same command goes on where it stopped")
        raise typer.Exit(130) from None
