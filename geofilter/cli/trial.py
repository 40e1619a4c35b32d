"""`geofilter trial`: does removing the closest rows help?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.cli.options import OWN_TABLE, AsJson, Offline, Quiet, open_run
from geofilter.cli.output import note, notifier, print_table
from geofilter.cli.settings import with_settings
from geofilter.config import Loading
from geofilter.errors import InputError

if TYPE_CHECKING:
    from geofilter.trial.freeform import FreeForm
    from geofilter.trial.result import TrialResult


app = typer.Typer()

_ARMS, _RECIPE, _MEASURES = "Arms", "Fine-tuning", "Measures"


@app.command(
    epilog="Example: geofilter trial --good good.jsonl --labels label=misaligned --drop 50% --arm random --arm geometry"
)
@with_settings
def trial(
    ctx: typer.Context,
    good: Annotated[
        Path, typer.Option(help="JSONL of aligned rows: some are held out, the others train the arm good.")
    ],
    loading: Loading,
    run: Annotated[
        Path | None, typer.Argument(help="Scored run folder; by default the newest under .geofilter/.")
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(help="Amounts removed, each an arm; default 10%, 25%, 50%.", rich_help_panel=_ARMS),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="random, geometry (the run's own score), ridge, contrast, nearest, activation, dense, length, judge, "
            "labels; default random and geometry. full and good are always there.",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Fine-tuning runs of each arm.", rich_help_panel=_ARMS)] = 3,
    labels: Annotated[
        str | None,
        typer.Option(help="Which rows are bad: FIELD=VALUE or a file, as in evaluate.", rich_help_panel=_ARMS),
    ] = None,
    judge_scores: Annotated[
        Path | None, typer.Option(help="Ratings by geofilter judge, for the arm judge.", rich_help_panel=_ARMS)
    ] = None,
    rank: Annotated[int, typer.Option(help="Rank of LoRA, on every linear layer.", rich_help_panel=_RECIPE)] = 16,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.", rich_help_panel=_RECIPE)] = 3e-3,
    batch_rows: Annotated[int, typer.Option(help="Rows in a step.", rich_help_panel=_RECIPE)] = 8,
    epochs: Annotated[
        float, typer.Option(help="Passes over the full set; every arm gets as many tokens.", rich_help_panel=_RECIPE)
    ] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Tokens of one row.", rich_help_panel=_RECIPE)] = 512,
    pairs: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSONL of harmful and sound answers to the same questions; default the health, career and legal "
            "sets of the package.",
            rich_help_panel=_MEASURES,
        ),
    ] = None,
    statements: Annotated[
        list[Path] | None,
        typer.Option(help="JSONL of first-person statements: text and label.", rich_help_panel=_MEASURES),
    ] = None,
    items: Annotated[
        int | None,
        typer.Option(help="Statements and answers of each label taken from each file.", rich_help_panel=_MEASURES),
    ] = None,
    held_out: Annotated[
        int, typer.Option(help="Rows of --good for the loss of the task.", rich_help_panel=_MEASURES)
    ] = 40,
    questions: Annotated[
        Path | None,
        typer.Option(help="YAML of open questions with judge prompts; needs a judge.", rich_help_panel=_MEASURES),
    ] = None,
    samples: Annotated[int, typer.Option(help="Answers to each question.", rich_help_panel=_MEASURES)] = 10,
    judge_model: Annotated[
        str | None, typer.Option(help="Model that judges the answers.", rich_help_panel=_MEASURES)
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint of the judge.", rich_help_panel=_MEASURES)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the trial; by default one in the run."), OWN_TABLE] = None,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune the target on all rows and on what each filter leaves, and measure misalignment.

    Equal steps and tokens for every arm. A trial that is stopped goes on where it was: finished arms are kept.
    """
    from geofilter.rows.shipped import domain_files
    from geofilter.trial import trial as trials
    from geofilter.trial.tune import Recipe

    config = trials.TrialConfig(
        good=good, pairs=tuple(pairs or domain_files()), statements=tuple(statements or ()),
        drops=tuple(drop or ("10%", "25%", "50%")), arms=tuple(arm or ("random", "geometry")), seeds=seeds,
        recipe=Recipe(rank, learning_rate, batch_rows, epochs), max_tokens=max_tokens, items=items, held_out=held_out,
        labels=labels, judge_scores=judge_scores,
    )  # fmt: skip
    free = _free_form(questions, samples, judge_model, base_url)
    opened = open_run(run)
    try:
        folder, result = trials.trial(
            opened, config, loading, out=out, free=free, offline=offline, notify=notifier(quiet)
        )
    except KeyboardInterrupt:
        note("geofilter: interrupted; the same command goes on after the last finished arm")
        raise typer.Exit(130) from None
    _show(folder, result, as_json)


def _free_form(questions: Path | None, samples: int, judge_model: str | None, base_url: str | None) -> FreeForm | None:
    if questions is None:
        return None
    if judge_model is None:
        raise InputError("--questions: who judges the answers? give --judge-model, and --base-url for your own server")
    from geofilter.judge.client import Judge
    from geofilter.trial.freeform import FreeForm

    return FreeForm(questions, Judge(judge_model, base_url), samples)


def _show(folder: Path, result: TrialResult, as_json: bool) -> None:
    from geofilter.trial import tables

    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    for text in tables.verdicts(result):
        typer.echo(text)
    for name, measure in result["measures"].items():
        print_table(f"{name}: {measure['text']}", tables.HEAD, tables.table(result, name))
    for text in tables.remarks(result):
        typer.echo(text)
    typer.echo(f"result: {folder / 'trial.json'}, trial.md, trial.svg")
