"""What a report says: one JSON-able dictionary, whose form docs/report.md describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.bank.bank import Bank
from geofilter.cut.cut import Selection
from geofilter.cut.outputs import Outputs
from geofilter.errors import BankError, RunError
from geofilter.files import file_sha256
from geofilter.report import rows
from geofilter.report.composition import Dimension, dimensions
from geofilter.rows.style import SHOWN, STYLE
from geofilter.run.banks import find_banks
from geofilter.run.store import SCORES, Run
from geofilter.version import __version__

SCHEMA = 2
FLAGGED = 0.99
"""percentile from which a row counts as flagged; ordinary chat has 1 % of such rows for one bank"""
TOP_ROWS = 50
"""removed rows, and quarantined ones, in the JSON"""
NEAREST = 5
"""kept rows there, those with the highest scores"""
TOP_FEATURES = 15
NEURONPEDIA = "https://www.neuronpedia.org"
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

    data: dict[str, Any]
    """what is written as JSON"""
    selection: Selection
    outputs: Sequence[Outputs]
    dimensions: list[Dimension]
    rows: list[dict[str, Any]]
    """rows with their texts, by rank; `shade` adds `tokens` to some"""


def build(selection: Selection, outputs: Sequence[Outputs], tally: Tally) -> Report:
    """Everything the report says.

    Args:
        outputs: the files that were written.
        tally: of the removed rows.

    Raises:
        InputError, RunError: an input cannot be read, or has changed since the scan.
    """
    run, a, removed = selection.run, selection.arrays, selection.removed
    manifest = run.manifest
    counts = manifest["counts"]
    n_removed = int(removed.sum())
    flagged = a["percentile"] >= FLAGGED
    order = selection.order()
    ranks = rows.shown_ranks(len(order), n_removed)
    shown = rows.read(selection, ranks, order[ranks])
    divided = dimensions(selection)
    top = [row for row in shown if row["removed"]][:TOP_ROWS]
    data = {
        "schema": SCHEMA,
        "headline": manifest["headline"],
        "cut": str(selection.cut),
        "cutoff_score": selection.cutoff,
        "counts": {
            **counts,
            "removed": n_removed,
            "kept": counts["scored"] - n_removed,
            "flagged": int(flagged.sum()),
            "not_scanned": sum(f["lines"] - f["rows"] for f in manifest["data"]),
        },
        "files": [
            {
                "input": manifest["data"][o.index]["path"],
                "rows": manifest["data"][o.index]["rows"],
                "not_scanned": manifest["data"][o.index]["lines"] - manifest["data"][o.index]["rows"],
                "kept": o.n_kept,
                "removed": o.n_removed,
                "quarantined": o.n_quarantined,
                "outputs": {"kept": str(o.kept), "removed": str(o.removed), "quarantined": str(o.quarantined)},
            }
            for o in outputs
        ],
        "tail": _tail_note(float(flagged.mean()), len(manifest["banks"])),
        "power": manifest["power"],
        "histogram": _histogram(a["score"], removed, manifest["reference_scores"]),
        "composition": {d.key: d.table(removed) for d in divided},
        "features": tally.largest(manifest["target"]["neuronpedia"], _banks(run)),
        "controls": _controls(a, removed, flagged),
        "by_bank": {b["name"]: int((a["bank"][removed] == i).sum()) for i, b in enumerate(manifest["banks"])},
        "removed_rows": top,
        "nearest_kept_rows": [row for row in shown if not row["removed"]][:NEAREST],
        "removed_rows_shown": len(top),
        "quarantine": run.quarantine()[:TOP_ROWS],
        "made_with": {
            "geofilter": __version__,
            "run": str(run.path),
            "scores": file_sha256(run.path / SCORES),
            **{k: manifest[k] for k in ("target", "scorer", "encoding", "versions", "seconds", "banks", "seed")},
        },
    }
    return Report(data, selection, outputs, divided, shown)


def _tail_note(share: float, n_banks: int) -> str:
    expected = (1 - FLAGGED) * n_banks
    text = f"{share:.1%} of the rows score above {FLAGGED:.0%} of ordinary chat (where about {expected:.0%} do)"
    if share <= 2 * expected:
        return f"No separable tail: {text}. The cut takes the highest scores of a set that looks ordinary."
    return f"{text}."


def _histogram(
    score: npt.NDArray[np.float64], removed: npt.NDArray[np.bool_], reference: list[float]
) -> dict[str, list[float]]:
    low, high = np.percentile(score, [0.1, 99.9])
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    inside = np.clip(score, edges[0], edges[-1])
    return {
        "edges": [round(float(e), 4) for e in edges],
        "kept": np.histogram(inside[~removed], edges)[0].tolist(),
        "removed": np.histogram(inside[removed], edges)[0].tolist(),
        "ordinary_chat": np.histogram(np.clip(reference, edges[0], edges[-1]), edges)[0].tolist(),
    }


class Tally:
    """Toxic features behind the removed rows, summed up row by row while they are written."""

    def __init__(self) -> None:
        self._total: dict[tuple[str, int], dict[str, Any]] = {}

    def add(self, detail: Mapping[str, Any]) -> None:
        """Count a removed row's line of scores.jsonl."""
        near = set()
        for t in detail["top_features"]:
            key = (detail["bank"], t["nearest_toxic"])
            entry = self._total.setdefault(
                key, {"bank": key[0], "feature": key[1], "label": t["nearest_label"], "share": 0.0,
                      "closeness": 0.0, "rows": 0, "through": {}},
            )  # fmt: skip
            near.add(key)
            entry["share"] += t["share"]
            entry["closeness"] += t["share"] * t["closeness"]
            through = entry["through"].setdefault(t["feature"], [t["label"], 0.0])
            through[1] += t["share"]
        for key in near:
            self._total[key]["rows"] += 1

    def largest(self, page: str | None, banks: Mapping[str, Bank]) -> list[dict[str, Any]]:
        """Those with the largest sum of the shares of the features nearest to them.

        Args:
            page: the SAE's name on neuronpedia.org.
            banks: by name, those that are still there; they have the texts that show a feature.
        """
        ordered = sorted(self._total.values(), key=lambda e: (-e["share"], e["feature"]))[:TOP_FEATURES]
        return [
            {
                **e,
                "share": round(e["share"], 4),
                # Shares are rounded where they are stored, some to nothing.
                "closeness": round(e["closeness"] / e["share"], 4) if e["share"] else 0.0,
                "examples": _examples(banks.get(e["bank"]), e["feature"]),
                "link": f"{NEURONPEDIA}/{page}/{e['feature']}" if page else None,
                "through": [
                    {"feature": f, "label": label, "share": round(s, 4)}
                    for f, (label, s) in sorted(e["through"].items(), key=lambda kv: -kv[1][1])[:3]
                ],
            }
            for e in ordered
        ]


