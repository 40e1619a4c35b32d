"""Making a report of a cut, from the run and from the rows that were gathered while they were written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from operator import itemgetter

import numpy as np

from geofilter.arrays import F32, Bools
from geofilter.bank.bank import Bank
from geofilter.config import FLAGGED
from geofilter.cut.cut import Cut, Selection
from geofilter.cut.mask import MaskReport
from geofilter.cut.places import Outputs
from geofilter.cut.swap import SwapReport, worse
from geofilter.errors import BankError, RunError
from geofilter.report.composition import Dimension, dimensions
from geofilter.report.document import (
    SCHEMA,
    Controls,
    Examples,
    FileReport,
    Histogram,
    LabelsReport,
    PairsReport,
    ReportCounts,
    ReportDocument,
    ShownRow,
    StyleMeans,
    Verdict,
)
from geofilter.report.examples import examples_of
from geofilter.report.facts import Facts
from geofilter.report.grouped import groups_of
from geofilter.report.labelled import LabelledParts, drawn_at_random
from geofilter.report.rows import GatheredRows
from geofilter.report.verdict import verdict
from geofilter.rows.style import SHOWN, STYLE
from geofilter.run.banks import find_banks
from geofilter.run.column import Column
from geofilter.run.labelled import learnt_from
from geofilter.run.manifest import InputFile, Manifest
from geofilter.run.names import SCORES
from geofilter.run.score_arrays import has_pairs, rank_array
from geofilter.run.store import Run
from geofilter.run.told import reading_said
from geofilter.version import __version__

TOP_ROWS = 50
"""removed rows, and quarantined ones, in the JSON"""
NEAREST = 5
"""kept rows there, those with the highest scores"""
BINS = 40
OTHER_CUTS = {
    "length": ("longest", "shortest"),
    "bullets": ("most bullets", "fewest bullets"),
    "digits": ("most digits", "fewest digits"),
    "code": ("most code", "least code"),
}
"""names of the cuts by length and format, largest values first, that a cut is compared with"""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A report, and what its page shows besides."""

    data: ReportDocument
    """what is written as JSON"""
    selection: Selection
    outputs: Sequence[Outputs]
    dimensions: list[Dimension]
    rows: list[ShownRow]
    """rows with their texts, by rank; `shade` adds `spans` to some"""
    gathered: GatheredRows
    examples: Examples
    """the labelled rows that the rows are like"""


def build(
    selection: Selection,
    outputs: Sequence[Outputs],
    gathered: GatheredRows,
    mask: MaskReport | None = None,
    swapped: SwapReport | None = None,
) -> Report:
    """Everything the report says.

    Args:
        outputs: the files that were written.
        gathered: the cut's rows.
        mask: what was left out of kept rows.
        swapped: removed pairs that were written with their answers exchanged.
    """
    run, a, removed = selection.run, selection.columns, selection.removed
    manifest = run.manifest
    flagged = _flagged(selection)
    shown, divided, banks = gathered.rows(), dimensions(selection, gathered.labelled), _banks(run)
    top = [row for row in shown if row["removed"]][:TOP_ROWS]
    nearest = [row for row in shown if not row["removed"]][:NEAREST]
    labels = None if gathered.labelled is None else gathered.labelled.report(selection)
    groups = groups_of(selection, gathered.groups, gathered.names)
    data: ReportDocument = {
        "schema": SCHEMA,
        "verdict": verdict(_facts(selection, gathered.labelled, labels, sum(not g["removed"] for g in groups))),
        "headline": manifest["headline"],
        "cut": str(selection.cut),
        "ranked_by": rank_array(manifest),
        "cutoff_score": selection.cutoff,
        "counts": _counts(manifest, int(removed.sum()), int(flagged.sum())),
        "files": [_file(manifest["data"][o.index], o) for o in outputs],
        "tail": _tail_note(float(flagged.mean()), len(manifest["banks"])),
        "power": manifest["power"],
        "histogram": _histogram(
            selection.ranked_by, removed, [] if has_pairs(manifest) else manifest["reference_scores"]
        ),
        "composition": {d.key: d.table(removed) for d in divided},
        "features": gathered.tally.largest(manifest["target"]["neuronpedia"], banks),
        "explained": gathered.tally.explained,
        "controls": _controls(a, removed, flagged),
        "by_bank": dict(zip((b["name"] for b in manifest["banks"]), _by_bank(selection), strict=True)),
        "groups": groups,
        "examples": examples_of([*top, *nearest], banks),
        "removed_rows": top,
        "nearest_kept_rows": nearest,
        "removed_rows_shown": len(top),
        "quarantine": list(islice(run.quarantine(), TOP_ROWS)),
        "made_with": {
            "geofilter": __version__,
            "run": run.called,
            "scores": manifest["files"][SCORES]["sha256"],
            "scored_on": datetime.fromtimestamp((run.path / SCORES).stat().st_mtime, UTC).date().isoformat(),
            "target": manifest["target"],
            "scorer": manifest["scorer"],
            "encoding": manifest["encoding"],
            "read": list(reading_said(manifest["counts"], manifest["remarks"], manifest["encoding"])),
            "versions": manifest["versions"],
            "seconds": manifest["seconds"],
            "banks": manifest["banks"],
            "seed": manifest["seed"],
        },
    }
    if labels is not None:
        data["labels"] = labels
    if mask is not None:
        data["mask"] = mask
    if has_pairs(manifest):
        data["pairs"] = _pairs(selection, swapped)
    return Report(data, selection, outputs, divided, shown, gathered, examples_of(shown, banks))


