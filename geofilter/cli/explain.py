"""`geofilter explain`: why a row scores as it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.cli.options import PER_CALL, AsJson, Command, ExcludeFeature, RunArg, Verbose, open_run
from geofilter.cli.output import coloured, note, paragraph, print_json, print_laid_out, say
from geofilter.cli.progress import loading_libraries
from geofilter.cli.row import position_of
from geofilter.cli.settings import with_settings
from geofilter.text import inert, shorten

if TYPE_CHECKING:
    from geofilter.rows.records import Row
    from geofilter.run.manifest import ScoreLine
    from geofilter.run.marks import Mark
    from geofilter.run.store import Run
    from geofilter.scanning.explain import Explanation

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
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Why a row scores as it does: its text with the words that count marked, and the reason in a sentence.

    With --verbose also all features, their tokens, and the score without each; that runs the model on the row, as do
    --bank, --exclude-feature and --json, and a run without token shares.
    """
    import numpy as np

    from geofilter.run.marks import marks_of
    from geofilter.run.rows import reread

    opened = open_run(run)
    position = position_of(opened, row, file)
    ((_, detail),) = opened.score_lines(np.array([position]))
    read = reread([detail], opened.reading)[detail["file"], detail["line"]]
    marks = marks_of(opened, [position]).get(position)
    stored = marks is not None and marks.share is not None
    if stored and not (verbose or as_json or bank or exclude_feature):
        _lead(opened, detail, read, position, marks.spans() if marks else [])
        note("geofilter explain --verbose runs the model and takes the score apart")
        return
    with loading_libraries():
        from geofilter.scanning.explain import explain as run_explain

    result = run_explain(opened, detail, read, bank, note, exclude_feature or ())
    if as_json:
        print_json(result.to_json())
        return
    _lead(opened, detail, read, position, result.marks.spans())
    _apart(result, bank or detail["bank"])


def _lead(run: Run, detail: ScoreLine, row: Row, position: int, spans: Sequence[Mark]) -> None:
    """What a row says, its strong words marked, and why it scores as it does."""
    from geofilter.bank.known import quoted
    from geofilter.cli.filtered import shaded
    from geofilter.report.excerpt import marked
    from geofilter.rows.pairs import rejected_text
    from geofilter.run.banks import find_banks
    from geofilter.run.labelled import learnt_by
    from geofilter.run.reasons import reason
    from geofilter.run.score_arrays import rank_array

    by, n = rank_array(run.manifest), run.manifest["counts"]["scored"]
    score = run.arrays([by])[by]
    rank = int((score > score[position]).sum()) + 1
    paragraph(f"{detail['file']}, line {detail['line']}: rank {rank:,} of {n:,}", "bold", err=False)
    for name, text, of in (("prompt", row.prompt, []), ("response", row.response, spans)):
        if text:
            say("")
            paragraph(name, "dim", err=False)
            paragraph(shaded(marked(shorten(text), of), marks=not coloured(err=False)), err=False)
    if "rejected_score" in detail:
        say("")
        paragraph("rejected answer", "dim", err=False)
        paragraph(shorten(rejected_text(row, run.reading) or ""), err=False)
    said = reason(detail)
    say("")
    paragraph(f"{said[:1].upper()}{said[1:]}.", "bold", err=False)
    found, _ = find_banks(run)
    known = next((b.rows for b in found if b.name == detail["bank"]), None)
    for side, like in (known.named(detail.get("like", {})) if known else {}).items():
        words = "Its features are like those of" if side == "bad" else "Of harmless rows most like"
        paragraph(f"{words}: {quoted(like)}", err=False)
    learnt = learnt_by(run).get(detail["bank"])
    if learnt is not None and learnt[position]:
        note(f"{detail['bank']} was learnt from this row")


def _apart(result: Explanation, bank: str) -> None:
    """The score of a row, feature by feature."""
    from rich.table import Table
    from rich.text import Text

    from geofilter.run.banks import said_without
    from geofilter.run.reasons import NO_WORDS, TONE, standing, times_short

    say("")
    say(f"score {result.score:.3f} under {bank}, percentile {result.percentile:.3f}")
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
    table = Table(
        "feature",
        "its words in the bank's texts",
        "share",
        "times ordinary",
        "toxic",
        "tokens here",
        "score without",
    )
    for f in result.features:
        table.add_row(
            str(f["feature"]), Text(inert(f["label"] or NO_WORDS)), f"{f['share']:+.3f}", times_short(f["times"]),
            Text(inert(standing(f))),
            Text(inert(" ".join(t.strip() for t in f["tokens"]))), f"{f['score_without']:.3f}",
        )  # fmt: skip
    print_laid_out(table)
    shown = sum(f["share"] for f in result.features)
    say(
        f"features above {shown:+.3f}, {TONE} {result.common:+.3f}, other active features {result.rest:+.3f}, silent "
        f"features {result.absent:+.3f}; sum {shown + result.common + result.rest + result.absent:+.3f}"
    )
    strongest = sorted(result.tokens, key=lambda piece: -piece.share)[:10]
    say("strongest tokens: " + ", ".join(f"{inert(p.text.strip())!r} {p.share:+.3f}" for p in strongest))
