"""Which shards of a scan are there, and which are to be made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geofilter.arrays import Bools
from geofilter.errors import InputError, RunError
from geofilter.files import Notify
from geofilter.run.names import FEATURES
from geofilter.run.shard import Shard, misplaced, unusable_of
from geofilter.run.store import Run
from geofilter.scanning.plan import Plan, Ranges


@dataclass(frozen=True, slots=True)
class Present:
    """What there is of a scan."""

    todo: Ranges
    """the shards that are to be made"""
    lines: int
    """of the shards that are there, of those that were asked about"""


def present(
    run: Run, plan: Plan, fingerprint: str, asked: tuple[int, int], notify: Notify, *, fail: bool = False
) -> Present:
    """Look which shards are there; one that cannot be believed goes, and is told of.

    Args:
        fingerprint: of the scan's encoding.
        asked: from the first to before the second of these numbers.
        fail: rows that cannot be scored are an error.

    Raises:
        InputError: a row cannot be scored, where that is an error.
    """
    start, stop = asked
    if run.mirror is not None:
        for name in sorted(run.mirror.listed()):
            if name.startswith(f"{FEATURES}/") and start <= number_of(Path(name)) < stop:
                run.file(name)
    there, lines = np.zeros(stop - start, bool), 0
    for path in run.parts:
        number = number_of(path)
        if number >= plan.n_shards:
            notify(f"note: {path}: beyond the last row; removed")
            run.discard(path)
        if not start <= number < min(stop, plan.n_shards):
            continue
        work = plan[number]
        try:
            span = Shard.load(path).span
            why = misplaced(span, fingerprint, number, work.first)
            if not why and span.n_lines != work.n_lines:
                why = f"of {span.n_lines:,} lines, not {work.n_lines:,}"
        except RunError as error:
            why = str(error).removeprefix(f"{path}: ").partition("; ")[0]
        if why:
            notify(f"note: {path}: {why}; it is made again")
            run.discard(path)
            continue
        there[number - start], lines = True, lines + work.n_lines
        if fail and (found := unusable_of(path)):
            raise InputError(failing(found[0]["file"], found[0]["line"], found[0]["error"]))
    return Present([(start + a, start + b) for a, b in ranges(~there)], lines)


def absent(run: Run, plan: Plan) -> Ranges:
    """Stretches of shards that are missing, here or, where the run is in a store, there."""
    there = np.zeros(plan.n_shards, bool)
    listed = run.parts if run.mirror is None else [Path(n) for n in run.mirror.listed() if n.startswith(FEATURES)]
    for path in listed:
        if (number := number_of(path)) < plan.n_shards:
            there[number] = True
    return list(ranges(~there))


def number_of(part: Path) -> int:
    """The number in a part's name."""
    return int(part.stem.rpartition("-")[2])


def ranges(wanted: Bools) -> Iterator[tuple[int, int]]:
    """The stretches (from, to before) of an array (n,) that are true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def failing(file: str, line: int, error: str) -> str:
    """What is said of a row that cannot be scored, where that is an error."""
    return f"{file}, line {line}: {error} (--on-error quarantine sets such rows aside)"
