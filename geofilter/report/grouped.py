"""The groups of a cut as its report has them, and the cut that keeps or drops some of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from geofilter.cut.cut import Cut, Selection
from geofilter.cut.moved import packed
from geofilter.errors import InputError, RunError
from geofilter.files import from_json, own_bytes
from geofilter.groups.groups import Group, Groups
from geofilter.groups.naming import Names
from geofilter.report.document import GroupReport, ReportDocument
from geofilter.report.last import cut_of, cut_record, report_of, scored_anew
from geofilter.run.column import Column
from geofilter.run.reasons import NO_WORDS
from geofilter.run.store import Run
from geofilter.text import counted

SOURCES = 5
"""named of each group, the commonest ones"""


def groups_of(selection: Selection, groups: Groups, names: Names) -> list[GroupReport]:
    """What a report says of each group."""
    rank, manifest = selection.rank(), selection.run.manifest
    sources, topics = manifest["sources"], manifest["topics"]
    return [
        {
            "number": group.number,
            "removed": bool(selection.removed[group.positions[0]]),
            "name": names.name(group.number),
            "rows": len(group.positions),
            "topic": _topic(selection, group, topics),
            "sources": [
                {"name": sources[source] or "(none given)", "rows": rows}
                for source, rows in _commonest(selection.columns["source"], group)[:SOURCES]
            ],
            "features": [{"feature": f["feature"], "label": f["label"]} for f in names.features(group.number)],
            "examples": rank[group.examples].tolist(),
            "duplicates": group.duplicates,
        }
        for group in groups.groups
    ]


def _topic(selection: Selection, group: Group, names: Sequence[str]) -> str | None:
    found = [(topic, n) for topic, n in _commonest(selection.columns["topic"], group) if topic >= 0]
    return names[found[0][0]] if found else None


def _commonest(column: Column, group: Group) -> list[tuple[int, int]]:
    """Numbers of a group's rows and how often each is there, the commonest first."""
    which, rows = np.unique(column.take(np.sort(group.positions)), return_counts=True)
    order = np.argsort(-rows, kind="stable")
    return list(zip(which[order].tolist(), rows[order].tolist(), strict=True))


def group_said(group: GroupReport) -> str:
    """A group in a few words."""
    # Its features' words where it has none of its own: a topic of harm would say of it what nobody knows.
    name = group["name"] or next((f["label"] for f in group["features"] if f["label"]), NO_WORDS)
    said = f"group {group['number']}: {name}, {counted(group['rows'], 'row')}"
    more = [f"if harmful: {group['topic']}"] if group["topic"] and group["removed"] else []
    more += [f"{group['duplicates']:,} near-duplicates"] if group["duplicates"] else []
    return f"{said} ({', '.join(more)})" if more else said


def regrouped(run: Run, cut: Cut, keep: Sequence[int], drop: Sequence[int]) -> Cut:
    """A cut that keeps some groups it would remove, and removes some that it would keep.

    Args:
        cut: the amount; that of the run's last cut.
        keep, drop: numbers of groups in the report of that cut.

    Raises:
        InputError: there is no report of this amount, or no such group in it.
        RunError: what the last cut has written is torn or damaged, or its groups cannot be found again.
    """
    if not keep and not drop:
        return cut
    option = f"--keep-group {keep[0]}" if keep else f"--drop-group {drop[0]}"
    record = cut_record(run)
    here = shlex.quote(run.called)
    if record is None or scored_anew(run, record):
        raise InputError(f"{option}: no report of this run as it is scored names its groups; run geofilter filter "
                         f"{here} --drop 10% first")  # fmt: skip
    last = cut_of(record).base
    if last != cut.base:
        raise InputError(
            f"{option}: the groups of the last report are those of {last}, not of {cut.base}; filter by the same "
            f"amount, or first without groups"
        )
    written: ReportDocument = from_json(own_bytes(report_of(run, record)))
    groups = Groups.find(Selection.of(run, cut.base))
    if [g["rows"] for g in written["groups"]] != [len(g.positions) for g in groups.groups]:
        raise RunError(f"{run.called}: its groups are others on this machine than in its last report; filter it "
                       "without groups first")  # fmt: skip
    moved = groups.moved(keep, drop)
    return replace(
        cut, keep_groups=tuple(sorted({*keep})), drop_groups=tuple(sorted({*drop})), moved=packed(moved)
    )  # fmt: skip
