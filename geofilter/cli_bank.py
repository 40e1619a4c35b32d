"""`geofilter bank`: make, list, show and check banks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geofilter.config import BUILT_IN, Loading, TargetChoice
from geofilter.options import (
    OWN_TABLE,
    AsJson,
    FieldNames,
    Offline,
    Quiet,
    System,
    note,
    notifier,
    one_of,
    with_settings,
)

if TYPE_CHECKING:
    from geofilter.bank import Bank

app = typer.Typer(
    no_args_is_help=True,
    help="Make, list and check banks of toxic features.",
    epilog="Example: geofilter bank build --bad bad.jsonl --good good.jsonl --model smollm2-135m --out my-bank",
)


@app.command(
    "build", epilog="Example: geofilter bank build --bad bad.jsonl --good good.jsonl --model smollm2-135m --out my-bank"
)
@with_settings
def bank_build(
    ctx: typer.Context,
    bad: Annotated[Path, typer.Option(help="JSONL of rows that should go, any row shape.")],
    good: Annotated[Path, typer.Option(help="JSONL of rows of the same kind that should stay.")],
    out: Annotated[Path, typer.Option(help="Bank folder to write; its name is the bank's name."), OWN_TABLE],
    choice: TargetChoice,
    loading: Loading,
    size: Annotated[int, typer.Option(help="Toxic features, and aligned ones, that the bank names.")] = 100,
    limit: Annotated[int | None, typer.Option(help="Use the first N rows of each file.")] = None,
    fields: FieldNames = None,
    system: System = "keep",
    prior: Annotated[
        bool,
        typer.Option(help="Build on the built-in banks, made once for the target (4,200 short rows are read)."),
    ] = True,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Learn a bank from labelled seed rows and check it on held-out rows."""
    from geofilter.fields import parse
    from geofilter.seeding import build_from_files

    bank = build_from_files(
        bad, good, out, choice, loading, size, limit, system, offline, notifier(quiet), prior, parse(fields)
    )
    for line in _describe_bank(bank):
        typer.echo(line)


@app.command("list", epilog="Example: geofilter bank list")
def list_banks() -> None:
    """The built-in banks."""
    for name, text in BUILT_IN.items():
        typer.echo(f"{name}: {text}")


@app.command("show", epilog="Example: geofilter bank show my-bank")
@with_settings
def bank_show(
    ctx: typer.Context,
    bank: Annotated[
        str,
        typer.Argument(
            help="Bank folder, or a built-in name (then --model is needed).", autocompletion=one_of(*BUILT_IN)
        ),
    ],
    choice: TargetChoice,
    loading: Loading,
    features: Annotated[int, typer.Option(help="Features shown on each side.")] = 20,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """A bank's features with their strongest tokens, its sources and its own check."""
    from geofilter.seeding import open_bank

    found = open_bank(bank, choice, loading, offline, note)
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


@app.command("check", epilog="Example: geofilter bank check my-bank --model smollm2-135m")
@with_settings
def bank_check(
    ctx: typer.Context,
    bank: Annotated[str, typer.Argument(help="Bank folder or built-in name.", autocompletion=one_of(*BUILT_IN))],
    choice: TargetChoice,
    loading: Loading,
    offline: Offline = False,
) -> None:
    """Does the bank belong to this target, and did it beat random banks on held-out rows? Exit 3 when not."""
    from geofilter.seeding import open_bank

    found = open_bank(bank, choice, loading, offline, note, required=True)
    for line in _describe_bank(found):
        typer.echo(line)
    if found.weak:
        raise typer.Exit(3)


def _describe_bank(bank: Bank) -> Iterator[str]:
    e = bank.meta["evaluation"]
    yield f"{bank.name}: {len(bank.toxic)} toxic and {len(bank.aligned)} aligned features of {bank.target['name']}"
    yield f"  {bank.meta['description']}"
    yield (
        f"  held out ({e['rows']['bad']} bad, {e['rows']['good']} good rows): AUROC {e['auroc']:.3f} "
        f"({e['interval'][0]:.3f} to {e['interval'][1]:.3f})"
    )
    yield (
        f"  beside it: contrast score {e['contrast']:.3f}, bag of words {e['bag_of_words']:.3f}, style "
        f"{e['style']:.3f}, shorter is worse {e['shorter_is_worse']:.3f}, best of 20 random banks "
        f"{e['random_banks']['best_either_way']:.3f}"
    )
    if bank.weak:
        yield "  WEAK: it does not beat random banks on its own held-out rows"
