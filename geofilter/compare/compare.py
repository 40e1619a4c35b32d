"""Two runs of one target beside each other: did this delivery change what the model will learn? No model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from geofilter.arrays import F64, I32, Positions
from geofilter.bank.about import BankAbout
from geofilter.bank.bank import Bank
from geofilter.compare.document import FORMAT, Change, Comparison, Example, FeatureChange, Side
from geofilter.compare.figures import Sums, change, changes, judged, shared, strengths
from geofilter.config import FLAGGED
from geofilter.errors import InputError, RunError
from geofilter.groups.cluster import SAMPLE, centroids, keys_of, lowest, nearest
from geofilter.run.banks import find_banks
from geofilter.run.rows import rows_at
from geofilter.run.store import Run
from geofilter.run.vectors import required
from geofilter.text import counted, inert, shorten

EXAMPLES, TEXT = 2, 160
"""rows shown of a change, and characters of each"""
MOST_GROUPS = 10
OTHER_BANKS = "The runs were scored under different banks: their scores and topics are not compared."
PIECE = 100_000
"""rows whose groups are found at once"""


def compare(before: Run, after: Run, count: int = 10) -> Comparison:
    """How the second run's rows differ from the first's.

    Args:
        count: features that are listed.

    Raises:
        InputError: the runs are of different targets, or one has no scored row.
        RunError: a run is damaged, of an earlier version, or an input has changed since its scan.
    """
    runs = (before, after)
    for run in runs:
        if not run.manifest["counts"]["scored"]:
            raise InputError(f"{run.called}: has no scored row; there is nothing to compare")
    if before.manifest["target"]["fingerprint"] != after.manifest["target"]["fingerprint"]:
        raise InputError(
            f"{before.called} and {after.called}: scanned with different targets, whose features are not the "
            "same; scan one of them again"
        )
    banks, gone = find_banks(before)
    if not banks:
        raise RunError(f"{gone[0]}; scan again")
    same, sides = _same_banks(before, after), _sides(before, after)
    sums = [Sums.of(run, banks[0].background) for run in runs]
    features, n_clear, n_common = _features(runs, sums, banks, count)
    n, m = sides[0]["rows"], sides[1]["rows"]
    flagged = change("flagged rows", sides[0]["flagged"], n, sides[1]["flagged"], m) if same else None
    groups, n_groups = _groups(runs)
    found: Comparison = {
        "format": FORMAT,
        "sentence": "",
        "before": sides[0],
        "after": sides[1],
        "flagged": flagged,
        "topics": _topics(runs) if same else [],
        "groups": groups,
        "groups_clear": n_groups,
        "features": features,
        "features_clear": n_clear,
        "common_clear": n_common,
        "notes": [] if same else [OTHER_BANKS],
    }
    found["sentence"] = _sentence(found)
    return found


def _same_banks(before: Run, after: Run) -> bool:
    def known(banks: Sequence[BankAbout]) -> list[dict[str, object]]:
        return [{key: of for key, of in bank.items() if key != "path"} for bank in banks]

    a, b = before.manifest, after.manifest
    return known(a["banks"]) == known(b["banks"]) and a["scorer"] == b["scorer"]


def _sides(before: Run, after: Run) -> list[Side]:
    out: list[Side] = []
    for run, also in zip((before, after), shared(before, after), strict=True):
        arrays = run.arrays(["score", "percentile"])
        out.append(
            {
                "run": run.called,
                "data": [info["path"] for info in run.manifest["data"]],
                "rows": len(arrays["score"]),
                "shared": int(also.sum()),
                "flagged": int((arrays["percentile"] >= FLAGGED).sum()),
                "score": round(float(arrays["score"].mean()), 4),
            }
        )
    return out


def _features(
    runs: tuple[Run, Run], sums: Sequence[Sums], banks: Sequence[Bank], count: int
) -> tuple[list[FeatureChange], int, int]:
    """Those that differ most, how many differ clearly, and how many of tone and punctuation do."""
    d, half = strengths(*sums)
    clear = (np.abs(d) > half) & judged(*sums)
    common = np.logical_and.reduce([bank.common for bank in banks])
    told = np.flatnonzero(clear & ~common)
    listed = told[np.argsort(-np.abs(d[told]), kind="stable")[:count]]
    n, m = (of.rows for of in sums)
    out: list[FeatureChange] = []
    for feature in listed.tolist():
        k, other = (int(of.fired[feature]) for of in sums)
        label = next(filter(None, (bank.called(feature) for bank in banks)), "")
        reach = float(half[feature])
        out.append(
            {
                **change(label, k, n, other, m, len(d)),
                "clear": True,
                "feature": feature,
                "strength": round(float(d[feature]), 3),
                "strength_interval": [round(float(d[feature]) - reach, 3), round(float(d[feature]) + reach, 3)],
                "toxic": [bank.name for bank in banks if feature in bank.toxic],
            }
        )
    for run, sign in zip(runs, (-1, 1), strict=True):
        of = [one for one in out if np.sign(one["strength"]) == sign]
        strongest = _strongest(run, [one["feature"] for one in of])
        for one, rows in zip(of, _examples(run, strongest), strict=True):
            one["examples"] = rows
    return out, len(told), int((clear & common).sum())


def _strongest(run: Run, features: Sequence[int]) -> list[list[int]]:
    """The scored rows in which each feature is strongest, by its mean activation."""
    best: list[list[tuple[float, int]]] = [[] for _ in features]
    start = 0
    for shard in run.shards(tokens=False) if features else ():
        x = shard.pooled.matrix(shard.d_sae)[:, list(features)].tocsc()
        for i, top in enumerate(best):
            column = x[:, [i]].tocoo()
            order = np.argsort(-column.data, kind="stable")[:EXAMPLES]
            top += [(float(column.data[j]), start + int(column.row[j])) for j in order]
            best[i] = sorted(top, key=lambda one: (-one[0], one[1]))[:EXAMPLES]
        start += len(shard.pooled)
    return [[row for _, row in top] for top in best]


def _examples(run: Run, rows: Sequence[Sequence[int]]) -> Iterator[list[Example]]:
    """Rows as they are shown."""
    found = rows_at(run, sorted({i for some in rows for i in some}))
    for some in rows:
        yield [
            {
                "file": found[i].file,
                "line": found[i].line,
                "text": inert(shorten(found[i].response, TEXT), keep="\n\t"),
            }
            for i in some
        ]


def _topics(runs: tuple[Run, Run]) -> list[Change]:
    """The topics that rows are closest to."""
    names = list(dict.fromkeys(name for run in runs for name in run.manifest.get("topics", [])))
    if not names:
        return []
    counts = []
    for run in runs:
        own, topic = run.manifest["topics"], run.arrays(["topic"])["topic"]
        of = np.bincount(topic[topic >= 0], minlength=len(own))
        counts.append(np.array([of[own.index(name)] if name in own else 0 for name in names], np.int64))
    if not all(of.sum() for of in counts):
        return []
    return changes(names, *counts)


def _groups(runs: tuple[Run, Run]) -> tuple[list[Change], int]:
    """Groups of rows of both that are about the same, those whose share differs most, and how many differ clearly."""
    columns = [required(run).rows for run in runs]
    hashes = [run.arrays(["sha256"])["sha256"] for run in runs]
    # As many of either, so that a small delivery beside a large set makes groups of its own.
    parts = [lowest(keys_of(of), SAMPLE // 2) for of in hashes]
    sample = np.concatenate([column.take(rows) for column, rows in zip(columns, parts, strict=True)])
    found = centroids(sample, sum(map(len, hashes)))
    of: list[I32] = []
    cosine: list[F64] = []
    for column, digests in zip(columns, hashes, strict=True):
        each = [nearest(column.read(a, min(a + PIECE, len(digests))), found) for a in range(0, len(digests), PIECE)]
        of.append(np.concatenate([group for group, _ in each]))
        cosine.append(np.concatenate([near for _, near in each]).astype(np.float64))
    counts = [np.bincount(one, minlength=len(found)) for one in of]
    names = [str(i) for i in range(len(found))]
    clear = [one for one in changes(names, *counts) if one["clear"]]
    out = clear[:MOST_GROUPS]
    for side, (run, sign) in enumerate(zip(runs, (-1, 1), strict=True)):
        mine = [one for one in out if np.sign(one["difference"]) == sign]
        shown = [_nearest_rows(of[side], cosine[side], int(one["name"])) for one in mine]
        for one, rows in zip(mine, _examples(run, shown), strict=True):
            one["examples"] = rows
    for number, one in enumerate(out, start=1):
        one["name"] = f"group {number}"
    return out, len(clear)


def _nearest_rows(of: I32, cosine: F64, group: int) -> list[int]:
    member: Positions = np.flatnonzero(of == group)
    return [int(i) for i in member[np.argsort(-cosine[member], kind="stable")[:EXAMPLES]]]


def _sentence(found: Comparison) -> str:
    flagged, groups, features = found["flagged"], found["groups_clear"], found["features_clear"]
    parts = []
    if flagged is not None:
        low, high = (100 * x for x in flagged["interval"])
        moved = "clearly" if flagged["clear"] else "not clearly"
        parts.append(
            f"{flagged['after']:.1%} of the second's rows are flagged, {flagged['before']:.1%} of the first's: {moved} "
            f"different ({low:+.1f} to {high:+.1f} points)"
        )
    topics = sum(one["clear"] for one in found["topics"])
    parts.append(
        f"{counted(features, 'feature')}, {counted(topics, 'topic')} and {counted(groups, 'group')} of rows "
        "differ clearly"
    )
    return "; ".join(parts) + "."
