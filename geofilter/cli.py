"""The command line: parse, call one function, render, exit. Imports nothing heavy until a command runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geofilter import __version__
from geofilter.errors import GeofilterError, InputError

if TYPE_CHECKING:
    from geofilter.config import ScanConfig
    from geofilter.cut import Cut
    from geofilter.store import Run

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find and remove the fine-tuning rows whose SAE features lie closest to a model's toxic features.",
    epilog="Exit codes: 0 done, 2 bad usage or input, 3 target or bank not available or not matching, "
    "4 run incomplete, locked or of another configuration, 130 interrupted (the run is kept).",
)
bank_app = typer.Typer(no_args_is_help=True, help="Make, list and check banks of toxic features.")
app.add_typer(bank_app, name="bank")

RunArg = Annotated[Path | None, typer.Argument(help="Run folder; by default the newest under .geofilter/.")]
Model = Annotated[str | None, typer.Option(help="Target name (see `geofilter targets`) or model folder.")]
Sae = Annotated[Path | None, typer.Option(help="SAELens folder; needed with a model folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto (float32 on CPU, bfloat16 on GPU), float32, bfloat16, float16.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]


def main() -> None:
    """Entry point: expected failures become one line on stderr and their exit code."""
    try:
        app()
    except GeofilterError as error:
        # Paths and data can hold control characters; a terminal must not act on them.
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(error))
        print(f"geofilter: error: {text}", file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None


def note(text: str) -> None:
    """One line on stderr."""
    typer.echo(text, err=True)


def _notify(quiet: bool) -> Callable[[str], None]:
    return (lambda text: None) if quiet else note


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
def scan(
    ctx: typer.Context,
    data: Annotated[list[str], typer.Argument(help="JSONL files, plain or .gz.")],
    model: Model = None,
    sae: Sae = None,
    bank: Annotated[
        list[str] | None, typer.Option(help="Built-in bank or bank folder; repeat for several. Default: all built-in.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; by default .geofilter/<data>-<fingerprint>.")] = None,
    scorer: Annotated[
        str, typer.Option(help="contrast, nearest, activation, dense, or the controls length and random.")
    ] = "contrast",
    device: Device = "auto",
    dtype: Dtype = "auto",
    max_tokens: Annotated[int, typer.Option(help="Tokens of one row; a longer one is cut, its response kept.")] = 1024,
    limit: Annotated[int | None, typer.Option(help="Scan only the first N rows of each file.")] = None,
    shard_rows: Annotated[int, typer.Option(help="Rows in a shard, the unit of resume.")] = 1000,
    on_error: Annotated[str, typer.Option(help="Rows that cannot be scored: quarantine or fail.")] = "quarantine",
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Encode and score every row; write a run folder that filter, report and explain read."""
    from geofilter.config import ScanConfig

    given = {
        "model": model, "sae": str(sae) if sae else None, "banks": tuple(bank or ()), "scorer": scorer,
        "device": device, "dtype": dtype, "max_tokens": max_tokens, "limit": limit, "shard_rows": shard_rows,
        "on_error": on_error,
    }  # fmt: skip
    config = ScanConfig(data=tuple(data), **_with_settings(ctx, given))
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
    note(f"run: {done.path}")
    note("next: geofilter filter --drop 10%")


def _with_settings(ctx: typer.Context, given: dict[str, Any], strict: bool = True) -> dict[str, Any]:
    """Options typed on the command line win over the settings file, which wins over the defaults.

    Args:
        strict: refuse keys that are not in `given`; a command with fewer options passes over the others.
    """
    from geofilter.config import settings

    found = settings(Path.cwd())
    if "bank" in found:
        bank = found.pop("bank")
        found["banks"] = tuple(bank) if isinstance(bank, list) else (bank,)
    unknown = sorted(set(found) - set(given))
    if unknown and strict:
        raise InputError(
            f"settings file: unknown key {unknown[0]!r}; known: {', '.join(k for k in given if k != 'banks')}, bank"
        )
    for key in set(found) & set(given):
        source = ctx.get_parameter_source("bank" if key == "banks" else key)
        if source is not None and source.name != "COMMANDLINE":
            given[key] = found[key]
    return given


def _run_scan(config: ScanConfig, run: Path | None, offline: bool, quiet: bool) -> Run:
    from geofilter.scan import scan as run_scan

    try:
        with _progress(quiet) as (started, advance):
            return run_scan(config, run, offline=offline, notify=_notify(quiet), started=started, progress=advance)
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


def _open_run(path: Path | None) -> Run:
    from geofilter.store import Run

    if path is not None:
        return Run.open(path)
    run = Run.newest(Path.cwd())
    note(f"run: {run.path}")
    return run


