"""Writing a report where it belongs, and making it again from a run that has been cut."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from geofilter.cut.cut import Cut, Selection
from geofilter.cut.mask import Mask
from geofilter.cut.noted import begun_ahead
from geofilter.cut.places import Outputs, planned
from geofilter.cut.sets import CutAbout, OutputSet, add, described, read_set, replacing, sum_new, torn, within
from geofilter.cut.swap import Swap
from geofilter.errors import InputError, RunError
from geofilter.files import as_bytes, from_json, json_text, own_bytes, write_json
from geofilter.report.content import NEAREST, Report, build
from geofilter.report.document import ReportDocument, ShownRow
from geofilter.report.grouped import regrouped
from geofilter.report.last import (
    CUT,
    CutRecord,
    ReplacedFile,
    current,
    cut_of,
    cut_record,
    from_run,
    own_set,
    place_of,
    report_of,
)
from geofilter.report.page import html
from geofilter.report.plain import markdown
from geofilter.report.rows import GatheredRows
from geofilter.run.manifest import RowScore
from geofilter.run.marks import Mark
from geofilter.run.names import SCORES
from geofilter.run.score_arrays import has_pairs
from geofilter.run.store import Run
from geofilter.sums import sealed
from geofilter.together import Together, mode_of


@dataclass(frozen=True, slots=True, eq=False)
class Filtered:
    """What a cut came to."""

    outputs: list[Outputs]
    """the files of rows"""
    report: Report
    pages: list[Path]
    """HTML reports: beside each input's kept rows, and in the run"""
    torn: list[str]
    """what an earlier filter had left that was no whole set, one sentence each; this one has taken its place"""


def filter_run(
    run: Run,
    cut: Cut,
    out: Path | None = None,
    removed: Path | None = None,
    *,
    keep_groups: Sequence[int] = (),
    drop_groups: Sequence[int] = (),
    mask: Mask | None = None,
    swap: Swap | None = None,
) -> Filtered:
    """Cut a run: write the kept, removed and quarantined rows of every input, and the reports.

    All files are made before the first one appears, and an output set without its description is no whole one, see
    `sets`. A run that cannot be written is left alone, where `out` says where else the files go.

    Args:
        out: file for the kept rows (one input), or a folder for all outputs; by default beside the inputs.
        removed: file for the removed rows (one input).
        keep_groups: groups of rows that the cut would remove and that stay, by their numbers in the run's last report.
        drop_groups: groups of rows that it would keep and that go.
        mask: of the kept rows, written too.
        swap: of the removed pairs, likewise.

    Raises:
        InputError: a folder cannot be written, or options that do not fit the run.
        RunError: the run is in use, has no shares for a mask, or an input has changed since the scan.
    """
    if cut.kind == "threshold" and has_pairs(run.manifest):
        raise InputError(
            f"--threshold {cut.value:g}: this run ranks by chosen less rejected, which has no percentile; give --drop "
            "or --keep"
        )
    for beside in (mask, swap):
        if beside is not None:
            beside.refuse(run, out, removed)
    own = out is None or os.access(run.path, os.W_OK)
    with run.lock() if own else nullcontext(), begun_ahead(run):
        selection = Selection.of(run, regrouped(run, cut, keep_groups, drop_groups))
        plans = planned([Path(info["path"]) for info in run.manifest["data"]], out, removed, run.path)
        gathered = GatheredRows(selection)
        new = {path.resolve() for plan in plans for path in plan.paths}
        gone = [path for path in within(run) if path.resolve() not in new] if own else []
        torn_before = list(_torn_before(run, plans))
        with replacing(plans, [run.path] if own else [], gone) as files:
            written = selection.write_rows(files, plans, gathered)
            masked = swapped = None
            if mask is not None:
                with files.open(mask.path, run.mode) as handle:
                    masked = mask.write(selection, handle)
            if swap is not None:
                with files.open(swap.path, run.mode) as handle:
                    swapped = swap.write(selection, handle)
            with ThreadPoolExecutor(1) as hashing:
                known = hashing.submit(selection.sums_of_rows, files, written)
                report = build(selection, written, gathered, masked, swapped)
                pages = _write(report, files, [*written, None] if own else written)
                sets = selection.sets(files, written, reports=True, known=known.result())
            for plan, of in zip(plans, sets, strict=True):
                add(files, plan, of)
            if own:
                _record(run, files, sets[0]["cut"], [plan.set_file for plan in plans])
        return Filtered(written, report, pages, torn_before)


def _torn_before(run: Run, plans: Sequence[Outputs]) -> Iterator[str]:
    """What is at the places of a cut, or in its run, that is no whole set."""
    try:
        cut_record(run)
    except RunError as error:
        yield str(error).partition("; ")[0]
    for plan in plans:
        try:
            if plan.kept.exists():
                read_set(plan.set_file)
        except RunError as error:
            yield str(error).partition("; ")[0]


def _write(report: Report, files: Together, places: Sequence[Outputs | None]) -> list[Path]:
    """Write JSON, Markdown and HTML beside the kept rows of each place, for None into the run; return the pages."""
    run = report.selection.run
    rendered = {
        "md": as_bytes(markdown(report.data)),
        "html": as_bytes(html(report)),
        "json": as_bytes(json_text(report.data, indent=1) + "\n"),
    }
    inputs = run.manifest["data"]
    pages = []
    for place in places:
        mode = run.mode if place is None else mode_of([Path(inputs[place.index]["path"])])
        for kind, content in rendered.items():
            path = place.report(kind) if place else run.path / f"report.{kind}"
            with files.open(path, mode) as handle:
                handle.write(content)
            if kind == "html":
                pages.append(path)
    return pages


