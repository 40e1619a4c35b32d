"""`geofilter filter`: cut a scanned data set."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.cli.options import (
    OWN_TABLE,
    PER_CALL,
    AsJson,
    Command,
    Quiet,
    RunArg,
    StepSummary,
    Verbose,
    open_run,
    out_place,
    publish,
)
from geofilter.cli.output import note, print_json, summary_file
from geofilter.cli.settings import with_settings
from geofilter.errors import InputError, RunError, TargetError

if TYPE_CHECKING:
    from geofilter.cut.cut import Cut
    from geofilter.cut.mask import Mask
    from geofilter.run.store import Run

app = typer.Typer()


@app.command(cls=Command, epilog="Example: geofilter filter --drop 10%")
@with_settings
def filter(  # noqa: A001 (the command's name)
    ctx: typer.Context,
    run: RunArg = None,
    drop: Annotated[str | None, typer.Option(help="Amount to remove: 10% of the scored rows, or 500 rows.")] = None,
    keep: Annotated[str | None, typer.Option(help="Amount to keep: 90% or a number of rows.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Remove rows from this percentile on, 0.99 for instance.")
    ] = None,
    bank: Annotated[
        list[str] | None,
        typer.Option(
            help="Go by this bank of the scan alone: its rows are scored anew, from what is stored. Repeat for several."
        ),
        PER_CALL,
    ] = None,
    keep_group: Annotated[
        list[int] | None,
        typer.Option(help="Keep a group of rows that would go, by its number in the last report. Repeat for several."),
        PER_CALL,
    ] = None,
    drop_group: Annotated[
        list[int] | None,
        typer.Option(help="Remove a group of rows that would stay, likewise."),
        PER_CALL,
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the kept rows, a folder or URL for all outputs, or - for standard output.",
            parser=out_place,
            metavar="PATH",
        ),
        OWN_TABLE,
    ] = None,
    removed: Annotated[Path | None, typer.Option(help="File for the removed rows."), OWN_TABLE] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Write the removed rows here too, their answers empty: to be answered again, see geofilter replace."
        ),
        OWN_TABLE,
    ] = None,
    swap: Annotated[
        Path | None,
        typer.Option(
            help="Write here the removed preference pairs whose chosen answer scores higher than the rejected one, "
            "with their answers exchanged; after scan --pairs difference."
        ),
        OWN_TABLE,
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Write here what a loss should leave out of the kept rows: the sentences by which they score high."
        ),
        OWN_TABLE,
    ] = None,
    mask_above: Annotated[
        float | None,
        typer.Option(help="With --mask: leave out of rows that score above this, down to it; 1.5 by default."),
        PER_CALL,
    ] = None,
    step_summary: StepSummary = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Cut a scanned data set: kept, removed and quarantined rows and a report, beside the data. Loads no model."""
    from geofilter.answers.prompts import refuse_place, write_prompts
    from geofilter.cut.swap import Swap
    from geofilter.files import append
    from geofilter.report.published import publish_sets
    from geofilter.report.write import filter_run
    from geofilter.run.again import FILTER, score_under
    from geofilter.run.mirror import behind

    cut, _ = _parse_cut(drop, keep, threshold), summary_file(step_summary)
    opened, piped = open_run(run, FILTER if bank else ""), str(out) == "-"
    summary = summary_file(step_summary, opened.manifest["data"])
    if piped:
        _refuse_piped(opened, as_json)
    if bank:
        score_under(opened, bank)
    store = None if out is None else behind(out)
    if store is not None and removed is not None:
        raise InputError(f"--removed {removed}: leave it out; --out {store.url} takes the removed rows too")
    place = opened.path if piped else out
    if prompts is not None:
        refuse_place(opened, prompts, place, removed)
    _refuse_one_place({"--prompts": prompts, "--swap": swap, "--mask": mask})
    masked = _mask(opened, mask, mask_above, place, removed)
    filtered = filter_run(
        opened, cut, place, removed, keep_groups=keep_group or (), drop_groups=drop_group or (), mask=masked,
        swap=None if swap is None else Swap(swap),
    )  # fmt: skip
    if store is not None:
        publish_sets(filtered.outputs, store.url)
    publish(opened)
    for text in () if prompts is None else write_prompts(opened, prompts).text():
        note(text)
    if summary is not None:
        append(summary, (opened.path / "report.md").read_text("utf-8"))
    if as_json:
        print_json(filtered.report.data)
        return
    from geofilter.cli.filtered import say_filtered

    say_filtered(filtered, quiet, verbose, "" if store is None else store.url)
    if piped:
        with filtered.outputs[0].kept.open("rb") as kept:
            shutil.copyfileobj(kept, sys.stdout.buffer)


def _refuse_one_place(named: dict[str, Path | None]) -> None:
    """Refuse one place for what several options write."""
    taken: dict[Path, str] = {}
    for option, path in named.items():
        if path is not None and (other := taken.setdefault(path.resolve(), option)) != option:
            raise InputError(f"{option} {path}: {other} takes this place too; give another name")


def _mask(run: Run, path: Path | None, above: float | None, out: Path | None, removed: Path | None) -> Mask | None:
    """The mask that is asked for, with positions of tokens where the target's tokenizer is here."""
    from geofilter.cut.mask import ABOVE, Mask

    if path is None:
        if above is not None:
            raise InputError("--mask-above: goes with --mask FILE, which says where the mask is written")
        return None
    mask = Mask(path, ABOVE if above is None else above)
    mask.refuse(run, out, removed)
    from geofilter.scanning.positions import encoder

    try:
        return mask.with_tokens(*encoder(run, note))
    except (RunError, TargetError) as error:
        note(f"note: the mask has spans of characters alone, no positions of tokens: {error}")
        return mask


def _refuse_piped(run: Run, as_json: bool) -> None:
    if as_json:
        raise InputError("--out -: --json is on standard output too; leave it out")
    if len(run.manifest["data"]) > 1:
        raise InputError("--out -: the run has several inputs; give a folder")


def _parse_cut(drop: str | None, keep: str | None, threshold: float | None) -> Cut:
    from geofilter.cut.cut import Cut

    if sum(x is not None for x in (drop, keep, threshold)) != 1:
        raise InputError("give exactly one of --drop, --keep and --threshold, for instance --drop 10%")
    if threshold is not None:
        return Cut.threshold(threshold)
    return Cut.parse(keep, keep=True) if keep is not None else Cut.parse(drop or "")
