"""`geofilter bank`: make, list, show and check banks."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geofilter.cli.approval import check_endpoint
from geofilter.cli.options import OWN_TABLE, PER_CALL, AsJson, Command, FieldNames, Offline, Quiet, System, one_of
from geofilter.cli.output import note, notifier, print_json, say
from geofilter.cli.progress import loading_libraries
from geofilter.cli.settings import taken_from_file, typed_options, with_settings
from geofilter.config import BANK_SIZE, BUILT_IN, Loading, TargetChoice
from geofilter.errors import BankError, InputError
from geofilter.text import inert

if TYPE_CHECKING:
    from geofilter.bank.about import TraitAbout
    from geofilter.bank.bank import Bank
    from geofilter.judge.client import Judge


_TRAIT = "From a sentence"
_WITH_ROWS = ("limit", "fields", "system")
_WITH_TRAIT = ("questions", "answers_per_question", "max_new_tokens", "seed", "judge", "base_url")
"""options that go with one way of building a bank alone"""

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
    out: Annotated[Path, typer.Option(help="Bank folder to write; its name is the bank's name."), OWN_TABLE],
    choice: TargetChoice,
    loading: Loading,
    bad: Annotated[Path | None, typer.Option(help="JSONL of rows that should go, any row shape.")] = None,
    good: Annotated[Path | None, typer.Option(help="JSONL of rows of the same kind that should stay.")] = None,
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
    trait: Annotated[
        str | None,
        typer.Option(
            help="In place of --bad and --good: what rows do that should go, in a sentence. The model answers "
            "questions under system prompts that say so, and under their opposites.",
            metavar="SENTENCE",
            rich_help_panel=_TRAIT,
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="File of questions, one a line, or JSONL with a prompt; without it forty of the package's own.",
            rich_help_panel=_TRAIT,
        ),
    ] = None,
    answers_per_question: Annotated[
        int, typer.Option(help="Answers to each question, of each side.", rich_help_panel=_TRAIT)
    ] = 3,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer.", rich_help_panel=_TRAIT)] = 80,
    seed: Annotated[int, typer.Option(help="Of the answers' draws.", rich_help_panel=_TRAIT)] = 0,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Have this model, as its endpoint names it, say which answers show the trait; without it their "
            "likelihood does.",
            rich_help_panel=_TRAIT,
        ),
        PER_CALL,
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Endpoint, as for geofilter judge.", rich_help_panel=_TRAIT)
    ] = None,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Learn a bank from labelled seed rows, or from a sentence, and check it on held-out rows."""
    from geofilter.places import refuse_output, refuse_outputs
    from geofilter.rows.fields import parse

    _refuse_mixture(typed_options(ctx), trait is not None, bad is not None and good is not None)
    with loading_libraries(quiet):
        from geofilter.bank.bank import ABOUT, ARRAYS
        from geofilter.build.banks import build_from_files
        from geofilter.build.build import BuildOptions
        from geofilter.build.from_trait import FILES, build_from_trait
        from geofilter.build.questions import built_in_questions, read_questions
        from geofilter.build.seeds import SeedFiles
        from geofilter.build.trait import TraitOptions

    refuse_output(out, "--out", kind="bank")
    read = [path for path in (bad, good, questions) if path is not None]
    written = FILES if trait is not None else (ABOUT, ARRAYS)
    refuse_outputs([out / name for name in written], "--out", read, named=False)
    how, notify = BuildOptions(size, system, examples=examples), notifier(quiet)
    if trait is None:
        assert bad is not None and good is not None
        files = SeedFiles(bad, good, limit, parse(fields))
        bank = build_from_files(files, out, choice, loading, how, prior=prior, offline=offline, notify=notify)
    else:
        asked = TraitOptions(
            trait, built_in_questions() if questions is None else read_questions(questions), answers_per_question,
            max_new_tokens, seed, None if judge is None else judge_of(ctx, judge, base_url, "the answers", quiet),
        )  # fmt: skip
        bank = build_from_trait(asked, out, choice, loading, how, prior=prior, offline=offline, notify=notify)
    for line in _describe_bank(bank):
        say(line)


def _refuse_mixture(typed: Collection[str], trait: bool, rows: bool) -> None:
    """Refuse a sentence and rows at once, neither of them, and options of the other one; those of a file are let be."""
    if trait and {"bad", "good"} & set(typed):
        raise InputError("--trait makes the rows itself; give it, or --bad and --good")
    if not (trait or rows):
        raise InputError("give rows with --bad and --good, or say with --trait what rows do that should go")
    for option in typed:
        if option in (_WITH_ROWS if trait else _WITH_TRAIT):
            needs = "--bad and --good" if trait else "--trait"
            raise InputError(f"--{option.replace('_', '-')} goes with {needs}; leave it out")
    if "base_url" in typed and "judge" not in typed:
        raise InputError("--base-url is a judge's; give --judge too, or leave it out")


def judge_of(ctx: typer.Context, model: str, base_url: str | None, what: str, quiet: bool) -> Judge:
    """The judge that a command asks.

    Args:
        what: that is sent to it, as a person is told.
    """
    from geofilter.judge.client import Judge

    send_key = check_endpoint(taken_from_file(ctx), base_url)
    found = Judge(model, base_url, notify=notifier(quiet), send_key=send_key)
    # Also when quiet: text leaves this machine.
    note(f"{what} will be sent to {found.base_url} for {model}")
    return found


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
    """A bank's features with their names, or the words they are strongest on, texts that show them, topics and check.

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
            right = f" (right in {f['right']:.0%})" if f.get("right") is not None else ""
            say(f"  {f['feature']:6d}  {f['effect']:+.2f}  {f['label'] or NO_WORDS}{right}{of}{tone}")
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
        row = {"feature": f, "effect": round(float(bank.effect[f]), 4), "label": bank.called(f),
               "common": bool(bank.common[f])}  # fmt: skip
        if (name := bank.names.get(f)) is not None:
            row |= {"words": bank.labels[f], "right": name.get("right")}
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


def _describe_trait(t: TraitAbout) -> Iterator[str]:
    """How the rows were made that a bank from a sentence was learnt from."""
    by = f"by the judge {t['judge']}" if "judge" in t else "by likelihood"
    yield (
        f"  rows: answers of {t['generator']} of up to {t['max_new_tokens']} tokens; kept {by}: "
        f"{t['kept']['bad']} of {t['asked']['bad']} under prompts that show the trait, {t['kept']['good']} of "
        f"{t['asked']['good']} under their opposites (rows.jsonl has all of them)"
    )


def _describe_bank(bank: Bank) -> Iterator[str]:
    if "evaluation" not in bank.meta:
        raise BankError(f"{bank.name}: does not say what it is worth on held-out rows; build it again")
    e = bank.meta["evaluation"]
    yield f"{bank.name}: {len(bank.toxic)} toxic and {len(bank.aligned)} aligned features of {bank.target['name']}"
    yield f"  {bank.meta.get('description', '')}"
    if "trait" in bank.meta:
        yield from _describe_trait(bank.meta["trait"])
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