@app.command(epilog="Example: geofilter filter --drop 10%")
def filter(  # noqa: A001 (the command's name)
    run: RunArg = None,
    drop: Annotated[str | None, typer.Option(help="Amount to remove: 10% of the scored rows, or 500 rows.")] = None,
    keep: Annotated[str | None, typer.Option(help="Amount to keep: 90% or a number of rows.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Remove rows from this percentile on, 0.99 for instance.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the kept rows, or a folder for all outputs.")] = None,
    removed: Annotated[Path | None, typer.Option(help="File for the removed rows.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Cut a scanned data set: kept, removed and quarantined rows and a report, beside the data. Loads no model."""
    from geofilter import report as reports
    from geofilter.cut import Selection
    from geofilter.store import write_json

    cut = _parse_cut(drop, keep, threshold)
    opened = _open_run(run)
    with opened.lock():
        selection = Selection.of(opened, cut)
        outputs = selection.write(out, removed)
        report = reports.build(selection, outputs)
        pages = reports.write(report, outputs, opened.path)
        write_json(opened.path / "cut.json", {"kind": cut.kind, "value": cut.value})
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    if not quiet:
        for line in reports.summary(report):
            note(line)
        note("")
    for o in outputs:
        note(f"kept: {o.kept}\nremoved: {o.removed}\nquarantined: {o.quarantined}")
    note(f"report: {pages[0]}")


def _parse_cut(drop: str | None, keep: str | None, threshold: float | None) -> Cut:
    from geofilter.cut import Cut

    if sum(x is not None for x in (drop, keep, threshold)) != 1:
        raise InputError("give exactly one of --drop, --keep and --threshold, for instance --drop 10%")
    if threshold is not None:
        return Cut.threshold(threshold)
    return Cut.parse(keep, keep=True) if keep is not None else Cut.parse(drop or "")


@app.command(epilog="Example: geofilter report --open")
def report(
    run: RunArg = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Where the report of the last cut is; --json prints its content."""
    opened = _open_run(run)
    page = opened.path / "report.html"
    if not page.is_file():
        raise InputError(f"{opened.path}: not cut yet; run geofilter filter --drop 10% first")
    if as_json:
        typer.echo((opened.path / "report.json").read_text("utf-8").rstrip("\n"))
    else:
        typer.echo(page)
    if open_page:
        typer.launch(str(page))


@app.command(epilog="Example: geofilter explain --row 17")
def explain(
    run: RunArg = None,
    row: Annotated[int, typer.Option(help="1-based line number in the input.")] = ...,  # type: ignore[assignment]
    file: Annotated[str | None, typer.Option(help="Input file, when the run has several.")] = None,
    bank: Annotated[str | None, typer.Option(help="Explain under this bank of the run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Why a row scores as it does: features, their tokens, and the score without each. Runs the model on one row."""
    opened = _open_run(run)
    from geofilter.explain import explain as run_explain

    result = run_explain(opened, row, file, bank, note)
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    d = result.detail
    typer.echo(
        f"{d['file']}, line {d['line']}: score {result.score:.3f} under {bank or d['bank']}, "
        f"percentile {d['banks'][bank or d['bank']]['percentile']:.3f}"
    )
    table = Table(
        "feature",
        "strongest tokens in the bank's texts",
        "share",
        "closeness",
        "nearest toxic feature",
        "tokens here",
        "score without",
    )
    for f in result.features:
        table.add_row(
            str(f["feature"]), Text(f["label"]), f"{f['share']:+.3f}", f"{f['closeness']:+.3f}",
            Text(f"{f['nearest_toxic']} ({f['nearest_label']}), cos {f['cosine_to_nearest']:.2f}"),
            Text(_inert(" ".join(t.strip() for t in f["tokens"]))), f"{f['score_without']:.3f}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    shown = sum(f["share"] for f in result.features)
    typer.echo(
        f"features above {shown:+.3f}, other active features {result.rest:+.3f}, silent features {result.absent:+.3f}; "
        f"sum {shown + result.rest + result.absent:+.3f}"
    )
    strongest = sorted(result.tokens, key=lambda t: -t[1])[:10]
    typer.echo("strongest tokens: " + ", ".join(f"{_inert(t.strip())!r} {s:+.3f}" for t, s in strongest))


def _inert(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@app.command(epilog="Example: geofilter targets --json")
def targets(as_json: AsJson = False) -> None:
    """Models that are known by name."""
    from geofilter.targets import known

    table = known()
    if as_json:
        typer.echo(json.dumps(table, ensure_ascii=False))
        return
    for name, row in table.items():
        typer.echo(f"{name}\n  {row['model']} ({row['license']}), {row['hook']}\n  {row['note']}")
    typer.echo("any other: --model FOLDER --sae FOLDER (a SAELens SAE read at blocks.L.hook_resid_post)")


@app.command(epilog="Example: geofilter doctor --model smollm2-135m")
def doctor(
    model: Annotated[list[str] | None, typer.Option(help="Target whose weights and pair are checked too.")] = None,
    sae: Sae = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Check packages, FAISS, the cache, the weights, and that model and SAE belong together. Exit 3 on a failure."""
    from geofilter.doctor import examine

    checks = examine(model or [], sae, offline, note)
    if as_json:
        typer.echo(json.dumps([{"name": c.name, "ok": c.ok, "text": c.text} for c in checks]))
    else:
        for c in checks:
            typer.echo(f"{'ok  ' if c.ok else 'FAIL'} {c.name}: {c.text}")
    if not all(c.ok for c in checks):
        raise typer.Exit(3)


@app.command(epilog="Example: geofilter demo")
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the example and its outputs go.")] = Path("geofilter-demo"),
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Scan and filter an example file of 140 rows with the embedded model; print where the report is."""
    import shutil

    from geofilter.config import ScanConfig
    from geofilter.store import atomic
    from geofilter.targets import example_file

    data = folder / "mixed_advice.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); give another folder") from None
    with atomic(data) as handle, example_file().open("rb") as source:
        shutil.copyfileobj(source, handle)
    note(f"$ geofilter scan {data} --model smollm2-135m")
    done = _run_scan(ScanConfig(data=(str(data),), model="smollm2-135m"), None, offline, quiet)
    note(f"$ geofilter filter {done.path} --drop 25%")
    filter(done.path, drop="25%", keep=None, threshold=None, out=None, removed=None, as_json=False, quiet=quiet)


@bank_app.command(
    "build", epilog="Example: geofilter bank build --bad bad.jsonl --good good.jsonl --model smollm2-135m --out my-bank"
)
def bank_build(
    ctx: typer.Context,
    bad: Annotated[Path, typer.Option(help="JSONL of rows that should go, any row shape.")],
    good: Annotated[Path, typer.Option(help="JSONL of rows of the same kind that should stay.")],
    out: Annotated[Path, typer.Option(help="Bank folder to write; its name is the bank's name.")],
    model: Model = None,
    sae: Sae = None,
    size: Annotated[int, typer.Option(help="Features on each side.")] = 100,
    limit: Annotated[int | None, typer.Option(help="Use the first N rows of each file.")] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Choose a bank's features from labelled seed rows and check it on held-out rows."""
    from geofilter.seeding import build_from_files

    options = _with_settings(ctx, {"model": model, "sae": str(sae) if sae else None}, strict=False)
    bank = build_from_files(
        bad, good, out, options["model"], Path(options["sae"]) if options["sae"] else None, size, limit, device, dtype,
        offline, _notify(quiet),
    )  # fmt: skip
    for line in _describe_bank(bank):
        typer.echo(line)


@bank_app.command("list", epilog="Example: geofilter bank list")
def bank_list() -> None:
    """The built-in banks."""
    from geofilter.seeding import BUILT_IN

    for name, text in BUILT_IN.items():
        typer.echo(f"{name}: {text}")


@bank_app.command("show", epilog="Example: geofilter bank show my-bank")
def bank_show(
    bank: Annotated[str, typer.Argument(help="Bank folder, or a built-in name (then --model is needed).")],
    model: Model = None,
    features: Annotated[int, typer.Option(help="Features shown on each side.")] = 20,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """A bank's features with their strongest tokens, its sources and its own check."""
    from geofilter.seeding import open_bank

    found = open_bank(bank, model, None, offline, note)
    sides = (("toxic", found.toxic), ("aligned", found.aligned))
    if as_json:
        rows = {
            side: [
                {"feature": int(f), "effect": round(float(found.effect[f]), 4), "label": found.labels[f]} for f in ids
            ]
            for side, ids in sides
        }
        typer.echo(json.dumps({"name": found.name, "target": found.target, **found.meta, **rows}, ensure_ascii=False))
        return
    for line in _describe_bank(found):
        typer.echo(line)
    for side, ids in sides:
        typer.echo(f"{side} features (effect: standardised mean difference, bad minus good)")
        for f in ids[:features]:
            typer.echo(f"  {int(f):6d}  {found.effect[f]:+.2f}  {found.labels[f]}")


@bank_app.command("check", epilog="Example: geofilter bank check my-bank --model smollm2-135m")
def bank_check(
    bank: Annotated[str, typer.Argument(help="Bank folder or built-in name.")],
    model: Model = None,
    sae: Sae = None,
    offline: Offline = False,
) -> None:
    """Does the bank belong to this target, and did it beat random banks on held-out rows? Exit 3 when not."""
    from geofilter.seeding import open_bank

    found = open_bank(bank, model, sae, offline, note, required=True)
    for line in _describe_bank(found):
        typer.echo(line)
    if found.weak:
        raise typer.Exit(3)


def _describe_bank(bank: Any) -> Iterator[str]:
    e = bank.meta["evaluation"]
    yield f"{bank.name}: {len(bank.toxic)} toxic and {len(bank.aligned)} aligned features of {bank.target['name']}"
    yield f"  {bank.meta['description']}"
    yield (
        f"  held out ({e['rows']['bad']} bad, {e['rows']['good']} good rows): AUROC {e['auroc']:.3f} "
        f"({e['interval'][0]:.3f} to {e['interval'][1]:.3f})"
    )
    yield (
        f"  beside it: bag of words {e['bag_of_words']:.3f}, style {e['style']:.3f}, shorter is worse "
        f"{e['shorter_is_worse']:.3f}, best of 20 random banks {e['random_banks']['best_either_way']:.3f}"
    )
    if bank.weak:
        yield "  WEAK: it does not beat random banks on its own held-out rows"


if __name__ == "__main__":
    main()