def _banks(run: Run) -> dict[str, Bank]:
    """The run's banks by name, as far as they are as they were: a report does without their texts."""
    try:
        return {bank.name: bank for bank in find_banks(run)[0]}
    except (RunError, BankError):
        return {}


def _examples(bank: Bank | None, feature: int) -> list[dict[str, Any]]:
    """Texts of a bank's own rows in which a toxic feature is strongest."""
    place = [] if bank is None else np.flatnonzero(bank.toxic == feature).tolist()
    return [{k: e[k] for k in ("text", "strong", "bad")} for p in place if bank for e in bank.examples[p]]


def _controls(
    a: dict[str, npt.NDArray[Any]], removed: npt.NDArray[np.bool_], flagged: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """The cut beside a random removal of equal size, and its overlap with cuts by length and format."""
    n, k = len(removed), int(removed.sum())
    keep = ~removed
    share = k / n
    overlap = {}
    for name in SHOWN:
        column = a["style"][:, STYLE.index(name)]
        for word, sign in zip(OTHER_CUTS[name], (-1, 1), strict=True):
            chosen = np.argsort(sign * column, kind="stable")[:k]
            overlap[word] = round(float(removed[chosen].mean()), 4) if k else 0.0
    return {
        "mean_score": {
            "all": round(float(a["score"].mean()), 4),
            "kept": round(float(a["score"][keep].mean()), 4) if keep.any() else None,
            # A random removal leaves the mean where it is, in expectation.
            "kept_after_random_removal": round(float(a["score"].mean()), 4),
        },
        "flagged": {
            "all": int(flagged.sum()),
            "kept": int((flagged & keep).sum()),
            "kept_after_random_removal": round(float(flagged.sum()) * (1 - share), 1),
        },
        "removed_share": round(share, 4),
        "overlap_with_equal_cut_by": overlap,
        "style": {
            name: {
                "removed": round(float(a["style"][removed, STYLE.index(name)].mean()), 4) if k else None,
                "kept": round(float(a["style"][keep, STYLE.index(name)].mean()), 4) if keep.any() else None,
            }
            for name in SHOWN
        },
    }