def _record(
    run: Run, files: Together, cut: CutAbout, sets: Sequence[Path], replaced: list[ReplacedFile] | None = None
) -> None:
    """Write cut.json, to appear last of all; until then the one that is there says that files are put in place."""
    paths = [run.path / f"report.{kind}" for kind in ("html", "json", "md")]
    record: CutRecord = {
        "whole": True,
        "cut": cut,
        "scores": run.manifest["files"][SCORES]["sha256"],
        "sets": [from_run(run, path) for path in sets],
        "reports": {path.name: sum_new(files, path) for path in paths},
    }
    if replaced is not None:
        record["replaced"] = replaced
    with files.open(run.path / CUT, run.mode, last=True) as handle:
        handle.write(as_bytes(json_text(sealed(record), indent=1) + "\n"))
    write_json(run.path / CUT, sealed({**record, "whole": False}), run.mode)


def remake(run: Run) -> tuple[Report, CutRecord]:
    """The report of a run's last cut, from the run as it is now, and the record of that cut.

    Raises:
        InputError: the run has not been cut, or has been scored anew since.
        RunError: an input has changed since the scan, or what the cut has written is torn or damaged.
    """
    record = current(run)
    written: ReportDocument = from_json(own_bytes(report_of(run, record)))
    selection = Selection.of(run, cut_of(record))
    swapped = written.get("pairs", {}).get("swapped")
    report = build(selection, _outputs(written), GatheredRows.again(selection), written.get("mask"), swapped)
    if replaced := written.get("replaced"):
        report.data["replaced"] = replaced
    # What was shaded stays shaded.
    spans = {(row["file"], row["line"]): row["spans"] for row in _shown(written) if "spans" in row}
    for row in report.rows:
        if "spans" not in row and (found := spans.get((row["file"], row["line"]))) is not None:
            row["spans"] = found
    return report, record


def _outputs(written: ReportDocument) -> list[Outputs]:
    """The files that a report is about."""
    found = []
    for i, f in enumerate(written["files"]):
        kept, removed, quarantined = (Path(f["outputs"][kind]) for kind in ("kept", "removed", "quarantined"))
        found.append(Outputs(i, kept, removed, quarantined, False, "", f["kept"], f["removed"], f["quarantined"]))
    return found


def _shown(written: ReportDocument) -> list[ShownRow]:
    return [*written["removed_rows"], *written["nearest_kept_rows"]]


def write_shaded(
    run: Run, most: int, shade: Callable[[Run, Sequence[RowScore]], list[list[Mark]]]
) -> tuple[list[Path], int]:
    """Make the report of a run's last cut again, with the tokens of some rows shaded.

    Args:
        most: highest removed rows that are shaded; of kept ones the nearest, up to `NEAREST`.
        shade: see `scanning.explain.shade`.

    Returns:
        the HTML pages, and how many rows were shaded.

    Raises:
        InputError, RunError: see `remake`, and what `shade` raises.
    """
    with run.lock():
        report, record = remake(run)
        removed = [row for row in report.rows if row["removed"]][:most]
        rows = [*removed, *[row for row in report.rows if not row["removed"]][:NEAREST]]
        for row, spans in zip(rows, shade(run, rows), strict=True):
            row["spans"] = spans
        own = _all_own(run, record, report.outputs)
        with replacing(list(own), [run.path]) as files:
            return _write_again(report, record, own, files), len(rows)


def write_replaced(run: Run, folders: Iterable[Path], write: Callable[[Together], list[ReplacedFile]]) -> None:
    """Write files with answered rows, and the report of a run's last cut again with what was written, as one
    transaction.

    Args:
        folders: in which the files are.
        write: writes them.

    Raises:
        InputError, RunError: see `remake`, and what `write` raises.
    """
    with run.lock():
        record = current(run)
        own = _all_own(run, record, _outputs(from_json(own_bytes(report_of(run, record)))))
        with replacing(list(own), [run.path, *folders]) as files:
            record["replaced"] = write(files)
            report, _ = remake(run)
            report.data["replaced"] = [
                {"input": of["input"], "output": str(place_of(run, of["output"])), "kept": of["kept"],
                 "replaced": of["replaced"], "left_out": of["left_out"]}
                for of in record["replaced"]
            ]  # fmt: skip
            _write_again(report, record, own, files)


def _all_own(run: Run, record: CutRecord, places: Sequence[Outputs]) -> dict[Outputs, OutputSet]:
    return {place: of for place in places if (of := _own(run, record, place))}


def _write_again(report: Report, record: CutRecord, own: dict[Outputs, OutputSet], files: Together) -> list[Path]:
    """Write a report that was made again, into the run and into those of its sets that are whole; return the pages."""
    run = report.selection.run
    pages = _write(report, files, [*own, None])
    for place, of in own.items():
        reports = {path: sum_new(files, path) for path in place.reports}
        add(files, place, described(run, of["cut"], place, reports, of))
    _record(run, files, record["cut"], [place.set_file for place in report.outputs], record.get("replaced"))
    return pages


def _own(run: Run, record: CutRecord, place: Outputs) -> OutputSet | None:
    """What was written at a place, where it is still of this cut and whole: another cut may have been written there."""
    try:
        of = own_set(run, record, place.index)
    except RunError:
        return None
    return None if of is None or any(torn(of, place.set_file)) else of
