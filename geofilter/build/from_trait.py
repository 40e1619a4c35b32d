"""A bank from a sentence: a model's answers of two sides are made, kept beside the bank, and learnt from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from geofilter.bank.about import Source, TraitAbout
from geofilter.bank.bank import ABOUT, ARRAYS, Bank
from geofilter.bank.topics import MIN_ROWS
from geofilter.build.banks import built
from geofilter.build.build import BuildOptions
from geofilter.build.seeds import Seed
from geofilter.build.trait import Answer, TraitOptions, about, answered, examples, rendered
from geofilter.config import Loading, TargetChoice
from geofilter.encode.memory import give_back
from geofilter.encode.pair import require_pair
from geofilter.encode.whole import whole
from geofilter.errors import InputError, TargetError
from geofilter.files import Notify, atomic, make_folder
from geofilter.rows.records import Row, parse_line
from geofilter.target.resolve import resolve, whole_model
from geofilter.target.target import Target
from geofilter.target.tokenizer import tokenizer_of
from geofilter.together import mode_of

ROWS_FILE = "rows.jsonl"
"""in the bank's folder: every answer, and what became of it"""
FILES = (ABOUT, ARRAYS, ROWS_FILE)
"""of a bank that was made from a sentence"""


def build_from_trait(
    trait: TraitOptions,
    out: Path,
    choice: TargetChoice,
    loading: Loading,
    options: BuildOptions,
    *,
    prior: bool = True,
    offline: bool = False,
    notify: Notify = print,
) -> Bank:
    """Build a bank from a sentence and save it at `out`, with the answers it was learnt from beside it.

    Args:
        prior: see `build_from_files`.

    Raises:
        InputError: too few answers are left; they are in `out` all the same, unless a bank is there.
        TargetError: a model without a chat template, or what `resolve.resolve` and `trait.answered` raise.
        BankError: see `build`.
    """
    target = resolve(choice, offline=offline, notify=notify)
    tokenizer = tokenizer_of(target.model_dir)
    if not tokenizer.chat_template:
        raise TargetError(
            f"{target.model}: has no chat template, so it gives no answers under a system prompt; take a model that "
            "was trained for chat, or give labelled rows with --bad and --good"
        )
    rendered(trait, tokenizer)  # which refuses what cannot be asked, before anything that takes long
    require_pair(target, loading, notify)
    answers = answers_of(trait, target, loading, offline=offline, notify=notify)
    made = about(trait, answers, target.model)
    path, mode = out / ROWS_FILE, None if trait.questions.built_in else mode_of([trait.questions.path])
    lines = [answer.line() for answer in answers]
    if not (out / ABOUT).exists():
        _keep_rows(path, lines, mode)
    _require_enough(made, path)
    for text in examples(answers):
        notify(f"kept, of the side {text}")
    seeds = [
        _seed(line, path, number, answer)
        for number, (line, answer) in enumerate(zip(lines, answers, strict=True), start=1)
        if not answer.why
    ]
    rows: Source = {
        "file": ROWS_FILE, "sha256": hashlib.sha256(b"".join(lines)).hexdigest(), "rows": len(lines),
        "bad": made["kept"]["bad"], "good": made["kept"]["good"],
    }  # fmt: skip
    sources = {"rows": rows, "questions": trait.questions.source()}
    bank = built(out, target, loading, seeds, sources, replace(options, trait=made), prior, notify)
    _keep_rows(path, lines, mode)
    bank.save(out, mode)
    return bank


def answers_of(
    trait: TraitOptions, target: Target, loading: Loading, *, offline: bool = False, notify: Notify = print
) -> list[Answer]:
    """What the whole model of a target answers; it is gone again afterwards.

    Raises:
        InputError, TargetError: see `trait.answered` and `resolve.whole_model`.
    """
    folder = whole_model(target, offline=offline, notify=notify)
    model, tokenizer = whole(folder, loading, target.adapter_dir)
    try:
        return answered(trait, model, tokenizer, notify)
    finally:
        del model
        give_back()


def _require_enough(made: TraitAbout, path: Path) -> None:
    """Refuse to learn from too few answers.

    Raises:
        InputError: fewer than `MIN_ROWS` of a side are kept.
    """
    n, of = made["kept"], made["asked"]
    if min(n["bad"], n["good"]) >= MIN_ROWS:
        return
    why = "" if (path.parent / ABOUT).exists() else f" ({path} says why the others are not)"
    raise InputError(
        f"--trait: {n['bad']} of {of['bad']} answers that show the trait are kept and {n['good']} of {of['good']} that "
        f"show its opposite{why}, and a bank needs {MIN_ROWS} of each; say more plainly what the answers are to do, "
        "ask more (--answers-per-question, --questions), take a larger model, or give rows with --bad and --good"
    )


def _keep_rows(path: Path, lines: Sequence[bytes], mode: int | None) -> None:
    make_folder(path.parent)
    with atomic(path, mode) as handle:
        handle.writelines(lines)


def _seed(line: bytes, path: Path, number: int, answer: Answer) -> Seed:
    row = parse_line(line, str(path), number)
    if not isinstance(row, Row):
        raise InputError(f"{path}, line {number}: {row.error if row else 'is no row'}; change or remove the question")
    return Seed(row, answer.bad, answer.question)
