"""The command line: parse, call one function, render, exit. Imports nothing heavy until a command runs."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter import (
    cli_bank,
    cli_evaluate,
    cli_explain,
    cli_gate,
    cli_judge,
    cli_label,
    cli_report,
    cli_target,
    cli_trial,
)
from geofilter.config import BUILT_IN, DEFAULT_SCORER, SCORERS, Loading, TargetChoice
from geofilter.errors import GeofilterError, InputError
from geofilter.options import (
    OWN_TABLE,
    AsJson,
    ExcludeFeature,
    FieldNames,
    Offline,
    Quiet,
    RunArg,
    StepSummary,
    System,
    note,
    notifier,
    one_of,
    open_run,
    summary_file,
)
from geofilter.settings import with_settings
from geofilter.text import inert
from geofilter.version import __version__

if TYPE_CHECKING:
    from geofilter.config import ScanConfig
    from geofilter.cut import Cut
    from geofilter.store import Run


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find and remove the fine-tuning rows whose SAE features lie closest to a model's toxic features.",
    epilog="Exit codes: 0 done, 1 gate not passed, 2 bad usage or input, 3 target or bank not available or not "
    "matching, 4 run incomplete, locked or of another configuration, 130 interrupted (the run is kept).",
)

app.add_typer(cli_explain.app)

app.add_typer(cli_bank.app, name="bank")

app.add_typer(cli_report.app)

app.add_typer(cli_target.app)

app.add_typer(cli_label.app)

app.add_typer(cli_gate.app)

app.add_typer(cli_evaluate.app)

app.add_typer(cli_judge.app)

app.add_typer(cli_trial.app)


def main() -> None:
    """Entry point: expected failures become one line on stderr and their exit code."""
    # File names may hold bytes that are not text; JSON reads the escapes as what they stand for.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except GeofilterError as error:
        # Paths and data can hold control characters; a terminal must not act on them.
        print(f"geofilter: error: {inert(str(error))}", file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: geofilter scan data.jsonl --model smollm2-135m")
@with_settings
def scan(
    ctx: typer.Context,
    data: Annotated[
        list[str],
        typer.Argument(
            help="JSONL files, plain, .gz or .zst, or Parquet; patterns; - for standard input; org/name or "
            "org/name@revision for a data set of the Hugging Face hub."
        ),
    ],
    choice: TargetChoice,
    loading: Loading,
    bank: Annotated[
        list[str] | None,
        typer.Option(
            help="Built-in bank or bank folder; repeat for several. Default: all built-in.",
            autocompletion=one_of(*BUILT_IN),
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; by default .geofilter/<data>-<fingerprint>.")] = None,
    scorer: Annotated[
        str,
        typer.Option(
            help="ridge, contrast, nearest, activation, dense, or the controls length and random.",
            autocompletion=one_of(*SCORERS),
        ),
    ] = DEFAULT_SCORER,
    exclude_feature: ExcludeFeature = None,
    fields: FieldNames = None,
    split: Annotated[str | None, typer.Option(help="Of a data set of the hub; train when left out.")] = None,
    data_config: Annotated[str | None, typer.Option(help="Of a data set of the hub that has several.")] = None,
    system: System = "keep",
    max_tokens: Annotated[int, typer.Option(help="Tokens of one row; a longer one is cut, its response kept.")] = 1024,
    limit: Annotated[int | None, typer.Option(help="Scan only the first N rows of each file.")] = None,
    shard_rows: Annotated[int, typer.Option(help="Rows in a shard, the unit of resume.")] = 1000,
    on_error: Annotated[
        str,
        typer.Option(
            help="Rows that cannot be scored: quarantine or fail.", autocompletion=one_of("quarantine", "fail")
        ),
    ] = "quarantine",
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Encode and score every row; write a run folder that filter, report and explain read.

    Other data: geofilter scan org/name --split test, or geofilter scan 'part-*.jsonl.zst' more.parquet --fields
    prompt=question,response=answer
    """
    from geofilter.config import ScanConfig
    from geofilter.fields import parse
    from geofilter.run_banks import left_out
    from geofilter.sources import gather

    named = parse(fields)
    files, origins = gather(data, split=split, config=data_config, offline=offline, notify=notifier(quiet))
    config = ScanConfig(
        data=files, target=choice, loading=loading, banks=tuple(bank or ()), scorer=scorer,
        exclude_features=tuple(exclude_feature or ()), system=system, max_tokens=max_tokens, limit=limit,
        shard_rows=shard_rows, on_error=on_error, fields=named, origins=origins,
    )  # fmt: skip
    done = _run_scan(config, run, offline, quiet)
    manifest = done.manifest
    if as_json:
        typer.echo(json.dumps({"run": str(done.path), **manifest}, ensure_ascii=False))
        return
    c = manifest["counts"]
    note(manifest["headline"])
    note(
        f"{c['rows']:,} rows: {c['scored']:,} scored ({c['truncated']:,} cut to length), "
        f"{c['quarantined']:,} quarantined"
    )
    for text in left_out(manifest["banks"]):
        note(text)
    note(f"run: {done.path}")
    note(f"next: geofilter filter {shlex.quote(str(done.path)) + ' ' if run else ''}--drop 10%")


