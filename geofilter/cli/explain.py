"""`geofilter explain`: why a row scores as it does."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from geofilter.cli.options import PER_CALL, AsJson, Command, ExcludeFeature, RunArg, open_run
from geofilter.cli.output import note
from geofilter.cli.settings import with_settings
from geofilter.text import inert

app = typer.Typer()

SHOWN_TOPICS = 3


@app.command(cls=Command, epilog="Example: geofilter explain --row 17")
@with_settings
def explain(
    ctx: typer.Context,
    row: Annotated[int, typer.Option(help="1-based line number in the input."), PER_CALL],
    run: RunArg = None,
    file: Annotated[str | None, typer.Option(help="Input file, when the run has several."), PER_CALL] = None,
    bank: Annotated[str | None, typer.Option(help="Explain under this bank of the run."), PER_CALL] = None,
    exclude_feature: ExcludeFeature = None,
    as_json: AsJson = False,
) -> None:
    """Why a row scores as it does: features, their tokens, and the score without each. Runs the model on one row."""
    from geofilter.run.banks import said_without
    from geofilter.scanning.explain import explain as run_explain

    result = run_explain(open_run(run), row, file, bank, note, exclude_feature or ())
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    d = result.detail
    typer.echo(
        f"{inert(d['file'])}, line {d['line']}: score {result.score:.3f} under {bank or d['bank']}, "
        f"percentile {result.percentile:.3f}"
    )
    if result.excluded:
        note(said_without(result.excluded))
    if result.topics:
        closest = ", ".join(f"{name} {score:+.2f}" for name, score in list(result.topics.items())[:SHOWN_TOPICS])
        typer.echo(f"topics, closest first: {inert(closest)}")
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
