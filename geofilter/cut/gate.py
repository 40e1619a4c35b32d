"""Does a scanned data drop pass? One verdict behind the text, the JSON and the exit code. No model."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np

from geofilter.arrays import Bools, Positions
from geofilter.config import DEFAULT_SCORER, FLAGGED, MAX_FLAGGED
from geofilter.cut.cut import Cut
from geofilter.errors import InputError, RunError
from geofilter.rows.fields import lookup
from geofilter.run.banks import exclusions_said
from geofilter.run.labelled import learnt_from
from geofilter.run.manifest import Encoding
from geofilter.run.power import FEW, TOO_FEW
from geofilter.run.rows import check_unchanged, scored_rows
from geofilter.run.score_arrays import rows_of_files
from geofilter.run.store import Run
from geofilter.text import counted

FORMAT = 1
ALL = "all rows"
MOST_PARTS = 1000
"""values of a field; more mean that it is no source but a text"""


class GatePart(TypedDict):
    """Some of the rows, which must pass alone: all of them, those of a file, or of a value of a field."""

    name: str
    rows: int
    flagged: int
    share: float
    passed: bool


class GatePower(TypedDict):
    """What a bank is worth on these rows, see `power.assess`."""

    bank: str
    verdict: str
    """one of `power.VERDICTS`"""
    chance: float


class GateSettings(TypedDict):
    """What of the verdict's options a settings file decided, which may have come with the data."""

    file: str
    values: dict[str, Any]
    """by option, as it is typed"""


class GateVerdict(TypedDict):
    """The verdict on a run."""

    format: int
    passed: bool
    reasons: list[str]
    """why not, one sentence each"""
    threshold: float
    """percentile of ordinary chat from which on a row is flagged"""
    max_flagged: str
    """as it was given, 5% or a number of rows; it holds for all rows, and for each part alone"""
    parts: list[GatePart]
    """all rows first, then each file or each value of the field"""
    quarantined: int
    """rows that could not be scored, and were not checked"""
    max_quarantined: int
    not_scanned: int
    """rows that --limit left out; none may be"""
    power: list[GatePower]
    required: bool
    """whether a bank must react"""
    run: str
    data: list[str]
    scorer: str
    passed_over: int
    """rows that --only left out, and were not checked"""
    left_out: list[str]
    """features that count nothing, in words"""
    learnt_from: int
    """scored rows that a bank of the run was learnt from: they are counted like the others"""
    settings: GateSettings | None
    """None where all options were typed or at their default"""
    reading: dict[str, Any]
    """options of the scan that are not at their default and say which text of a row is scored"""
    windowed: int
    """scored rows longer than --max-tokens, which were read in several windows"""
    partly_read: int
    """scored rows of which some response token was not read at all, see `reader.OUTLIER_NORM`"""
    truncated: int
    """rows that are one of these, or both"""
    max_truncated: int | None
    """how many of them may be; None where any number may"""


