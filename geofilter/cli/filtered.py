"""What a cut came to, on a terminal: what was found, what went, the rows to read first, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from geofilter.cli.output import note, paragraph
from geofilter.report.excerpt import Piece, excerpt
from geofilter.report.grouped import group_said
from geofilter.report.plain import details, mask_said, pairs_said, ranked
from geofilter.text import counted, inert

if TYPE_CHECKING:
    from pathlib import Path

    from rich.text import Text

    from geofilter.report.document import ReportDocument, ShownRow
    from geofilter.report.write import Filtered

ROWS = 5
"""highest removed rows that are shown"""
PARTS = 4
"""parts of the data, and groups, that are named"""
SHADED = 20
"""rows to shade, where words are not marked"""
NARROW = 80
"""characters of a line where there is no terminal"""
STYLE = {"confirmed": "bold green", "read": "bold yellow", "few": "bold yellow", "nothing": "bold red"}
"""of a verdict's level"""


def say_filtered(filtered: Filtered, quiet: bool, verbose: bool = False, url: str = "") -> None:
    """Say on stderr what a cut came to.

    Args:
        verbose: the statistics too.
        url: of the folder in a store that the files are in.
    """
    from rich.console import Console

    for text in filtered.torn:
        note(f"note: {text}; all of it is written anew")
    console, report = Console(stderr=True), filtered.report.data
    if not quiet:
        width = console.width if console.is_terminal else NARROW
        for line in lines(report, width, marks=not console.is_terminal):
            paragraph(line)
        if verbose:
            note("")
            for said in details(report):
                paragraph(said)
        note("")
    for o in filtered.outputs:
        for kind in ("kept", "removed", "quarantined"):
            if not quiet or kind != "quarantined" or o.n_quarantined:
                note(f"{kind}: {_where_is(getattr(o, kind), url)}")
    if mask := report.get("mask"):
        note(f"loss mask: {mask['file']}")
    if swapped := report.get("pairs", {}).get("swapped"):
        note(f"exchanged pairs: {swapped['file']}")
    note(f"report: {_where_is(filtered.pages[0], url)}")


def _where_is(path: Path, url: str) -> str:
    return f"{url}/{path.name}" if url else str(path)


def lines(report: ReportDocument, width: int, marks: bool) -> Iterator[Text]:
    """The summary, a line or a paragraph each.

    Args:
        width: characters of a line.
        marks: put strong words in brackets, where there is no colour to show them.
    """
    from rich.text import Text

    said, c = report["verdict"], report["counts"]
    yield Text(inert(said["sentence"]), style=STYLE[said["level"]])
    if said["stays"]:
        yield Text(inert(said["stays"]))
    yield Text()
    yield Text(
        f"{c['rows']:,} rows = {c['kept']:,} kept + {c['removed']:,} removed + {c['quarantined']:,} quarantined  "
        f"({report['cut']})",
        style="bold",
    )
    if c["not_scanned"]:
        yield Text(f"{c['not_scanned']:,} further rows were not scanned (--limit) and are in no output file")
    for read in report["made_with"]["read"]:
        yield Text(inert(read))
    if mask := report.get("mask"):
        yield Text(mask_said(mask))
    if pairs := report.get("pairs"):
        yield Text(inert(pairs_said(pairs)))
    if labels := report.get("labels"):
        parts = ", ".join(f"{p['removed']:,} of {p['rows']:,} {p['name']}" for p in labels["parts"])
        yield Text(f"removed: {parts}")
        yield Text(inert(labels["text"]), style="dim")
    if where := _where(report):
        yield Text(inert(where))
    shown = report["removed_rows"][:ROWS]
    if shown:
        yield Text()
        yield Text("highest removed rows", style="bold")
        several = len(report["files"]) > 1
        yield from (_row(row, width, marks, several) for row in shown)
        if why := _unmarked(report):
            yield Text(inert(why), style="dim")
    if common := _common(report):
        yield Text()
        yield Text("what they have in common", style="bold")
        yield from (Text(inert(line), overflow="ellipsis", no_wrap=True) for line in common)
    yield Text()
    yield Text(f"next: {inert(said['action'])}")
    here = shlex.quote(report["made_with"]["run"])
    for command in (f"geofilter report {here} --open", said["command"]):
        if command:
            yield Text(f"      {inert(command)}", style="bold")


def _where(report: ReportDocument) -> str:
    """From where most removed rows come, where the data says so."""
    parts = report["composition"].get("source") or report["composition"].get("input") or []
    most = sorted((p for p in parts if p["removed"]), key=lambda p: -p["removed"])
    said = ", ".join(f"{p['name']} {p['removed']:,} of {p['rows']:,}" for p in most[:PARTS])
    rest = sum(p["removed"] for p in most[PARTS:])
    return f"from: {said}{f', others {rest:,}' if rest else ''}" if said else ""


def _row(row: ShownRow, width: int, marks: bool, several: bool) -> Text:
    from rich.text import Text

    place = f"{row['file']}:{row['line']}" if several else f"line {row['line']}"
    head = f"{ranked(row):6.2f}  {inert(place)[-28:]}  "
    line = Text.assemble(
        (head, "dim"), shaded(excerpt(row["response"], row.get("spans") or [], max(20, width - len(head) - 1)), marks)
    )
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def shaded(pieces: Sequence[Piece], marks: bool) -> Text:
    """Pieces of a response, the strong ones in colour.

    Args:
        marks: put them in brackets instead.
    """
    from rich.text import Text

    return Text.assemble(
        *((f"[{text}]" if strong and marks else text, "bold red" if strong else "") for text, strong in pieces)
    )


def _unmarked(report: ReportDocument) -> str:
    """Why no word of the removed rows is marked, and what marks them; empty where some are, or nothing can."""
    rows = report["removed_rows"]
    if any("spans" in row for row in rows) or not any(row["top_features"] for row in rows):
        return ""
    stored = report["made_with"]["encoding"]["token_shares"]
    why = "the scan stored those of other banks" if stored else "the scan stored none"
    return f"no words are marked, {why}: geofilter report {shlex.quote(report['made_with']['run'])} --shade {SHADED}"


def _common(report: ReportDocument) -> list[str]:
    """The largest groups of the removed rows; without any, features behind most of them, by their words."""
    if groups := [group for group in report["groups"] if group["removed"]]:
        more = [f"  and {counted(len(groups) - PARTS, 'more group')}"] if len(groups) > PARTS else []
        return [f"  {group_said(group)}" for group in groups[:PARTS]] + more
    named = [f for f in report["features"] if f["label"]][:PARTS]
    return [f"{f['rows']:6,} rows  {f['label']}" for f in named]