def _pairs(selection: Selection, swapped: SwapReport | None) -> PairsReport:
    paired, higher, removed = selection.columns["paired"].whole(), worse(selection), selection.removed
    found: PairsReport = {
        "rows": int(paired.sum()),
        "worse": int(higher.sum()),
        "removed": int((paired & removed).sum()),
        "removed_worse": int((higher & removed).sum()),
    }
    if swapped is not None:
        found["swapped"] = swapped
    return found


def before_any_cut(run: Run) -> Verdict:
    """What there is to say of a run, and to do, before it is cut."""
    selection, labelled = Selection.of(run, Cut("count", 0)), LabelledParts.of_run(run)
    labels = None if labelled is None else labelled.report(selection)
    return verdict(replace(_facts(selection, labelled, labels), cut=""))


def _facts(
    selection: Selection, labelled: LabelledParts | None, labels: LabelsReport | None, kept_groups: int = 0
) -> Facts:
    """What the verdict goes by; `labels` is what the report says of the labelled rows."""
    run, removed = selection.run, selection.removed
    manifest, free = run.manifest, ~learnt_from(run)
    flagged = _flagged(selection) & free
    return Facts(
        run=run.called,
        scorer=manifest["scorer"],
        cut=str(selection.cut),
        power=manifest["power"],
        scored=len(removed),
        removed=int(removed.sum()),
        taught=int((~free).sum()),
        flagged=int(flagged.sum()),
        flagged_removed=int((flagged & removed).sum()),
        banks=len(manifest["banks"]),
        marked=0 if labelled is None else labelled.marked,
        drawn=drawn_at_random(selection),
        can_go=int((removed & free).sum()),
        can_stay=int((~removed & free).sum()),
        by_difference=has_pairs(manifest),
        by_score=bool(removed[selection.order()[: int(removed.sum())]].all()),
        kept_groups=kept_groups,
        labels="" if labels is None else labels["text"],
    )


def _flagged(selection: Selection) -> Bools:
    return selection.columns["percentile"].where(lambda rows: rows >= FLAGGED)


def _by_bank(selection: Selection) -> list[int]:
    """Removed rows of each bank."""
    count = np.zeros(len(selection.run.manifest["banks"]), np.int64)
    for here, banks in selection.columns["bank"].pieces():
        count += np.bincount(banks[selection.removed[here]], minlength=len(count))
    return count.tolist()


def _counts(manifest: Manifest, n_removed: int, n_flagged: int) -> ReportCounts:
    counts = manifest["counts"]
    return {
        **counts,
        "removed": n_removed,
        "kept": counts["scored"] + counts["passed_over"] - n_removed,
        "flagged": n_flagged,
        "not_scanned": sum(f["lines"] - f["rows"] for f in manifest["data"]),
    }