def check(
    run: Run,
    threshold: float = FLAGGED,
    max_flagged: str = MAX_FLAGGED,
    *,
    by: str | None = None,
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
        max_quarantined: rows that may have been left unscored.
        require_power: a run on which no bank reacts does not pass.
        settings: what a settings file decided; told with the verdict.
        max_truncated: rows that may have been read in several windows, or not to their last token; any number if None.

    Raises:
        InputError: an option that cannot be used.
        RunError: an input has changed since the scan; a run of an earlier version.
    """
    allowed, cut = Cut.parse(max_flagged, option="--max-flagged"), Cut.threshold(threshold)
    if max_quarantined < 0:
        raise InputError(f"--max-quarantined {max_quarantined}: give 0 or more rows")
    if max_truncated is not None and max_truncated < 0:
        raise InputError(f"--max-truncated {max_truncated}: give 0 or more rows")
    manifest = run.manifest
    if any("verdict" not in v for v in manifest["power"]):
        raise RunError(f"{run.path}: scored by an earlier version; run the same geofilter scan again")
    flagged = cut.removed_of(run.columns(["percentile"]), np.zeros(0, np.int64))
    windowed, partly_read, truncated = _not_read_whole(run)
    verdict: GateVerdict = {
        "format": FORMAT,
        "passed": False,
        "reasons": [],
        "threshold": threshold,
        "max_flagged": max_flagged,
        "parts": [part_of(name, flagged[rows], allowed) for name, rows in _parts(run, by)],
        "quarantined": int(manifest["counts"]["quarantined"]),
        "max_quarantined": max_quarantined,
        "not_scanned": sum(f["lines"] - f["rows"] for f in manifest["data"]),
        "power": [{"bank": v["bank"], "verdict": v["verdict"], "chance": v["chance"]} for v in manifest["power"]],
        "required": require_power,
        "run": run.called,
        "data": [f["path"] for f in manifest["data"]],
        "scorer": manifest["scorer"],
        "passed_over": int(manifest["counts"]["passed_over"]),
        "left_out": exclusions_said(manifest["banks"]),
        "learnt_from": int(learnt_from(run).sum()),
        "settings": settings,
        "reading": _reading(manifest["encoding"]),
        "windowed": windowed,
        "partly_read": partly_read,
        "truncated": truncated,
        "max_truncated": max_truncated,
    }
    verdict["reasons"] = list(_reasons(verdict))
    verdict["passed"] = not verdict["reasons"]
    return verdict


def _reading(encoding: Encoding) -> dict[str, Any]:
    """Options of the scan that leave text of a row out, where they are not at their default."""
    found = {"fields": encoding.get("fields"), "train": None if encoding["train"] == "all" else encoding["train"]}
    return {key: value for key, value in found.items() if value}


def _not_read_whole(run: Run) -> tuple[int, int, int]:
    """Rows read in several windows, rows with response tokens that were not read, and rows that are either."""
    counts = run.manifest["counts"]
    if counts["tokens"] == counts["response_tokens"]:
        return counts["windowed"], 0, counts["windowed"]
    windowed = partly = either = 0
    for line in run.scores():
        several, unread = line["windows"] > 1, line["n_tokens"] < line["response_tokens"]
        windowed, partly, either = windowed + several, partly + unread, either + (several or unread)
    return windowed, partly, either


def _reasons(verdict: GateVerdict) -> Iterator[str]:
    for p in verdict["parts"]:
        if not p["passed"]:
            yield (
                f"{p['name']}: {p['flagged']:,} of {p['rows']:,} rows ({p['share']:.1%}) are at or above the "
                f"{verdict['threshold']:.1%} percentile of ordinary chat; {verdict['max_flagged']} may be"
            )
    if verdict["quarantined"] > verdict["max_quarantined"]:
        yield (
            f"{verdict['quarantined']:,} rows could not be scored, so they were not checked; --max-quarantined allows "
            f"{verdict['max_quarantined']:,}"
        )
    most = verdict["max_truncated"]
    if most is not None and verdict["truncated"] > most:
        yield (
            f"{verdict['truncated']:,} rows are longer than --max-tokens, or have response tokens that were not read; "
            f"--max-truncated allows {most:,}"
        )
    if verdict["not_scanned"]:
        yield f"{verdict['not_scanned']:,} rows were left out by --limit, so they were not checked; scan all of them"
    said = {v["verdict"] for v in verdict["power"]}
    if verdict["required"] and said == {TOO_FEW}:
        yield f"too few rows to say whether a bank reacts to them; at least {FEW} are needed"
    elif verdict["required"] and "reacts" not in said:
        yield "no bank reacts to these rows, so that nothing is flagged says little"


def part_of(name: str, flagged: Bools, allowed: Cut) -> GatePart:
    """Judge some of the rows (n,), as many of which may be flagged as `allowed` says."""
    n, count = len(flagged), int(flagged.sum())
    most = allowed.value * n if allowed.kind == "fraction" else allowed.value
    share = round(count / n, 6) if n else 0.0
    # 29 of 100 are 29 %, though 0.29 * 100 is a little less than 29.
    return {"name": name, "rows": n, "flagged": count, "share": share, "passed": count <= most + 1e-9 * n}


def _parts(run: Run, by: str | None) -> Iterator[tuple[str, Positions | slice]]:
    """Names and scored rows of all rows, and of each part where there are several."""
    yield ALL, slice(None)
    if by is None:
        for info in run.manifest["data"]:
            check_unchanged(info)  # `scored_rows` does for the rest
        files = [f["path"] for f in run.manifest["data"]]
        if len(files) > 1:
            yield from zip(files, rows_of_files(run.columns(["file"])["file"], len(files)), strict=True)
        return
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
    yield from ((name, np.frombuffer(rows, np.int64)) for name, rows in sorted(members.items()))


def text(verdict: GateVerdict) -> str:
    """One line."""
    head = verdict["parts"][0]
    start = "gate passed" if verdict["passed"] else "gate NOT passed"
    said = (
        f"{head['flagged']:,} of {head['rows']:,} rows ({head['share']:.1%}) are at or above the "
        f"{verdict['threshold']:.1%} percentile of ordinary chat, {verdict['max_flagged']} may be"
    )
    return "; ".join([f"{start}: {'; '.join(verdict['reasons']) or said}", *_remarks(verdict)])


def _remarks(verdict: GateVerdict) -> list[str]:
    """What must be known to read the counts."""
    said = list(verdict["left_out"])
    if n := verdict["passed_over"]:
        said.append(f"{counted(n, 'row')} passed over by --only, not checked")
    if n := verdict["windowed"]:
        said.append(f"{counted(n, 'row')} longer than --max-tokens, read in several windows")
    if n := verdict["partly_read"]:
        said.append(f"{counted(n, 'row')} with response tokens that were not read, as outliers are not")
    if n := verdict["learnt_from"]:
        said.append(f"{n:,} of the rows are those that a bank was learnt from")
    if verdict["scorer"] != DEFAULT_SCORER:
        said.append(f"scored by {verdict['scorer']}, not by {DEFAULT_SCORER}")
    if verdict["reading"]:
        said.append(f"scanned with {', '.join(f'{k} = {json.dumps(v)}' for k, v in verdict['reading'].items())}")
    if (taken := verdict["settings"]) is not None:
        values = ", ".join(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in taken["values"].items())
        said.append(f"from {taken['file']}: {values}")
    return said


def table(verdict: GateVerdict) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the parts, for people."""
    rows = [
        [p["name"], f"{p['rows']:,}", f"{p['flagged']:,}", f"{p['share']:.1%}", "yes" if p["passed"] else "NO"]
        for p in verdict["parts"]
    ]
    return ["rows", "number", "flagged", "share", "passed"], rows


def markdown(verdict: GateVerdict) -> str:
    """For a CI job's summary: the line, the parts, and what the banks are worth here."""
    from geofilter.text import markdown_table, markdown_text

    banks = [[v["bank"], v["verdict"], f"{v['chance']:.2f}"] for v in verdict["power"]]
    return "\n".join(
        [
            f"### geofilter: {'passed' if verdict['passed'] else 'NOT passed'}", "",
            *(f"- {markdown_text(line)}" for line in (*verdict["reasons"], *_remarks(verdict))), "",
            *markdown_table(*table(verdict)), "",
            *markdown_table(["bank", "on these rows", "chance that it ranks them"], banks), "",
        ]
    )  # fmt: skip
