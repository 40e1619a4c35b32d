"""A gate's verdict as text: a line, a table, Markdown for a job's summary, annotations of the rows."""

from __future__ import annotations

import json
import os
from pathlib import Path

from geofilter.config import DEFAULT_SCORER
from geofilter.cut.gate_verdict import SMALL, GateBaseline, GateRow, GateVerdict
from geofilter.text import beginning, counted, markdown_row, markdown_table, markdown_text

WIDTH = 160
"""characters of a reason that are shown in a line"""


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
    said = [] if (baseline := verdict["baseline"]) is None else _of_baseline(baseline)
    said += verdict["left_out"]
    if small := sum(p["too_few"] for p in verdict["parts"] if p["name"] != SMALL):
        few = f"with fewer than {verdict['min_rows']:,} rows"
        said.append(f"{counted(small, 'value')} of {verdict['by']} {few}, not judged alone")
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


def _of_baseline(baseline: GateBaseline) -> list[str]:
    known = f"{counted(baseline['known'], 'row')} known from {baseline['run']} and not counted, whatever they score"
    said = [known, f"{counted(baseline['new'], 'new row')}"]
    if not baseline["new"]:
        said[1] = "no row is new, so there was nothing to judge"
    if n := baseline["known_quarantined"]:
        said.append(f"{counted(n, 'row')} that could not be scored known from there too")
    if baseline["differs"]:
        how = ", ".join(baseline["differs"])
        said.append(f"{baseline['run']} was scanned with {how}: rows are known by their bytes alone")
    return said


def table(verdict: GateVerdict) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the parts, for people."""
    rows = [
        [
            p["name"], f"{p['rows']:,}", f"{p['flagged']:,}", f"{p['share']:.1%}",
            f"{p['interval'][0]:.1%} to {p['interval'][1]:.1%}",
            "too few rows" if p["too_few"] else "yes" if p["passed"] else "NO",
        ]
        for p in verdict["parts"]
    ]  # fmt: skip
    return ["rows", "number", "flagged", "share", "95 % interval", "passed"], rows


def row_lines(verdict: GateVerdict) -> list[str]:
    """The highest flagged rows of a verdict that is not passed: place, percentile and reason of each on a line."""
    return [f"{_place(row)}  {row['percentile']:.2%}  {_reason(row)}" for row in verdict["highest"]]


def _place(row: GateRow) -> str:
    return f"{row['file']}:{row['line']}"


def _reason(row: GateRow) -> str:
    """Its beginning, see `WIDTH`."""
    reason = row["reason"]
    return reason if len(reason) <= WIDTH else beginning(reason, WIDTH - 1).rstrip(",;") + "…"


def markdown(verdict: GateVerdict) -> str:
    """For a CI job's summary: the line, the parts, the highest rows, and what the banks are worth here."""
    banks = [[v["bank"], v["verdict"], f"{v['chance']:.2f}"] for v in verdict["power"]]
    return "\n".join(
        [
            f"### geofilter: {'passed' if verdict['passed'] else 'NOT passed'}", "",
            *(f"- {markdown_text(line)}" for line in (*verdict["reasons"], *_remarks(verdict))), "",
            *markdown_table(*table(verdict)), "",
            *_markdown_rows(verdict),
            *markdown_table(["bank", "on these rows", "chance that it ranks them"], banks), "",
        ]
    )  # fmt: skip


def _markdown_rows(verdict: GateVerdict) -> list[str]:
    if not verdict["highest"]:
        return []
    rows = ([_place(row), f"{row['percentile']:.2%}", _reason(row)] for row in verdict["highest"])
    head = markdown_row(["highest flagged rows", "percentile", "reason"])
    return [head, "|---|---:|---|", *map(markdown_row, rows), ""]


def row_commands(verdict: GateVerdict, root: Path) -> list[str]:
    """Workflow commands by which GitHub shows the highest flagged rows at their lines.

    What is foreign is escaped as the runner takes it back, so that it ends no property and begins no command:
    https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts

    Args:
        root: of the repository, from which GitHub names files.
    """
    found = []
    for row in verdict["highest"]:
        file, title = from_root(row["file"], root), f"geofilter: {row['percentile']:.2%} under {row['bank']}"
        where = f"file={_property(file)},line={row['line']},title={_property(title)}"
        found.append(f"::error {where}::{_data(row['reason'])}")
    return found


def _data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def from_root(file: str, root: Path) -> str:
    """A file as it is called from a folder; as it was given where it lies elsewhere."""
    path = Path(os.path.abspath(file))  # noqa: PTH100 (links stay as they are)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else file