def _run_scan(config: ScanConfig, run: Path | None, offline: bool, quiet: bool) -> Run:
    from geofilter.scanning import scan as run_scan

    try:
        with _progress(quiet) as (started, advance):
            return run_scan(config, run, offline=offline, notify=notifier(quiet), started=started, progress=advance)
    except KeyboardInterrupt:
        note("geofilter: interrupted; the same command goes on where it stopped")
        raise typer.Exit(130) from None


@contextmanager
def _progress(quiet: bool) -> Iterator[tuple[Callable[[int, int], None], Callable[[int, int], None]]]:
    """A progress bar with rows/s, tokens/s and time left on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("scanning"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True), disable=quiet or not sys.stderr.isatty(), transient=True,
    )  # fmt: skip
    task = bar.add_task("scan", total=None, rate="")
    state = {"start": 0.0, "rows": 0, "tokens": 0}

    def started(total: int, done: int) -> None:
        state["start"] = bar.get_time()
        bar.start()
        bar.update(task, total=total, completed=done)

    def advance(rows: int, tokens: int) -> None:
        state["rows"] += rows
        state["tokens"] += tokens
        spent = max(1e-6, bar.get_time() - state["start"])
        rate = f"{state['rows'] / spent:.1f} rows/s {state['tokens'] / spent:,.0f} tokens/s"
        bar.update(task, advance=rows, rate=rate)

    try:
        yield started, advance
    finally:
        bar.stop()


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
    _filter(open_run(run), cut, out, removed, summary=summary, as_json=as_json, quiet=quiet)


def _filter(
    opened: Run, cut: Cut, out: Path | None, removed: Path | None, *, summary: Path | None, as_json: bool, quiet: bool
) -> None:
    from geofilter.cut import Selection
    from geofilter.files import append
    from geofilter.report.content import Tally, build
    from geofilter.report.text import summary as summarised
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
    from geofilter.cut import Cut

    if sum(x is not None for x in (drop, keep, threshold)) != 1:
        raise InputError("give exactly one of --drop, --keep and --threshold, for instance --drop 10%")
    if threshold is not None:
        return Cut.threshold(threshold)
    return Cut.parse(keep, keep=True) if keep is not None else Cut.parse(drop or "")


@app.command(epilog="Example: geofilter demo")
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the example and its outputs go.")] = Path("geofilter-demo"),
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Scan and filter an example file of 140 rows with the embedded model; print where the report is."""
    from geofilter.config import ScanConfig
    from geofilter.cut import Cut
    from geofilter.files import atomic, example_file, make_folder

    data = folder / "mixed_advice.jsonl"
    make_folder(folder)
    with atomic(data) as handle, example_file().open("rb") as source:
        shutil.copyfileobj(source, handle)
    note(f"$ geofilter scan {data} --model smollm2-135m")
    done = _run_scan(ScanConfig(data=(str(data),), target=TargetChoice("smollm2-135m")), None, offline, quiet)
    note(f"$ geofilter filter {done.path} --drop 25%")
    _filter(done, Cut.parse("25%"), None, None, summary=None, as_json=False, quiet=quiet)
    note(f"$ geofilter report {done.path} --shade 35")
    note(f"report: {cli_report.shaded(done, 35, quiet)[0]}")
