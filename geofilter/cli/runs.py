"""`geofilter runs`: the runs of the working folder."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from geofilter.cli.options import AsJson, Command
from geofilter.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from geofilter.run.find import Found

app = typer.Typer()

_HEAD = ("name", "data", "target", "rows", "last cut", "age", "")
_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))
_UNKNOWN = "-"


@app.command(cls=Command, epilog="Example: geofilter runs --json")
def runs(as_json: AsJson = False) -> None:
    """The runs under .geofilter/ of the working folder, newest first: what each is of, and what its last cut removed.

    Other commands take a run by its name, the beginning of it, or its data file; left out, the first finished one.
    """
    from geofilter.run.find import runs_of

    found = runs_of(Path.cwd())
    if as_json:
        print_json([_about(f) for f in found])
        return
    if not found:
        note("no run here; make one with geofilter scan DATA --model NAME")
        return
    print_table("", _HEAD, [_cells(f) for f in found])
    for f in found:
        if f.error:
            note(f.error if not f.manifest else f"{f.name} is not finished; {f.run.remedy}")


def _about(f: Found) -> dict[str, Any]:
    """What is said of a run, for `--json`."""
    from geofilter.report.last import last_cut
    from geofilter.run.find import given_as

    rows = None
    if f.manifest:
        rows = sum(d["rows"] for d in f.data) if f.error else f.manifest["counts"]["rows"]
    return {
        "name": f.name,
        "run": f.run.called,
        "data": [given_as(d) for d in f.data],
        "target": f.manifest["target"]["name"] if f.manifest else None,
        "rows": rows,
        "last_cut": None if f.error else last_cut(f.run),
        "changed": datetime.fromtimestamp(f.changed, UTC).isoformat(timespec="seconds"),
        "finished": not f.error,
        "error": f.error or None,
    }


def _cells(f: Found) -> list[str]:
    about = _about(f)
    data, cut = about["data"], about["last_cut"]
    more = f" and {len(data) - 1} more" if len(data) > 1 else ""
    said = _UNKNOWN
    if cut:
        said = f"{cut['cut']}: {cut['removed']:,} removed{' (scored anew since)' if cut['scored_anew'] else ''}"
    return [
        f.name,
        f"{data[0]}{more}" if data else _UNKNOWN,
        about["target"] or _UNKNOWN,
        _UNKNOWN if about["rows"] is None else f"{about['rows']:,}",
        said,
        _age(time.time() - f.changed),
        "finished" if about["finished"] else "not finished" if f.manifest else "cannot be read",
    ]


def _age(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {unit}{'s' if n > 1 else ''}"
    return "under a minute"
