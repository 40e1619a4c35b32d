"""`geofilter bank`: make, list, show and check banks."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geofilter.cli.options import OWN_TABLE, AsJson, Command, FieldNames, Offline, Quiet, System, one_of
from geofilter.cli.output import note, notifier, print_json, say
from geofilter.cli.progress import loading_libraries
from geofilter.cli.settings import with_settings
from geofilter.config import BANK_SIZE, BUILT_IN, Loading, TargetChoice
from geofilter.errors import BankError
from geofilter.text import inert

if TYPE_CHECKING:
    from geofilter.bank.bank import Bank


app = typer.Typer(
    no_args_is_help=True,
    help="Make, list and check banks of toxic features.",
    epilog="Example: geofilter bank build --bad bad.jsonl --good good.jsonl --model smollm2-135m --out my-bank",
)


@app.command(
    "build",
    cls=Command,
    epilog="Example: geofilter bank build --bad bad.jsonl --good good.jsonl --model smollm2-135m --out my-bank",
)
@with_settings
def bank_build(
    ctx: typer.Context,
    bad: Annotated[Path, typer.Option(help="JSONL of rows that should go, any row shape.")],
    good: Annotated[Path, typer.Option(help="JSONL of rows of the same kind that should stay.")],
    out: Annotated[Path, typer.Option(help="Bank folder to write; its name is the bank's name."), OWN_TABLE],
    choice: TargetChoice,
    loading: Loading,
    size: Annotated[int, typer.Option(help="Toxic features, and aligned ones, that the bank names.")] = BANK_SIZE,
    limit: Annotated[int | None, typer.Option(help="Use the first N rows of each file.")] = None,
    fields: FieldNames = None,
    system: System = "keep",
    prior: Annotated[
        bool,
        typer.Option(help="Build on the built-in banks, made once for the target (4,200 short rows are read)."),
    ] = True,
    examples: Annotated[
        bool,
        typer.Option(
            help="Keep beginnings of the rows in the bank, to show with reasons; whoever has it can read them."
        ),
    ] = True,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Learn a bank from labelled seed rows and check it on held-out rows."""
    from geofilter.places import refuse_output, refuse_outputs
    from geofilter.rows.fields import parse

    with loading_libraries(quiet):
        from geofilter.build.banks import build_from_files
        from geofilter.build.build import BuildOptions
        from geofilter.build.seeds import SeedFiles

    refuse_output(out, "--out", kind="bank")
    refuse_outputs([out / name for name in ("bank.json", "bank.safetensors")], "--out", [bad, good], named=False)
    bank = build_from_files(
        SeedFiles(bad, good, limit, parse(fields)), out, choice, loading, BuildOptions(size, system, examples=examples),
        prior=prior, offline=offline, notify=notifier(quiet),
    )  # fmt: skip
    for line in _describe_bank(bank):
        say(line)


@app.command("list", cls=Command, epilog="Example: geofilter bank list")
def list_banks() -> None:
    """The built-in banks."""
    for name, text in BUILT_IN.items():
        say(f"{name}: {text}")


@app.command("show", cls=Command, epilog="Example: geofilter bank show my-bank")
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
    """A bank's features with the words that name them and texts that show them, its topics and its own check.

    In the texts, which are rows the bank was built from, the tokens a feature is strongest on stand between marks.
    """
    with loading_libraries():
        from geofilter.build.banks import open_bank
    from geofilter.run.reasons import NO_WORDS, TONE

    found = open_bank(bank, choice, loading, offline, note)
    sides = {"toxic": _features(found, found.toxic, True), "aligned": _features(found, found.aligned, False)}
    if as_json:
        meta = {k: v for k, v in found.meta.items() if k != "examples"} | {"topics": found.topics.names}
        print_json({"name": found.name, "target": found.target, **meta, **sides})
        return
    for line in _describe_bank(found):
        say(line)
    for side, rows in sides.items():
        say("")
        say(f"{side} features (effect: standardised mean difference, bad minus good)")
        for f in rows[:features]:
            of = f"  [{', '.join(f['topics'])}]" if f.get("topics") else ""
            tone = f", {TONE}" if f["common"] else ""
            say(f"  {f['feature']:6d}  {f['effect']:+.2f}  {f['label'] or NO_WORDS}{of}{tone}")
            for e in f.get("examples", ()):
                for line in _wrapped("bad" if e["bad"] else "good", inert(_marked(e["text"], e["strong"]))):
                    say(line)


@app.command("check", cls=Command, epilog="Example: geofilter bank check my-bank --model smollm2-135m")
@with_settings
def bank_check(
    ctx: typer.Context,
    bank: Annotated[str, typer.Argument(help="Bank folder or built-in name.", autocompletion=one_of(*BUILT_IN))],
    choice: TargetChoice,
    loading: Loading,
    offline: Offline = False,
) -> None:
    """Does the bank belong to this target, and did it beat random banks on held-out rows? Exit 3 when not."""
    with loading_libraries():
        from geofilter.build.banks import open_bank

    found = open_bank(bank, choice, loading, offline, note, required=True)
    for line in _describe_bank(found):
        say(line)
    if found.weak:
        raise typer.Exit(3)


def _features(bank: Bank, ids: Iterable[int], toxic: bool) -> list[dict[str, Any]]:
    """What is shown of features: of toxic ones also the topics they count most for, and examples."""
    rows = []
    for i, f in enumerate(map(int, ids)):
        row = {"feature": f, "effect": round(float(bank.effect[f]), 4), "label": bank.labels[f],
               "common": bool(bank.common[f])}  # fmt: skip
        if toxic:
            row |= {"topics": bank.topics.of_feature(f), "examples": bank.examples[i]}
        rows.append(row)
    return rows


def _marked(text: str, strong: Sequence[Sequence[int]]) -> str:
    """The text with marks around the given spans."""
    for start, end in reversed(strong):
        text = f"{text[:start]}«{text[start:end]}»{text[end:]}"
    return text.strip()


def _wrapped(side: str, text: str) -> list[str]:
    """An example below its feature's line, as wide as the terminal, with the side its row is from."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
    return textwrap.wrap(text, width, initial_indent=f"{side:>14} | ", subsequent_indent=" " * 15 + "| ")


def _describe_bank(bank: Bank) -> Iterator[str]:
    if "evaluation" not in bank.meta:
        raise BankError(f"{bank.name}: does not say what it is worth on held-out rows; build it again")
    e = bank.meta["evaluation"]
    yield f"{bank.name}: {len(bank.toxic)} toxic and {len(bank.aligned)} aligned features of {bank.target['name']}"
    yield f"  {bank.meta.get('description', '')}"
    yield (
        f"  held out ({e['rows']['bad']} bad, {e['rows']['good']} good rows): AUROC {e['auroc']:.3f} "
        f"({e['interval'][0]:.3f} to {e['interval'][1]:.3f})"
    )
    yield (
        f"  beside it: contrast score {e['contrast']:.3f}, bag of words {e['bag_of_words']:.3f}, style "
        f"{e['style']:.3f}, shorter is worse {e['shorter_is_worse']:.3f}, best of 20 random banks "
        f"{e['random_banks']['best_either_way']:.3f}"
    )
    if bank.topics.names:
        yield f"  topics: {', '.join(bank.topics.names)}"
    if bank.weak:
        yield "  WEAK: it does not beat random banks on its own held-out rows"
