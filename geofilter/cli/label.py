"""`geofilter label`: from a few labels of the run's own rows to a bank that ranks all of them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geofilter.cli.approval import check_endpoint
from geofilter.cli.options import PER_CALL, AsJson, Command, Key, Quiet, RunArg, open_run
from geofilter.cli.output import note, notifier, print_json
from geofilter.cli.settings import key_for, taken_from_file, with_settings
from geofilter.errors import InputError
from geofilter.judge.endpoint import MAX_CHARS

if TYPE_CHECKING:
    from geofilter.labels.asking import Answer
    from geofilter.labels.labelling import Labelling


app = typer.Typer()

_ASKING = "A judge"


@app.command(cls=Command, epilog="Example: geofilter label --count 60")
@with_settings
def label(
    ctx: typer.Context,
    run: RunArg = None,
    count: Annotated[int, typer.Option(help="Rows to label.")] = 60,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Write the rows to label to this JSONL file; fill in label (bad or good), then use --from."),
        PER_CALL,
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Take labels: a JSONL file of {sha256, label}, or FIELD=VALUE of the bad rows."),
        PER_CALL,
    ] = None,
    key: Key = None,
    judge: Annotated[
        str | None,
        typer.Option(help="Have this model label the rows, as its endpoint names it.", rich_help_panel=_ASKING),
        PER_CALL,
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Endpoint, as for geofilter judge.", rich_help_panel=_ASKING)
    ] = None,
    bad_below: Annotated[
        float, typer.Option(help="Rating, 0 to 100, under which a row is bad.", rich_help_panel=_ASKING)
    ] = 50,
    max_chars: Annotated[
        int, typer.Option(help="Characters sent of a row's prompt, and of its response.", rich_help_panel=_ASKING)
    ] = MAX_CHARS,
    check: Annotated[
        str | None,
        typer.Option(
            help="Labels of the other rows, as for evaluate: the AUROC on those not labelled here, before and after."
        ),
        PER_CALL,
    ] = None,
    learn: Annotated[
        bool,
        typer.Option(
            help="Without, labels of --from are kept as a check of the cut: the next report says what they show.",
        ),
        PER_CALL,
    ] = True,
    anyway: Annotated[
        bool,
        typer.Option("--apply", help="Use the bank also where it seems to rank no better than the scan's scores."),
        PER_CALL,
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the choice of rows.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Label some rows of a scanned run, learn a bank from them and score the run with it. Loads no model.

    Rows are shown here, one key each, unless --sheet, --from or --judge is given.

    Labels are kept in the run and add up from call to call; filter, report and explain go by the bank learnt.
    """
    if sum(x is not None for x in (sheet, source, judge)) > 1:
        raise InputError("give one of --sheet FILE, --from LABELS and --judge MODEL, or none to label at the terminal")
    if (sheet, source, judge) == (None, None, None) and (sys.stdin is None or not sys.stdin.isatty()):
        raise InputError("there is no terminal to label at; use --sheet FILE, --from LABELS or --judge MODEL")
    if not learn and source is None:
        raise InputError("--no-learn: only labels of --from LABELS can be kept so; give it, or leave --no-learn out")
    if anyway and (sheet is not None or not learn):
        raise InputError("--apply: is for a bank learnt from labels, and none is learnt here; leave it out")
    if not learn and check is not None:
        raise InputError("--check: says what a bank learnt is worth, and --no-learn learns none; give one of them")
    if count < 1:
        raise InputError(f"--count {count}: give 1 or more rows")
    from geofilter.labels.asking import take
    from geofilter.labels.held_out import check_labels
    from geofilter.labels.labelling import SCORING, Labelling
    from geofilter.labels.outcome import conclude, quoted
    from geofilter.labels.sheet import write_sheet
    from geofilter.labels.source import parse
    from geofilter.places import refuse_output

    answer = None if judge is None else _judge(ctx, judge, base_url, max_chars, bad_below, quiet)
    labelling = Labelling(open_run(run, SCORING), seed)
    if sheet is not None:
        refuse_output(sheet, "--sheet", [Path(f["path"]) for f in labelling.run.manifest["data"]])
    if check is not None:
        check_labels(labelling, check, key_for(ctx, key, check, source))  # before any work is put in
    if sheet is not None:
        n, where = write_sheet(labelling, sheet, count), quoted(labelling.run.called)
        note(f"{n} rows to label: {sheet}")
        note(f'next: put "bad" or "good" for each null label, then geofilter label {where} --from {sheet}')
        return
    if source is not None:
        labeller = parse(source, "--from", key_for(ctx, key, source, check))
        take(labelling, labeller, source)
        for text in labeller.notes():
            note(text)
        if not learn:
            bad, good = labelling.counts()
            text = f"{bad} bad and {good} good labels are kept; the run keeps its scores. Filter it again as before."
            if as_json:
                labels = {"bad": bad, "good": good}
                print_json({"run": labelling.run.called, "labels": labels, "applied": False, "text": [text]})
            else:
                note(text)
            return
        labelling.learn()
    elif answer is not None:
        _ask(labelling, count, answer, str(judge), quiet)
    else:
        _at_terminal(labelling, count)
    result = conclude(labelling, anyway).to_json()
    if check is not None:
        result |= _checked(labelling, check, key_for(ctx, key, check, source), result["text"])
    if as_json:
        print_json(result)
        return
    for line in result["text"]:
        note(line)


def _checked(labelling: Labelling, check: str, key: str | None, text: list[str]) -> dict[str, Any]:
    from geofilter.labels.held_out import check_labels

    try:
        found = check_labels(labelling, check, key)
    except InputError as error:  # too few rows are left
        text.append(str(error))
        return {}
    text.append(found.text(check))
    return {"others": asdict(found)}


def _judge(
    ctx: typer.Context, model: str, base_url: str | None, max_chars: int, bad_below: float, quiet: bool
) -> Answer:
    from geofilter.judge.client import Judge
    from geofilter.judge.rows import by_judge

    if not 0 < bad_below <= 100:
        raise InputError(f"--bad-below {bad_below:g}: a rating is between 0 and 100, 50 for instance")
    send_key = check_endpoint(taken_from_file(ctx), base_url)
    asked = Judge(model, base_url, notify=notifier(quiet), send_key=send_key)
    # Also when quiet: rows leave this machine.
    note(f"sending rows to {asked.base_url} for {model} ...")
    return by_judge(asked, max_chars, bad_below)


def _ask(labelling: Labelling, count: int, answer: Answer, by: str, quiet: bool) -> None:
    from geofilter.labels.asking import ask

    notify = notifier(quiet)
    try:
        for learnt in ask(labelling, count, answer, by):
            bad, good = labelling.counts()
            figure = "" if learnt is None else f"; cross-validated AUROC {learnt.check['auroc']:.2f}"
            notify(f"{bad + good} labels: {bad} bad, {good} good{figure}")
    except KeyboardInterrupt:
        note("geofilter: interrupted; the labels are kept: run it again, with --count for how many more")
        raise typer.Exit(130) from None


def _at_terminal(labelling: Labelling, count: int) -> None:
    import click
    from rich.console import Console

    from geofilter.cli.label_terminal import at_terminal

    # On stderr, so that what is printed for machines stays alone on stdout.
    at_terminal(labelling, count, Console(stderr=True), click.getchar)
