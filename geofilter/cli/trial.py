"""`geofilter trial`: does removing the closest rows help?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.cli.approval import check_endpoint
from geofilter.cli.options import OUTPUT, OWN_TABLE, AsJson, Command, Offline, Quiet, RunArg, open_run
from geofilter.cli.output import note, notifier, print_json, print_table, say
from geofilter.cli.progress import loading_libraries
from geofilter.cli.settings import taken_from_file, with_settings
from geofilter.config import Loading
from geofilter.errors import InputError
from geofilter.trial.config import MEASURES, TrialConfig

if TYPE_CHECKING:
    from geofilter.run.store import Run
    from geofilter.trial.freeform import FreeForm
    from geofilter.trial.result import TrialResult


app = typer.Typer()


@app.command(
    cls=Command,
    epilog="Example: geofilter trial --good good.jsonl --labels label=misaligned --drop 50% --arm random --arm score",
)
@with_settings
def trial(
    ctx: typer.Context,
    *,
    run: RunArg = None,
    config: TrialConfig,
    loading: Loading,
    questions: Annotated[
        Path | None,
        typer.Option(help="YAML of open questions with judge prompts; needs a judge.", rich_help_panel=MEASURES),
    ] = None,
    samples: Annotated[int, typer.Option(help="Answers to each question.", rich_help_panel=MEASURES)] = 10,
    judge_model: Annotated[
        str | None, typer.Option(help="Model that judges the answers.", rich_help_panel=MEASURES)
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint of the judge.", rich_help_panel=MEASURES)
    ] = None,
    offline: Offline = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the trial; by default one in the run.", rich_help_panel=OUTPUT),
        OWN_TABLE,
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune the target on all rows and on what each filter leaves, and measure misalignment.

    Equal steps and tokens for every arm. A trial that is stopped goes on where it was: finished arms are kept.
    """
    from geofilter.places import refuse_output, refuse_outputs
    from geofilter.trial.tables import FILES

    with loading_libraries(quiet):
        from geofilter.trial.trial import trial as fine_tune_and_measure

    free = _free_form(ctx, questions, samples, judge_model, base_url)
    opened = open_run(run)
    if out is not None:
        refuse_output(out, "--out", kind="folder", named=not _by_default(out, opened))
        read = [config.good, *(Path(f["path"]) for f in opened.manifest["data"]), *([questions] if questions else [])]
        refuse_outputs([out / name for name in FILES], "--out", read, named=False)
    try:
        folder, result = fine_tune_and_measure(
            opened, config, loading, out=out, free=free, offline=offline, notify=notifier(quiet)
        )
    except KeyboardInterrupt:
        note("geofilter: interrupted; the same command goes on after the last finished arm")
        raise typer.Exit(130) from None
    _show(folder, result, as_json)


def _by_default(out: Path, run: Run) -> bool:
    """Whether a folder is one where a trial of the run lies when no other is given."""
    return out.name.startswith("trial-") and out.parent.resolve() == run.path.resolve()


def _free_form(
    ctx: typer.Context, questions: Path | None, samples: int, judge_model: str | None, base_url: str | None
) -> FreeForm | None:
    if questions is None:
        return None
    if judge_model is None:
        raise InputError("--questions: who judges the answers? give --judge-model, and --base-url for your own server")
    from geofilter.judge.client import Judge
    from geofilter.trial.freeform import FreeForm

    send_key = check_endpoint(taken_from_file(ctx), base_url)
    return FreeForm(questions, Judge(judge_model, base_url, send_key=send_key), samples)


def _show(folder: Path, result: TrialResult, as_json: bool) -> None:
    from geofilter.trial import tables

    if as_json:
        print_json(result)
        return
    for text in tables.verdicts(result):
        say(text)
    for name, measure in result["measures"].items():
        print_table(f"{name}: {measure['text']}", tables.HEAD, tables.table(result, name))
    for text in tables.remarks(result):
        say(text)
    say(f"result: {folder / 'trial.json'}, trial.md, trial.svg")
