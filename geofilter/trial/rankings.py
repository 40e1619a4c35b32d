"""What the removing arms of a trial rank by; the highest go first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geofilter.arrays import F64
from geofilter.bank.about import BankAbout
from geofilter.bank.bank import Bank
from geofilter.bank.scorer import Scorer
from geofilter.errors import InputError
from geofilter.evaluate.wording import bank_word_lines
from geofilter.files import from_json
from geofilter.judge.rating import stored_rating
from geofilter.rows.lines import read_lines
from geofilter.rows.records import Row
from geofilter.run.handicap import ROW_SHAPE, bare, largest
from geofilter.run.power import loss_known
from geofilter.run.store import Run


def scores_under(run: Run, banks: Sequence[Bank], scorer: str) -> F64:
    """(n,) the scored rows under another scorer; which of several banks counts is decided as in a scan."""
    scorers = [Scorer(bank, scorer) for bank in banks]
    parts = []
    for shard in run.shards(tokens=False):
        shas = shard.shas()
        parts.append(np.stack([s.standard(shard.pooled, shas) for s in scorers]))
    return _largest(run, banks, np.concatenate(parts, axis=1))


def words_under(run: Run, banks: Sequence[Bank], rows: Sequence[Row]) -> F64:
    """(n,) the scored rows under bags of words of the banks' own texts, each in standard deviations of these rows.

    Args:
        rows: the scored rows, in their order.

    Raises:
        InputError: a bank that does not know what it was learnt from.
    """
    about: dict[str, BankAbout] = {bank["name"]: bank for bank in run.manifest["banks"]}
    lines = bank_word_lines([(bank, about[bank.name]) for bank in banks], [row.response for row in rows])
    if len(lines) < len(banks):
        raise InputError("--arm words: a bank of this run keeps none of the texts it was learnt from")
    standard = [(line.score - line.score.mean()) / max(line.score.std(), 1e-12) for line in lines]
    return _largest(run, banks, np.stack(standard))


def _largest(run: Run, banks: Sequence[Bank], standard: F64) -> F64:
    arrays = run.arrays(ROW_SHAPE)
    return largest(banks, standard, bare(*(arrays[name] for name in ROW_SHAPE)))


def losses(run: Run) -> F64:
    """(n,) loss per token of the scored rows with their prompts, the unlikeliest wording first.

    Raises:
        InputError: the scan did not store it.
    """
    if not run.manifest["encoding"].get("with_loss"):
        raise InputError("--arm loss: the run has no loss per token; scan with --with-loss")
    loss: F64 = run.arrays(["loss"])["loss"][:, 0].astype(np.float64)
    return np.where(loss_known(loss), loss, -1.0)


def judged(path: Path, shas: Sequence[str]) -> F64:
    """(n,) 100 less the judge's alignment of each row; -1 for rows without a rating, which are removed last.

    Args:
        path: what `geofilter judge` wrote.

    Raises:
        InputError: not such a file, or a row that it does not list.
    """
    ratings = _by_row(path, "alignment", "a line of geofilter judge (sha256, alignment)", shas)
    return np.array([-1.0 if rating is None else 100 - stored_rating(rating) for rating in ratings])


def given(path: Path, shas: Sequence[str]) -> F64:
    """(n,) scores of the rows that another tool gave.

    Args:
        path: JSONL of `sha256` and `score`; the highest score is removed first.

    Raises:
        InputError: not such a file, a score that is no finite number, or a row that it does not list.
    """
    scores = _by_row(path, "score", "a line of sha256 and score", shas)
    if None in scores:
        raise InputError(f"{path}: {scores.count(None):,} rows have no score; score them, or leave --other out")
    return np.array([float(score) for score in scores])


def _by_row(path: Path, key: str, layout: str, shas: Sequence[str]) -> list[Any]:
    """What a file has under a key for each row: a finite number or None."""
    found: dict[str, Any] = {}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            record = from_json(line)
            value = record[key]
            if value is not None and not math.isfinite(float(value)):
                raise ValueError
            found[record["sha256"]] = value
        except (ValueError, KeyError, TypeError, OverflowError):
            raise InputError(f"{path}, line {number}: not {layout}") from None
    absent = [sha for sha in shas if sha not in found]
    if absent:
        raise InputError(f"{path}: {len(absent)} of {len(shas)} rows are not in it; score the same data again")
    return [found[sha] for sha in shas]
