"""`geofilter bank name`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geofilter.cli.bank import app, judge_of
from geofilter.cli.options import OWN_TABLE, PER_CALL, Command, Offline, Quiet, one_of
from geofilter.cli.output import notifier, say
from geofilter.cli.progress import loading_libraries
from geofilter.cli.settings import typed_options, with_settings
from geofilter.config import BUILT_IN, Loading, TargetChoice
from geofilter.errors import InputError

_WITH_JUDGE = ("run", "rows", "base_url")
_JUDGED, _NEURONPEDIA = "By a judge", "From Neuronpedia"


@app.command(
    "name",
    cls=Command,
    epilog="Example: geofilter bank name harmful-answers --model gemma-2-2b --neuronpedia --out named-bank",
)
@with_settings
def bank_name(
    ctx: typer.Context,
    bank: Annotated[str, typer.Argument(help="Bank folder or built-in name.", autocompletion=one_of(*BUILT_IN))],
    out: Annotated[Path, typer.Option(help="Folder of the bank with names; scan takes it with --bank."), OWN_TABLE],
    choice: TargetChoice,
    loading: Loading,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Have this model, as its endpoint names it, name the bank's features, and try the names.",
            rich_help_panel=_JUDGED,
        ),
        PER_CALL,
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Endpoint, as for geofilter judge.", rich_help_panel=_JUDGED)
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Rows that the features are looked at in; pieces of them are sent to the endpoint. Several times.",
            rich_help_panel=_JUDGED,
        ),
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows read of each file.", rich_help_panel=_JUDGED)] = 400,
    run: Annotated[
        Path | None,
        typer.Option(help="Name the features too that this run's reasons name.", rich_help_panel=_JUDGED),
        PER_CALL,
    ] = None,
    neuronpedia: Annotated[
        bool,
        typer.Option(
            "--neuronpedia",
            help="Take Neuronpedia's explanations, fetched once; nothing is sent but the SAE's name.",
            rich_help_panel=_NEURONPEDIA,
        ),
    ] = False,
    names: Annotated[
        Path | None,
        typer.Option(
            help="Take them from a file or folder of Neuronpedia's export; nothing is fetched.",
            rich_help_panel=_NEURONPEDIA,
        ),
    ] = None,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Give a bank's features names that a person can read, and say how far each can be trusted."""
    from geofilter.places import refuse_output, refuse_outputs

    if (judge is not None) + neuronpedia + (names is not None) != 1:
        raise InputError("say who names the features: give --judge MODEL, --neuronpedia, or --names FILE")
    if (judge is not None) != bool(data):
        raise InputError("--judge and --data go together: pieces of these rows are what the judge sees")
    for option in typed_options(ctx):
        if judge is None and option in _WITH_JUDGE:
            raise InputError(f"--{option.replace('_', '-')} goes with --judge; leave it out")
    if rows < 1:
        raise InputError(f"--rows {rows}: give 1 or more")
    with loading_libraries(quiet):
        from geofilter.bank.bank import ABOUT, ARRAYS
        from geofilter.build.named_bank import JOURNAL, Export, Judged, name_bank, said

    refuse_output(out, "--out", kind="bank")
    read = [
        *(data or []),
        *([names] if names else []),
        *([] if bank in BUILT_IN else [Path(bank) / ABOUT, Path(bank) / ARRAYS]),
    ]
    refuse_outputs([out / file for file in (ABOUT, ARRAYS, JOURNAL)], "--out", read, named=False)
    notify = notifier(quiet)
    how: Judged | Export = Export(names)
    if judge is not None:
        pieces = f"pieces of {', '.join(map(str, data or []))}"
        how = Judged(judge_of(ctx, judge, base_url, pieces, quiet), data or [], rows, *_named_by(run))
    _, made = name_bank(bank, out, choice, loading, how, offline=offline, notify=notify)
    say(f"{out}: {said(made)}")
    if "link" in made:
        say(f"from {made['link']}, {made['by']}")


def _named_by(run: Path | None) -> tuple[list[int], str | None]:
    """The features that a run's reasons name, and the fingerprint of its target."""
    if run is None:
        return [], None
    import numpy as np

    from geofilter.run.store import Run

    opened = Run.open(run)
    every = np.arange(opened.manifest["counts"]["scored"])
    named = {f["feature"] for _, line in opened.score_lines(every) for f in line["top_features"]}
    return sorted(named), opened.manifest["target"]["fingerprint"]
