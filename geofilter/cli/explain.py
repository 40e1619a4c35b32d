"""`geofilter explain`: why a row scores as it does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.cli.options import PER_CALL, AsJson, Command, ExcludeFeature, RunArg, open_run
from geofilter.cli.output import note, print_json, say
from geofilter.cli.settings import with_settings
from geofilter.errors import InputError
from geofilter.text import inert

if TYPE_CHECKING:
    from geofilter.run.store import Run

app = typer.Typer()

SHOWN_TOPICS = 3


@app.command(cls=Command, epilog="Example: geofilter explain --row 17")
@with_settings
def explain(
    ctx: typer.Context,
    row: Annotated[
        str, typer.Option(help="Line in the input, from 1; or '#3': the row with the third highest score."), PER_CALL
    ],
    run: RunArg = None,
    file: Annotated[str | None, typer.Option(help="Input file, when the run has several."), PER_CALL] = None,
    bank: Annotated[str | None, typer.Option(help="Explain under this bank of the run."), PER_CALL] = None,
    exclude_feature: ExcludeFeature = None,
    as_json: AsJson = False,
) -> None:
    """Why a row scores as it does: features, their tokens, and the score without each. Runs the model on one row."""
    from geofilter.bank.known import quoted
    from geofilter.run.banks import said_without
    from geofilter.run.labelled import learnt_by
    from geofilter.scanning.explain import explain as run_explain

    opened = open_run(run)
    line, of = _place(opened, row, file)
    result = run_explain(opened, line, of, bank, note, exclude_feature or ())
    if as_json:
        print_json(result.to_json())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    d = result.detail
    say(
        f"{d['file']}, line {d['line']}: score {result.score:.3f} under {bank or d['bank']}, "
        f"percentile {result.percentile:.3f}"
    )
    if (learnt := learnt_by(opened).get(bank or d["bank"])) is not None and learnt[opened.position(d)]:
        note(f"{bank or d['bank']} was learnt from this row")
    if result.stored is not None:
        note(
            f"the run has {result.stored:.3f} for this row: model, SAE or bank no longer do what they did at the scan; "
            "geofilter verify says more"
        )
    if result.excluded:
        note(said_without(result.excluded))
    if result.topics:
        closest = ", ".join(f"{name} {score:+.2f}" for name, score in list(result.topics.items())[:SHOWN_TOPICS])
        say(f"topics, closest first: {closest}")
    for side, known in result.examples.items():
        said = "its features are like those of" if side == "bad" else "of harmless rows most like"
        say(f"{said}: {inert(quoted(known))}")
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
            str(f["feature"]), Text(inert(f["label"])), f"{f['share']:+.3f}", f"{f['closeness']:+.3f}",
            Text(inert(f"{f['nearest_toxic']} ({f['nearest_label']}), cos {f['cosine_to_nearest']:.2f}")),
            Text(inert(" ".join(t.strip() for t in f["tokens"]))), f"{f['score_without']:.3f}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    shown = sum(f["share"] for f in result.features)
    say(
        f"features above {shown:+.3f}, other active features {result.rest:+.3f}, silent features {result.absent:+.3f}; "
        f"sum {shown + result.rest + result.absent:+.3f}"
    )
    strongest = sorted(result.tokens, key=lambda piece: -piece.share)[:10]
    say("strongest tokens: " + ", ".join(f"{inert(p.text.strip())!r} {p.share:+.3f}" for p in strongest))


def _place(run: Run, row: str, file: str | None) -> tuple[int, str | None]:
    """Line and file of the row that is meant.

    Raises:
        InputError: neither a line nor a rank, or no row has this rank.
    """
    from geofilter.cut.cut import by_score

    number = row.removeprefix("#")
    if not (number.isascii() and number.isdecimal() and len(number) < 16):
        raise InputError(f"--row {row}: no row; give its line, 17 for instance, or '#3' for the third highest score")
    if number == row:
        return int(row), file
    arrays, rank = run.arrays(), int(number)
    if file is not None:
        raise InputError(f"--row {row}: a rank is of the whole run; leave --file {file} out")
    if not 1 <= rank <= len(arrays["score"]):
        raise InputError(f"--row {row}: the run's rows have the ranks #1 to #{len(arrays['score'])}")
    position = int(by_score(arrays["score"])[rank - 1])
    return int(arrays["line"][position]), run.manifest["data"][arrays["file"][position]]["path"]
