"""Does a scanned data drop pass? One verdict behind the text, the files, the JSON and the exit code. No model."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from geofilter.arrays import Bools, Positions
from geofilter.config import FLAGGED, MAX_FLAGGED, MIN_ROWS
from geofilter.cut.cut import Cut
from geofilter.cut.gate_baseline import compared, reading_of
from geofilter.cut.gate_rows import highest
from geofilter.cut.gate_verdict import (
    ALL,
    FORMAT,
    NEW,
    SMALL,
    GatePart,
    GateSettings,
    GateVerdict,
    outcomes,
)
from geofilter.errors import InputError, RunError
from geofilter.rows.fields import lookup
from geofilter.run.banks import exclusions_said
from geofilter.run.labelled import learnt_from
from geofilter.run.rows import check_unchanged, scored_rows
from geofilter.run.score_arrays import rows_of_files
from geofilter.run.store import Run
from geofilter.stats import share_interval

MOST_PARTS = 1000
"""values of a field; more mean that it is no source but a text"""

Places = Positions | slice
"""some of the scored rows"""


def check(
    run: Run,
    threshold: float = FLAGGED,
    max_flagged: str = MAX_FLAGGED,
    *,
    by: str | None = None,
    min_rows: int = MIN_ROWS,
    baseline: Run | None = None,
    max_quarantined: int = 0,
    require_power: bool = False,
    settings: GateSettings | None = None,
    max_truncated: int | None = None,
) -> GateVerdict:
    """Give the verdict on a run.

    Args:
        threshold: percentile in [0, 1].
        max_flagged: share (5%) or number of rows that may be flagged.
        by: field of the rows whose values are checked one by one; by default each file is.
        min_rows: of a value of that field, to be judged alone by its share; smaller ones are judged together, where
            together they have as many.
        baseline: an accepted earlier run; only rows that it does not have are counted.
        max_quarantined: rows that may have been left unscored.
        require_power: a run on which no bank reacts does not pass.
        settings: what a settings file decided; told with the verdict.
        max_truncated: rows that may have been read in several windows, or not to their last token; any number if None.

    Raises:
        InputError: an option that cannot be used.
        RunError: an input has changed since the scan; a run of an earlier version.
    """
    allowed, cut = Cut.parse(max_flagged, option="--max-flagged"), Cut.threshold(threshold)
    for option, given in (("quarantined", max_quarantined), ("truncated", max_truncated)):
        if given is not None and given < 0:
            raise InputError(f"--max-{option} {given}: give 0 or more rows")
    if min_rows < 0:
        raise InputError(f"--min-rows {min_rows}: give 0 or more rows")
    manifest = run.manifest
    if any("verdict" not in v for v in manifest["power"]):
        raise RunError(f"{run.path}: scored by an earlier version; run the same geofilter scan again")
    flagged = cut.removed_of(run.columns(["percentile"]), np.zeros(0, np.int64))
    about, new = (None, None) if baseline is None else compared(run, baseline)
    parts = _judged(_parts(run, by, new), flagged, allowed, min_rows if by is not None else 0)
    windowed, partly_read, truncated = _not_read_whole(run, new)
    learnt = learnt_from(run)
    verdict: GateVerdict = {
        "format": FORMAT,
        "passed": False,
        "reasons": [],
        "threshold": threshold,
        "max_flagged": max_flagged,
        "by": by,
        "min_rows": min_rows,
        "parts": [part for part, _ in parts],
        "highest": [],
        "quarantined": int(manifest["counts"]["quarantined"]) - (about["known_quarantined"] if about else 0),
        "max_quarantined": max_quarantined,
        "not_scanned": sum(f["lines"] - f["rows"] for f in manifest["data"]),
        "power": [{"bank": v["bank"], "verdict": v["verdict"], "chance": v["chance"]} for v in manifest["power"]],
        "required": require_power,
        "run": run.called,
        "data": [f["path"] for f in manifest["data"]],
        "baseline": about,
        "scorer": manifest["scorer"],
        "passed_over": int(manifest["counts"]["passed_over"]),
        "left_out": exclusions_said(manifest["banks"]),
        "learnt_from": int(learnt.sum() if new is None else (learnt & new).sum()),
        "settings": settings,
        "reading": reading_of(manifest["encoding"]),
        "windowed": windowed,
        "partly_read": partly_read,
        "truncated": truncated,
        "max_truncated": max_truncated,
    }
    verdict["reasons"] = [outcome.failed for outcome in outcomes(verdict) if outcome.failed]
    verdict["passed"] = not verdict["reasons"]
    if not verdict["passed"]:
        verdict["highest"] = highest(run, flagged & _shown(parts, len(flagged)))
    return verdict


def _not_read_whole(run: Run, new: Bools | None) -> tuple[int, int, int]:
    """Rows read in several windows, rows with response tokens that were not read, and rows that are either.

    Args:
        new: (n,) the scored rows that are counted; all if None.
    """
    counts = run.manifest["counts"]
    all_tokens = counts["tokens"] == counts["response_tokens"]
    if all_tokens and (new is None or not counts["windowed"]):
        return counts["windowed"], 0, counts["windowed"]
    windowed = partly = either = 0
    lines = run.scores() if new is None else (line for _, line in run.score_lines(np.flatnonzero(new)))
    for line in lines:
        several, unread = line["windows"] > 1, line["n_tokens"] < line["response_tokens"]
        windowed, partly, either = windowed + several, partly + unread, either + (several or unread)
    return windowed, partly, either


def part_of(name: str, flagged: Bools, allowed: Cut, least: int = 0) -> GatePart:
    """Judge some of the rows (n,), as many of which may be flagged as `allowed` says.

    Args:
        least: rows from which on a share is judged; a number is for any.
    """
    n, count = len(flagged), int(flagged.sum())
    most = allowed.value * n if allowed.kind == "fraction" else allowed.value
    few = allowed.kind == "fraction" and n < least
    return {
        "name": name,
        "rows": n,
        "flagged": count,
        "share": round(count / n, 6) if n else 0.0,
        "interval": [round(end, 6) for end in share_interval(count, n)],
        "too_few": few,
        # 29 of 100 are 29 %, though 0.29 * 100 is a little less than 29.
        "passed": few or count <= most + 1e-9 * n,
    }


def _judged(
    parts: Iterable[tuple[str, Places]], flagged: Bools, allowed: Cut, least: int
) -> list[tuple[GatePart, Places]]:
    """Judge all rows, then each part of them, then those together that are too small to be judged alone."""
    found: list[tuple[GatePart, Places]] = []
    for name, rows in parts:
        found.append((part_of(name, flagged[rows], allowed, least if found else 0), rows))
    small = [rows for part, rows in found if part["too_few"] and not isinstance(rows, slice)]
    if small:
        together = np.concatenate(small)
        found.append((part_of(SMALL, flagged[together], allowed, least), together))
    return found


def _shown(parts: Iterable[tuple[GatePart, Places]], n: int) -> Bools:
    """Which scored rows (n,) may be named: those of the parts that are not passed, or all that are counted."""
    parts = list(parts)
    shown = np.zeros(n, bool)
    for _, rows in [of for of in parts if not of[0]["passed"]] or parts[:1]:
        shown[rows] = True
    return shown


def _parts(run: Run, by: str | None, new: Bools | None) -> Iterator[tuple[str, Places]]:
    """Names and scored rows of all rows that are counted, and of each part where there are several.

    Args:
        new: (n,) the rows that are counted; all if None.
    """
    yield (ALL, slice(None)) if new is None else (NEW, np.flatnonzero(new))
    if by is None:
        for info in run.manifest["data"]:
            check_unchanged(info)  # `scored_rows` does for the rest
        files = [f["path"] for f in run.manifest["data"]]
        if len(files) > 1:
            for name, rows in zip(files, rows_of_files(run.columns(["file"])["file"], len(files)), strict=True):
                yield name, rows if new is None else rows.start + np.flatnonzero(new[rows])
        return
    for name, of in _values(run, by):
        places: Positions = np.frombuffer(of, np.int64)
        if new is None or len(places := places[new[places]]):
            yield name, places


def _values(run: Run, by: str) -> list[tuple[str, array[int]]]:
    """The scored rows of each value of a field."""
    members: dict[str, array[int]] = {}
    for i, row in enumerate(scored_rows(run)):
        value = lookup(row.record, by)
        if isinstance(value, list | dict):
            raise InputError(
                f"{row.file}, line {row.line}: the field {by} holds a {type(value).__name__}, not one value; name "
                "another field"
            )
        members.setdefault(f"{by} = {value}" if value is not None else f"without {by}", array("q")).append(i)
        if len(members) > MOST_PARTS:
            raise InputError(f"--by {by}: more than {MOST_PARTS:,} values; name a field that says where a row is from")
    if list(members) == [f"without {by}"]:
        raise InputError(f"--by {by}: no row has this field; leave it out to check each file")
    return sorted(members.items())
