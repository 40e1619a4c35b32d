"""The labelled ones of a run's scored rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from geofilter.arrays import Bools, Positions
from geofilter.errors import InputError
from geofilter.labels.source import Labeller
from geofilter.rows.fields import lookup
from geofilter.rows.records import Row
from geofilter.run.labelled import MIN_SIDE, held_out, learnt_by, learnt_from
from geofilter.run.rows import scored_rows
from geofilter.run.store import Run


class LabelsAbout(TypedDict):
    """The labels, and how many rows have one, see `of_run`."""

    rule: str
    scored: int
    labelled: int
    bad: int
    good: int
    without_label: int
    learnt_from: int
    labels_without_row: int
    groups: int
    grouped_by: str


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """The m labelled ones of a run's scored rows, in input order."""

    position: Positions
    """(m,) 0-based among the scored rows"""
    bad: Bools
    """(m,)"""
    groups: list[str]
    """rows of one group are drawn together by a bootstrap and never split between fitting and testing"""
    texts: list[str]
    """responses"""
    contents: frozenset[str]
    """see `Row.content_sha256`"""
    about: LabelsAbout
    """the rule and the counts"""


def group_of(row: Row, pair: str | None = None) -> str:
    """What a row stays together with: its pair (the field `pair`, or the one named), else its prompt, else itself."""
    value = lookup(row.record, pair or "pair")
    # Kinds are kept apart, so that a pair named like another row's prompt is not taken for it.
    return f"pair {value}" if value is not None else f"prompt {row.prompt}" if row.prompt else row.sha256


def of_run(run: Run, labeller: Labeller, pair: str | None = None) -> Labelled:
    """Read a run's inputs again and label its scored rows; those without a label are left out and counted.

    So are rows that a bank of the run was learnt from, see `run.labelled`: how it scores them says nothing of others.

    Args:
        pair: field that names a row's group; by default `pair` where a row has it, else its prompt, else itself.

    Raises:
        InputError: fewer than five rows on a side, or no row has the field `pair`.
        RunError: an input has changed since the scan.
    """
    position, bad, groups, texts, contents = [], [], [], [], set()
    paired = n_learnt = 0
    learnt = learnt_from(run)
    for i, row in enumerate(scored_rows(run)):
        if (label := labeller.of(row)) is None:
            continue
        if learnt[i]:
            n_learnt += 1
            continue
        position.append(i)
        bad.append(label)
        texts.append(row.response)
        contents.add(row.content_sha256)
        paired += lookup(row.record, pair or "pair") is not None
        groups.append(group_of(row, pair))
    if pair is not None and position and not paired:
        raise InputError(f"--pair {pair}: no labelled row has this field; leave it out to group rows by their prompt")
    n_bad, n_good = sum(bad), len(bad) - sum(bad)
    seen = labeller.seen()
    if n_learnt:
        seen += (
            f"; {n_learnt} of them are those the run's bank was learnt from (held out: {held_out(run, learnt_by(run))})"
        )
    check_sides(f"--labels {labeller.text}", n_bad, n_good, seen)
    about: LabelsAbout = {
        "rule": labeller.text,
        "scored": len(learnt),
        "labelled": len(bad),
        "bad": n_bad,
        "good": n_good,
        "without_label": len(learnt) - len(bad) - n_learnt,
        "learnt_from": n_learnt,
        "labels_without_row": labeller.unused(),
        "groups": len(set(groups)),
        "grouped_by": pair or ("pair, else prompt" if paired else "prompt"),
    }
    return Labelled(np.array(position, np.int64), np.array(bad), groups, texts, frozenset(contents), about)


def check_sides(what: str, n_bad: int, n_good: int, seen: str) -> None:
    """Refuse labels that leave a side with fewer than five rows.

    Args:
        what: the option they come from.
        seen: what was found instead.

    Raises:
        InputError: they do.
    """
    if not n_bad or not n_good:
        missing = "bad and no good" if not n_bad and not n_good else "bad" if not n_bad else "good"
        raise InputError(f"{what}: no {missing} row; {seen}")
    if min(n_bad, n_good) < MIN_SIDE:
        raise InputError(
            f"{what}: {n_bad} bad and {n_good} good rows; at least {MIN_SIDE} of each are needed, label more rows"
        )
