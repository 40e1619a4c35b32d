"""Which rows of a run have a label, and which of them its banks were learnt from: how these are scored says nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import numpy as np

from geofilter.arrays import Bools
from geofilter.errors import RunError
from geofilter.files import from_json
from geofilter.rows.lines import read_lines
from geofilter.run.names import LABELS
from geofilter.run.store import Run

MIN_SIDE = 5
"""labelled rows of either kind that a bank can be learnt from"""
AT_RANDOM = "at random"
"""why a row was shown that was drawn from all; the others were chosen by their scores"""


def random_of(scores: str, cut: str) -> str:
    """Why a row was shown that was drawn at random from those that a cut removes, or from those that it keeps.

    Args:
        scores: sha256 of the score arrays that were cut.
        cut: as text.
    """
    return f"{AT_RANDOM}: {cut}, scores {scores[:12]}"


def random_among(scores: str, cut: str) -> tuple[str, str]:
    """What the rows of a cut were shown for that say how often it is right; under another cut, they need not."""
    return AT_RANDOM, random_of(scores, cut)


@dataclass(frozen=True, slots=True)
class Label:
    """One label as it was given to `geofilter label`."""

    bad: bool | None
    """None where none could be given"""
    by: str
    """who said so"""
    why: str = ""
    """what the row was shown for"""
    topic: str = ""
    """kind of harm or subject, where one was given with it"""


class LabelLine(TypedDict):
    """A line of a run's labels.jsonl."""

    sha256: str
    """of the row"""
    file: str
    line: int
    label: str | None
    by: str
    why: str
    topic: NotRequired[str]
    """where one was given with the label"""
    check: str
    """hash of the others, so that a damaged line is known; whoever changes a line by hand leaves it out"""


def label_line(sha256: str, label: Label, file: str, line: int) -> LabelLine:
    """What is written of a row's label."""
    said = None if label.bad is None else "bad" if label.bad else "good"
    given: dict[str, Any] = {
        "sha256": sha256, "file": file, "line": line, "label": said, "by": label.by, "why": label.why
    } | ({"topic": label.topic} if label.topic else {})  # fmt: skip
    return cast("LabelLine", {**given, "check": _check(given)})


def _check(given: Mapping[str, Any]) -> str:
    text = json.dumps({name: of for name, of in given.items() if name != "check"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def given_labels(path: Path) -> dict[str, Label]:
    """The labels of a run's labels.jsonl by the row's sha256, in the order in which they were given.

    Raises:
        RunError: a line that is no label.
    """
    found: dict[str, Label] = {}
    if not path.is_file() or not path.stat().st_size:
        return found
    for number, line in enumerate(read_lines(path), start=1):
        try:
            entry = from_json(line)
            if entry.get("check", _check(entry)) != _check(entry):
                raise RunError(
                    f"{path}, line {number}: is not as it was written; give the row its label again, or leave the "
                    "field check out if you have changed the line by hand"
                )
            bad = {"bad": True, "good": False, None: None}[entry["label"]]
            found[str(entry["sha256"])] = Label(bad, str(entry["by"]), str(entry["why"]), str(entry.get("topic", "")))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RunError(
                f"{path}, line {number}: no label of geofilter label; mend or remove the line, or move the file away "
                "and take labels from it with --from"
            ) from None
    return found


def labels_of(run: Run) -> dict[str, bool]:
    """Which labelled rows of a run are bad, by their sha256.

    Raises:
        RunError: labels.jsonl holds a line that is no label.
    """
    return {sha: label.bad for sha, label in given_labels(run.path / LABELS).items() if label.bad is not None}


def learnt_by(run: Run) -> dict[str, Bools]:
    """For each bank of a run that was learnt from some of its scored rows (n,), from which.

    They are known by what they say, and were told when the run was scored: the bank may be gone since.

    Raises:
        RunError: the scores are damaged.
    """
    learnt = run.columns(["learnt"])["learnt"]
    found = {bank["name"]: learnt.each(np.bool_, itemgetter((..., i))) for i, bank in enumerate(run.manifest["banks"])}
    return {name: of for name, of in found.items() if of.any()}


def learnt_from(run: Run) -> Bools:
    """Which scored rows (n,) of a run any of its banks was learnt from, see `learnt_by`."""
    return run.columns(["learnt"])["learnt"].where(lambda rows: np.logical_or.reduce(rows, axis=1))


def held_out(run: Run, names: Iterable[str]) -> str:
    """What banks of a run are worth on rows that they were not learnt from, as far as it was checked, in words."""
    names = set(names)
    checks = [(b["name"], b.get("evaluation")) for b in run.manifest["banks"] if b["name"] in names]
    return "; ".join(
        f"{name} AUROC {e['auroc']:.2f} ({e['interval'][0]:.2f} to {e['interval'][1]:.2f}), bag of words "
        f"{e['bag_of_words']:.2f}"
        for name, e in checks
        if e
    )
