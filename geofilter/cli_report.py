"""`geofilter report` and `geofilter explain`: why rows go, as a page and one row at a time."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.errors import InputError
from geofilter.options import AsJson, Quiet, RunArg, inert, note, notifier, open_run

if TYPE_CHECKING:
    from geofilter.store import Run

app = typer.Typer()


@app.command(epilog="Example: geofilter report --open")
def report(
    run: RunArg = None,
    shade: Annotated[
        int, typer.Option(help="Shade the tokens of the N highest removed rows by their part of the score.")
    ] = 0,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Where the report of the last cut is; --json prints its content.

    --shade runs the model again on the rows it shades and writes the report anew.
    """
    opened = open_run(run)
    page = opened.path / "report.html"
    if not page.is_file():
        raise InputError(f"{opened.path}: not cut yet; run geofilter filter --drop 10% first")
    if shade < 0:
        raise InputError(f"--shade {shade}: give the number of rows to shade")
    if shade:
        shaded(opened, shade, quiet)
    if as_json:
        typer.echo((opened.path / "report.json").read_text("utf-8").rstrip("\n"))
    else:
        typer.echo(page)
    if open_page:
        typer.launch(str(page))


def shaded(opened: Run, most: int, quiet: bool) -> None:
    """Make the report of a run's last cut again, with tokens shaded; `most`: removed rows."""
    from geofilter.report.shade import shade
    from geofilter.report.write import remake, write

    with opened.lock():
        made = remake(opened)
        n = shade(made, most, notifier(quiet))
        write(made)
    if not quiet:
        note(f"shaded the tokens of {n} rows")


@app.command(epilog="Example: geofilter explain --row 17")
def explain(
    run: RunArg = None,
    row: Annotated[int, typer.Option(help="1-based line number in the input.")] = ...,  # type: ignore[assignment]
    file: Annotated[str | None, typer.Option(help="Input file, when the run has several.")] = None,
    bank: Annotated[str | None, typer.Option(help="Explain under this bank of the run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Why a row scores as it does: features, their tokens, and the score without each. Runs the model on one row."""
    opened = open_run(run)
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
            Text(inert(" ".join(t.strip() for t in f["tokens"]))), f"{f['score_without']:.3f}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    shown = sum(f["share"] for f in result.features)
    typer.echo(
        f"features above {shown:+.3f}, other active features {result.rest:+.3f}, silent features {result.absent:+.3f}; "
        f"sum {shown + result.rest + result.absent:+.3f}"
    )
    strongest = sorted(result.tokens, key=lambda piece: -piece.share)[:10]
    typer.echo("strongest tokens: " + ", ".join(f"{inert(p.text.strip())!r} {p.share:+.3f}" for p in strongest))