def _file(info: InputFile, written: Outputs) -> FileReport:
    return {
        "input": info["path"],
        "rows": info["rows"],
        "not_scanned": info["lines"] - info["rows"],
        "kept": written.n_kept,
        "removed": written.n_removed,
        "quarantined": written.n_quarantined,
        "outputs": {
            "kept": str(written.kept), "removed": str(written.removed), "quarantined": str(written.quarantined)
        },
    }  # fmt: skip


def _tail_note(share: float, n_banks: int) -> str:
    expected = (1 - FLAGGED) * n_banks
    each = f", {1 - FLAGGED:.0%} for each of {n_banks} banks" if n_banks > 1 else ""
    text = (
        f"{share:.1%} of the rows score above {FLAGGED:.0%} of ordinary chat under their bank; of ordinary chat itself "
        f"about {expected:.0%} would{each}."
    )
    if share <= 2 * expected:
        return f"Nothing stands out: {text} The cut takes the highest scores of a set that looks ordinary."
    return text


def _histogram(score: Column, removed: Bools, reference: list[float]) -> Histogram:
    low, high = np.percentile(score.whole(), [0.1, 99.9], overwrite_input=True)
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    kept, gone = np.zeros((2, BINS), np.int64)
    for here, rows in score.pieces():
        inside = np.clip(rows, edges[0], edges[-1])
        kept += np.histogram(inside[~removed[here]], edges)[0]
        gone += np.histogram(inside[removed[here]], edges)[0]
    return {
        "edges": [round(float(e), 4) for e in edges],
        "kept": kept.tolist(),
        "removed": gone.tolist(),
        "ordinary_chat": np.histogram(np.clip(reference, edges[0], edges[-1]), edges)[0].tolist(),
    }


def _banks(run: Run) -> dict[str, Bank]:
    """The run's banks by name, as far as they are as they were: a report does without their texts."""
    try:
        return {bank.name: bank for bank in find_banks(run)[0]}
    except (RunError, BankError):
        return {}


def _smallest(values: F32, k: int) -> Bools:
    """Which (n,) are the k smallest, the earlier one first among equals; k of at least 1."""
    limit = np.partition(values, k - 1)[k - 1]
    chosen: Bools = values < limit
    equal = np.flatnonzero(values == limit)
    chosen[equal[: k - int(chosen.sum())]] = True
    return chosen


def _controls(a: Mapping[str, Column], removed: Bools, flagged: Bools) -> Controls:
    """The cut beside a random removal of equal size, and its overlap with cuts by length and format."""
    n, k = len(removed), int(removed.sum())
    keep = ~removed
    share = k / n
    overlap: dict[str, float] = {}
    style: dict[str, StyleMeans] = {}
    for name in SHOWN:
        column = a["style"].each(np.float32, itemgetter((..., STYLE.index(name))))
        style[name] = {
            "removed": round(float(column[removed].mean()), 4) if k else None,
            "kept": round(float(column[keep].mean()), 4) if keep.any() else None,
        }
        for word in OTHER_CUTS[name]:
            column *= -1  # largest first, then smallest first
            overlap[word] = round(float(removed[_smallest(column, k)].mean()), 4) if k else 0.0
    sums = [(rows.sum(), rows[keep[here]].sum()) for here, rows in a["score"].pieces()]
    total, of_kept = np.sum(sums, axis=0).tolist()
    mean = round(total / n, 4)
    return {
        "mean_score": {
            "all": mean,
            "kept": round(of_kept / (n - k), 4) if n > k else None,
            # A random removal leaves the mean where it is, in expectation.
            "kept_after_random_removal": mean,
        },
        "flagged": {
            "all": int(flagged.sum()),
            "kept": int((flagged & keep).sum()),
            "kept_after_random_removal": round(float(flagged.sum()) * (1 - share), 1),
        },
        "removed_share": round(share, 4),
        "overlap_with_equal_cut_by": overlap,
        "style": style,
    }
