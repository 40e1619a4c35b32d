"""A finished run against labels: how well its score finds the bad rows, beside controls, with intervals."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from geofilter.arrays import F64, Bools
from geofilter.cut.cut import Cut
from geofilter.errors import InputError
from geofilter.evaluate import rankings
from geofilter.evaluate.ranked import Ranked
from geofilter.evaluate.result import (
    FORMAT,
    DropFigures,
    Evaluation,
    Interval,
    LineFigures,
    RankingVerdict,
    WholeRun,
    with_interval,
)
from geofilter.files import Notify, silent
from geofilter.labels.labelled_rows import Labelled, of_run
from geofilter.labels.source import parse
from geofilter.run.labelled import learnt_by, learnt_from
from geofilter.run.manifest import Manifest
from geofilter.run.score_arrays import has_pairs, rank_array
from geofilter.run.store import Run
from geofilter.stats import LEVEL, ROUNDS, RankingStats, Stats, draw_weights, interval
from geofilter.version import __version__

DROPS = ("10%", "25%", "50%")
RANDOM_ORDERS = 200
FEW_GROUPS = 20
"""below this many groups a percentile interval is too narrow to lean on"""


def evaluate(
    run: Run,
    label_rule: str,
    *,
    key: str | None = None,
    pair: str | None = None,
    across: Sequence[Path] = (),
    drops: Sequence[str] = DROPS,
    rounds: int = ROUNDS,
    seed: int = 0,
    notify: Notify = silent,
) -> Evaluation:
    """Evaluate a run.

    Args:
        label_rule: `FIELD=VALUE[,VALUE]`, or a labels file, see `source.parse`.
        key: field that joins the rows with a labels file, see `source.KeyedLabels`.
        pair: field that names the group of a row.
        across: other labelled files that the text controls are fitted on too.
        drops: amounts as `filter --drop` takes them; a count is taken as its share of the scored rows.

    Raises:
        InputError: labels that cannot be used, or a drop of less than one row.
        RunError: data or bank have changed since the scan.
        BankError: a bank is damaged.
    """
    cuts = [Cut.parse(drop) for drop in dict.fromkeys(drops)]
    labeller = parse(label_rule, key=key)
    rows = of_run(run, labeller, pair)
    joined = labeller.notes()  # before rows of other files are asked for theirs
    filtered, fractions = _filter(run, rows, cuts)
    ranked, random_banks, notes = rankings.stored(run, rows)
    more, more_notes = rankings.fitted(rows, labeller, across, seed, notify, run.reading)
    ranked += more
    notify(f"drawing the rows {rounds:,} times ...")
    out, differences = compare(ranked, rows, [str(c) for c in cuts], fractions, rounds, seed)
    out.append(_random_order(rows.bad, [str(c) for c in cuts], fractions, out[0], differences[0], seed))
    manifest = run.manifest
    return {
        "format": FORMAT,
        "verdict": verdict(out),
        "run": run.called,
        "target": manifest["target"]["name"],
        "scorer": manifest["scorer"],
        "data": [f["path"] for f in manifest["data"]],
        "labels": rows.about,
        "bootstrap": {"rounds": rounds, "seed": seed, "level": LEVEL},
        "lines": out,
        "random_banks": random_banks,
        "filter": filtered,
        "notes": joined + _notes(manifest, rows, learnt_by(run)) + notes + more_notes,
        "geofilter": __version__,
    }


def _filter(run: Run, rows: Labelled, cuts: Sequence[Cut]) -> tuple[list[WholeRun], list[float]]:
    """What `filter` removes at each cut, and the cuts as fractions."""
    arrays, learnt, by = run.arrays(), learnt_from(run), rank_array(run.manifest)
    out: list[WholeRun] = []
    fractions = []
    for cut in cuts:
        removed = cut.removed(arrays[by], arrays["percentile"])
        fraction = cut.value if cut.kind == "fraction" else float(removed.mean())
        if round(fraction * len(rows.bad)) < 1:
            raise InputError(f"--{cut}: less than one of the {len(rows.bad)} labelled rows; drop more")
        gone = removed[rows.position]
        out.append(
            {
                "drop": str(cut).removeprefix("drop "),
                "rows": int(removed.sum()),
                "learnt_from": int((removed & learnt).sum()),
                "labelled": int(gone.sum()),
                "bad": int((gone & rows.bad).sum()),
            }
        )
        fractions.append(fraction)
    return out, fractions


def compare(
    ranked: Sequence[Ranked], rows: Labelled, names: Sequence[str], fractions: Sequence[float], rounds: int, seed: int
) -> tuple[list[LineFigures], list[F64]]:
    """Each line's entry of the result, the run's own first, and its bootstrap AUROCs (rounds,)."""
    rankings = [RankingStats(line.score, rows.bad) for line in ranked]
    parts: list[list[Stats]] = [[] for _ in ranked]
    for weights in draw_weights(rows.groups, rounds, seed):
        for ranking, collected in zip(rankings, parts, strict=True):
            collected.append(ranking.stats(weights, fractions))
    drawn = [Stats.concat(p) for p in parts]
    here = [ranking.stats(np.ones((1, len(rows.bad))), fractions) for ranking in rankings]
    out: list[LineFigures] = []
    for line, ranking, at, draws in zip(ranked, rankings, here, drawn, strict=True):
        # Paired: both scores are compared on the same drawn rows.
        ahead = _value(here[0].auroc[0] - at.auroc[0], drawn[0].auroc - draws.auroc)
        out.append(
            _figures(
                line, _value(at.auroc[0], draws.auroc), _value(at.auprc[0], draws.auprc),
                (None, None) if line is ranked[0] else ahead, _drops(names, at, draws),
                [round(float(r), 4) for r in ranking.recall_curve(np.linspace(0, 1, 101).tolist())],
            )
        )  # fmt: skip
    return out, [d.auroc for d in drawn]


def _figures(
    line: Ranked,
    auroc: tuple[float | None, Interval],
    auprc: tuple[float | None, Interval],
    ahead: tuple[float | None, Interval | None],
    drops: list[DropFigures],
    recall_curve: list[float],
) -> LineFigures:
    """The entry of a line; each figure comes with its interval."""
    return {
        "name": line.name,
        "kind": line.kind,
        "fitted": line.fitted,
        "auroc": auroc[0],
        "auroc_interval": auroc[1],
        "auprc": auprc[0],
        "auprc_interval": auprc[1],
        "ahead": ahead[0],
        "ahead_interval": ahead[1],
        "drops": drops,
        "recall_curve": recall_curve,
    }


def _value(value: float, draws: F64) -> tuple[float | None, Interval]:
    return _round(value), [_round(v) for v in interval(draws)]


def _round(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _drops(names: Sequence[str], at: Stats, draws: Stats) -> list[DropFigures]:
    # In rows of this set: a draw has more or fewer bad rows than it.
    extra = (draws.recall - draws.removed / draws.n[:, None]) * at.n_bad[0]
    return [
        _drop(
            name, int(at.removed[0, j]), int(at.bad_removed[0, j]), at.by_chance[0, j],
            _value((at.bad_removed - at.by_chance)[0, j], extra[:, j]),
            _value(at.precision[0, j], draws.precision[:, j]), _value(at.recall[0, j], draws.recall[:, j]),
        )
        for j, name in enumerate(names)
    ]  # fmt: skip


def _drop(
    name: str,
    rows: int,
    bad: float | None,
    by_chance: float,
    extra: tuple[float | None, Interval],
    precision: tuple[float | None, Interval],
    recall: tuple[float | None, Interval],
) -> DropFigures:
    return {
        "drop": name.removeprefix("drop "),
        "rows": rows,
        "bad": bad,
        "by_chance": _round(by_chance),
        "extra": extra[0],
        "extra_interval": extra[1],
        "precision": precision[0],
        "precision_interval": precision[1],
        "recall": recall[0],
        "recall_interval": recall[1],
    }


def _random_order(
    bad: Bools, names: Sequence[str], fractions: Sequence[float], own: LineFigures, own_draws: F64, seed: int
) -> LineFigures:
    """The control of no ranking at all: expectations, and where 95 % of random orders lie."""
    rng = np.random.default_rng(seed)
    one = np.ones((1, len(bad)))
    orders = Stats.concat([RankingStats(rng.random(len(bad)), bad).stats(one, fractions) for _ in range(RANDOM_ORDERS)])
    drops = []
    for j, name in enumerate(names):
        removed, chance = orders.removed[0, j], orders.by_chance[0, j]
        drops.append(
            _drop(
                name, int(removed), _round(chance), chance, _value(0.0, orders.bad_removed[:, j] - chance),
                _value(float(bad.mean()), orders.precision[:, j]), _value(removed / len(bad), orders.recall[:, j]),
            )
        )  # fmt: skip
    own_auroc = math.nan if own["auroc"] is None else own["auroc"]
    return _figures(
        Ranked("random order", "control", np.full(len(bad), np.nan)), _value(0.5, orders.auroc),
        _value(float(orders.auprc.mean()), orders.auprc), _value(own_auroc - 0.5, own_draws - 0.5), drops,
        [i / 100 for i in range(101)],
    )  # fmt: skip


def verdict(out: Sequence[LineFigures]) -> RankingVerdict:
    """Does the score beat every control by more than the interval of the paired difference?"""
    own = out[0]
    controls = [line for line in out if line["kind"] == "control"]
    blind = [line for line in controls if not line["fitted"]]
    # The hardest control, not the one with the highest AUROC: the smallest lower end decides the sentence.
    hardest, hardest_blind = (min(group, key=_lead) for group in (controls, blind))
    beaten = _lead(hardest) > 0
    start = "The score beats every control" if beaten else "The score does not beat every control"
    text = (
        f"{start}: its AUROC is {with_interval(own, 'auroc')}, that of the hardest one ({hardest['name']}) "
        f"{with_interval(hardest, 'auroc')}, the difference {with_interval(hardest, 'ahead', '+.2f')}."
    )
    if not beaten and hardest_blind is not hardest:
        word = "beats" if _lead(hardest_blind) > 0 else "does not beat"
        text += (
            f" It {word} the controls that are not fitted on labels: the hardest of them ({hardest_blind['name']}) has "
            f"{with_interval(hardest_blind, 'auroc')}, the difference is "
            f"{with_interval(hardest_blind, 'ahead', '+.2f')}."
        )
    high = own["auroc_interval"][1]
    if high is not None and high < 0.5:
        text += " It ranks the bad rows below the good ones: a cut by it removes good rows."
    return {
        "text": text,
        "beats_every_control": beaten,
        "hardest_control": hardest["name"],
        "hardest_control_without_labels": hardest_blind["name"],
    }


def _lead(control: LineFigures) -> float:
    """Lower end of how far the score is ahead of a control."""
    low = (control["ahead_interval"] or [None])[0]
    return -math.inf if low is None else low


def _notes(manifest: Manifest, rows: Labelled, known: Collection[str]) -> list[str]:
    """What should be known of the rows.

    Args:
        known: banks of which the rows that they were learnt from are known, and left out.
    """
    about, notes = rows.about, []
    if has_pairs(manifest):
        notes.append("Banks alone, other scorers and controls see the chosen answers, but where a line says otherwise.")
    if about["without_label"]:
        notes.append(f"{about['without_label']:,} of {about['scored']:,} scored rows have no label and are left out.")
    if about["learnt_from"]:
        notes.append(f"{about['learnt_from']:,} rows that a bank was learnt from are left out: no figure is of them.")
    if about["labels_without_row"]:
        notes.append(f"{about['labels_without_row']:,} labels belong to no scored row and are left out.")
    if about["groups"] < FEW_GROUPS:
        notes.append(f"Only {about['groups']} groups of rows: the intervals are rough and too narrow.")
    data = {f["sha256"]: f["path"] for f in manifest["data"]}
    for bank in (b for b in manifest["banks"] if b["name"] not in known):  # one of an earlier version
        for source in (bank.get("sources") or {}).values():
            if source.get("sha256") in data:
                notes.append(
                    f"The bank {bank['name']} was built from rows of {data[source['sha256']]}, which are evaluated "
                    "here: this says how it fits them, not what it would find in others."
                )
    return notes
