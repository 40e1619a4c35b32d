"""What the arms of a trial share: rows as tokens, what they are ranked by, and what is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geofilter.arrays import F64, Bools
from geofilter.bank.bank import Bank
from geofilter.config import Loading
from geofilter.encode.pair import checked_reader
from geofilter.encode.tokens import Encoded
from geofilter.errors import InputError
from geofilter.files import Notify
from geofilter.labels.source import parse
from geofilter.rows.records import Row, reading_for, usable_rows
from geofilter.run.rows import scored_rows
from geofilter.run.store import Run
from geofilter.scanning.reopen import banks_of, target_of
from geofilter.target.resolve import whole_model
from geofilter.target.target import Target
from geofilter.target.tokenizer import tokenizer_of
from geofilter.trial.arms import Arm, Removals
from geofilter.trial.config import SCORED, TrialConfig
from geofilter.trial.freeform import FreeForm
from geofilter.trial.measures import Items, encode_all, matched, read_items
from geofilter.trial.rankings import given, judged, losses, scores_under, words_under
from geofilter.trial.tune import Budget


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Everything that the arms share, read and checked before the first of them starts."""

    target: Target
    folder: Path
    """the whole model"""
    loading: Loading
    full: list[Encoded]
    good: list[Encoded]
    held: list[Encoded]
    budget: Budget
    statements: Items | None
    answers: list[Encoded]
    pairs: list[tuple[int, int]]
    """positions in `answers`: harmful, sound"""
    own: list[Encoded]
    """answers of `--own-pairs`"""
    own_pairs: list[tuple[int, int]]
    banks: list[Bank]
    removals: Removals
    swaps: list[Encoded | None]
    """for each row of `full` a sound answer to its prompt, where there is one"""
    free: FreeForm | None

    def left(self, arm: Arm) -> tuple[list[Encoded], dict[str, int]]:
        """The rows that an arm trains on, and how many were removed, swapped, and are bad where that is known."""
        removed = self.removals.of(arm)
        rows: list[Encoded] = []
        swapped = 0
        for row, gone, other in zip(self.full, removed, self.swaps, strict=True):
            if not gone:
                rows.append(row)
            elif arm.kind == "swap" and other is not None:
                rows.append(other)
                swapped += 1
        counts = {"rows": len(rows), "removed": int(removed.sum())}
        if arm.kind == "swap":
            counts["swapped"] = swapped
        bad = self.removals.bad
        if bad is not None:
            counts |= {"bad_rows": int((bad & ~removed).sum()), "bad_removed": int((bad & removed).sum())}
        return rows, counts


def gather(
    run: Run, config: TrialConfig, loading: Loading, free: FreeForm | None, offline: bool, notify: Notify
) -> Material:
    """Read and check what the arms of a trial share.

    Args:
        notify: told what is worth knowing.

    Raises:
        InputError, TargetError, RunError: see `trial.trial`.
    """
    system = run.manifest["encoding"]["system"]
    rows = list(scored_rows(run))
    bad = None
    if config.labels is not None:
        labeller = parse(config.labels)
        bad = np.array([labeller.of(row) is True for row in rows])
        if not bad.any():
            raise InputError(f"--labels {config.labels}: no bad row; {labeller.seen()}")
    seen = {row.content_sha256 for row in rows} | {row.prompt for row in rows if row.prompt}
    aligned = usable_rows(config.good, reading_for(config.good, run.reading))
    good = [row for row in aligned if row.content_sha256 not in seen and row.prompt not in seen]
    if len(good) < config.held_out + 8:
        raise InputError(
            f"--good {config.good}: {len(good)} rows that are not in the data; {config.held_out + 8} are needed "
            f"({config.held_out} to hold out), give more or lower --held-out"
        )
    np.random.default_rng(0).shuffle(good)
    answers = read_items(config.pairs, config.items)
    statements = read_items(config.statements, config.items) if config.statements else None
    pairs = matched(answers)
    target, read_as = target_of(run, notify)
    folder = whole_model(target, offline=offline, notify=notify)
    tokenizer = tokenizer_of(folder)

    def encoded(some: Sequence[Row]) -> list[Encoded]:
        return encode_all(some, tokenizer, config.max_tokens, system)

    full, others = encoded(rows), _swaps(config, run, rows)
    found = iter(encoded([row for row in others if row]))
    swaps = [next(found) if row else None for row in others]
    banks = banks_of(run, target, read_as, lambda: checked_reader(target, read_as, notify), notify)
    own = read_items(config.own_pairs, config.items) if config.own_pairs else Items((), ())
    return Material(
        target, folder, loading, full, encoded(good[config.held_out :]), encoded(good[: config.held_out]),
        Budget.of(full, config.recipe), statements, encoded(answers.rows), pairs,
        encoded(own.rows), matched(own),
        banks, Removals(run, _rankings(run, config, banks, rows, bad), bad), swaps, free,
    )  # fmt: skip


def _rankings(
    run: Run, config: TrialConfig, banks: Sequence[Bank], rows: Sequence[Row], bad: Bools | None
) -> dict[str, F64]:
    """What the arms that rank by anything but the run's own score rank by."""
    shas = [row.sha256 for row in rows]
    by = {kind: scores_under(run, banks, kind) for kind in config.arms if kind in SCORED}
    by |= {name: given(path, shas) for name, path in config.others().items()}
    if "loss" in config.arms:
        by["loss"] = losses(run)
    if "words" in config.arms:
        by["words"] = words_under(run, banks, rows)
    if config.judge_scores is not None and "judge" in config.arms:
        by["judge"] = judged(config.judge_scores, shas)
    if bad is not None and "labels" in config.arms:
        by["labels"] = bad.astype(np.float64)
    return by


def _swaps(config: TrialConfig, run: Run, rows: Sequence[Row]) -> list[Row | None]:
    """For each row another answer to its prompt, where `--swap` has one."""
    if config.swap is None:
        return [None] * len(rows)
    answers = {row.prompt: row for row in usable_rows(config.swap, reading_for(config.swap, run.reading))}
    found = [answers.get(row.prompt) if row.prompt else None for row in rows]
    if not any(found):
        raise InputError(f"--swap {config.swap}: no prompt of the data is in it")
    return found
