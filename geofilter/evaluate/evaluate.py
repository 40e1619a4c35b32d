"""A finished run against labels: how well its score finds the bad rows, beside controls, with intervals.

The result is a plain dictionary, `evaluate.json`:

    format        1
    verdict       {text, beats_every_control, hardest_control, hardest_control_without_labels}
    labels        {rule, scored, labelled, bad, good, without_label, learnt_from, labels_without_row, groups,
                   grouped_by}
    bootstrap     {rounds, seed, level}
    lines         one for each way of ranking the labelled rows, the run's own first:
        name, kind (score, bank, scorer or control), fitted (True for a control that is fitted on labels)
        auroc, auroc_interval, auprc, auprc_interval     AUPRC is the average precision
        ahead, ahead_interval        AUROC of the run's score less this one's, paired; null for its own
        drops: [{drop, rows, bad, by_chance, extra, extra_interval,
                 precision, precision_interval, recall, recall_interval}]
            the highest scores of the labelled rows dropped; `by_chance` is what a random drop of as many rows removes
            in expectation, `extra` = bad - by_chance
        recall_curve                                     at 0, 1, ..., 100 % of the labelled rows dropped
    random_banks  [{bank, n, min, mean, max}] AUROC of banks of random features of the same size
    filter        [{drop, rows, labelled, bad}] what `geofilter filter --drop` removes of the whole run
    run, target, scorer, data, geofilter, notes

Intervals are 95 % percentile intervals of a bootstrap that draws whole groups of rows. The line of a random order
has none of it: it gives expectations, and as intervals where 95 % of random orders lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geofilter.arrays import F64, Bools
from geofilter.cut.cut import Cut
from geofilter.errors import InputError
from geofilter.evaluate import rankings
from geofilter.evaluate.rankings import Ranked
from geofilter.files import Notify
from geofilter.labels.labelled import Labelled, of_run
from geofilter.labels.source import parse
from geofilter.run.manifest import Manifest
from geofilter.run.store import Run
from geofilter.stats import LEVEL, ROUNDS, RankingStats, Stats, draw_weights, interval
from geofilter.version import __version__

FORMAT = 1
DROPS = ("10%", "25%", "50%")
RANDOM_ORDERS = 200
FEW_GROUPS = 20
"""below this many groups a percentile interval is too narrow to lean on"""


def _quiet(_text: str) -> None:
    return None


def evaluate(
    run: Run,
    label_rule: str,
    *,
    pair: str | None = None,
    across: Sequence[Path] = (),
    drops: Sequence[str] = DROPS,
    rounds: int = ROUNDS,
    seed: int = 0,
    notify: Notify = _quiet,
) -> dict[str, Any]:
    """Evaluate a run, see the module docstring.

    Args:
        label_rule: `FIELD=VALUE[,VALUE]`, or a labels file, see `source.parse`.
        pair: field that names the group of a row.
        across: other labelled files that the text controls are fitted on too.
        drops: amounts as `filter --drop` takes them; a count is taken as its share of the scored rows.

    Raises:
        InputError: labels that cannot be used, or a drop of less than one row.
        RunError: data or bank have changed since the scan.
        BankError: a bank is damaged.
    """
    cuts = [Cut.parse(drop) for drop in dict.fromkeys(drops)]
    labeller = parse(label_rule)
    rows = of_run(run, labeller, pair)
    filtered, fractions = _filter(run, rows, cuts)
    ranked, random_banks, notes = rankings.stored(run, rows)
    more, more_notes = rankings.fitted(rows, labeller, across, seed, notify, run.fields)
    ranked += more
    notify(f"drawing the rows {rounds:,} times ...")
    out, differences = compare(ranked, rows, [str(c) for c in cuts], fractions, rounds, seed)
    out.append(_random_order(rows.bad, [str(c) for c in cuts], fractions, out[0], differences[0], seed))
    manifest = run.manifest
    return {
        "format": FORMAT,
        "verdict": verdict(out),
        "run": str(run.path),
        "target": manifest["target"]["name"],
        "scorer": manifest["scorer"],
        "data": [f["path"] for f in manifest["data"]],
        "labels": rows.about,
        "bootstrap": {"rounds": rounds, "seed": seed, "level": LEVEL},
        "lines": out,
        "random_banks": random_banks,
        "filter": filtered,
        "notes": _notes(manifest, rows) + notes + more_notes,
        "geofilter": __version__,
    }


def _filter(run: Run, rows: Labelled, cuts: Sequence[Cut]) -> tuple[list[dict[str, Any]], list[float]]:
    """What `filter` removes at each cut, and the cuts as fractions."""
    arrays = run.arrays()
    out, fractions = [], []
    for cut in cuts:
        removed = cut.removed(arrays["score"], arrays["percentile"])
        fraction = cut.value if cut.kind == "fraction" else float(removed.mean())
        if round(fraction * len(rows.bad)) < 1:
            raise InputError(f"--{cut}: less than one of the {len(rows.bad)} labelled rows; drop more")
        gone = removed[rows.position]
        figures = {"rows": removed.sum(), "labelled": gone.sum(), "bad": (gone & rows.bad).sum()}
        out.append({"drop": str(cut).removeprefix("drop "), **{k: int(v) for k, v in figures.items()}})
        fractions.append(fraction)
    return out, fractions


def compare(
    ranked: Sequence[Ranked], rows: Labelled, names: Sequence[str], fractions: Sequence[float], rounds: int, seed: int
) -> tuple[list[dict[str, Any]], list[F64]]:
    """Each line's entry of the result, the run's own first, and its bootstrap AUROCs (rounds,)."""
    rankings = [RankingStats(line.score, rows.bad) for line in ranked]
    parts: list[list[Stats]] = [[] for _ in ranked]
    for weights in draw_weights(rows.groups, rounds, seed):
        for ranking, collected in zip(rankings, parts, strict=True):
            collected.append(ranking.stats(weights, fractions))
    drawn = [Stats.concat(p) for p in parts]
    here = [ranking.stats(np.ones((1, len(rows.bad))), fractions) for ranking in rankings]
    out = []
    for line, ranking, at, draws in zip(ranked, rankings, here, drawn, strict=True):
        own = line is ranked[0]
        # Paired: both scores are compared on the same drawn rows.
        ahead = _value(here[0].auroc[0] - at.auroc[0], drawn[0].auroc - draws.auroc)
        out.append(
            {
                "name": line.name,
                "kind": line.kind,
                "fitted": line.fitted,
                **_named("auroc", _value(at.auroc[0], draws.auroc)),
                **_named("auprc", _value(at.auprc[0], draws.auprc)),
                **_named("ahead", (None, None) if own else ahead),
                "drops": _drops(names, at, draws),
                "recall_curve": [round(float(r), 4) for r in ranking.recall_curve(np.linspace(0, 1, 101).tolist())],
            }
        )
    return out, [d.auroc for d in drawn]


def _value(value: float, draws: F64) -> tuple[float | None, list[float | None]]:
    return _round(value), [_round(v) for v in interval(draws)]


def _round(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _named(name: str, found: tuple[float | None, list[float | None] | None]) -> dict[str, Any]:
    return {name: found[0], f"{name}_interval": found[1]}


def _drops(names: Sequence[str], at: Stats, draws: Stats) -> list[dict[str, Any]]:
    n_bad = at.n_bad[0]
    # In rows of this set: a draw has more or fewer bad rows than it.
    extra = (draws.recall - draws.removed / draws.n[:, None]) * n_bad
    return [
        {
            "drop": name.removeprefix("drop "),
            "rows": int(at.removed[0, j]),
            "bad": int(at.bad_removed[0, j]),
            "by_chance": _round(at.by_chance[0, j]),
            **_named("extra", _value((at.bad_removed - at.by_chance)[0, j], extra[:, j])),
            **_named("precision", _value(at.precision[0, j], draws.precision[:, j])),
            **_named("recall", _value(at.recall[0, j], draws.recall[:, j])),
        }
        for j, name in enumerate(names)
    ]


def _random_order(
    bad: Bools, names: Sequence[str], fractions: Sequence[float], own: dict[str, Any], own_draws: F64, seed: int
) -> dict[str, Any]:
    """The control of no ranking at all: expectations, and where 95 % of random orders lie."""
    rng = np.random.default_rng(seed)
    one = np.ones((1, len(bad)))
    orders = Stats.concat([RankingStats(rng.random(len(bad)), bad).stats(one, fractions) for _ in range(RANDOM_ORDERS)])
    drops = []
    for j, name in enumerate(names):
        removed, chance = orders.removed[0, j], orders.by_chance[0, j]
        drops.append(
            {
                "drop": name.removeprefix("drop "),
                "rows": int(removed),
                "bad": _round(chance),
                "by_chance": _round(chance),
                **_named("extra", _value(0.0, orders.bad_removed[:, j] - chance)),
                **_named("precision", _value(float(bad.mean()), orders.precision[:, j])),
                **_named("recall", _value(removed / len(bad), orders.recall[:, j])),
            }
        )
    return {
        "name": "random order",
        "kind": "control",
        "fitted": False,
        **_named("auroc", _value(0.5, orders.auroc)),
        **_named("auprc", _value(float(orders.auprc.mean()), orders.auprc)),
        **_named("ahead", _value(own["auroc"] - 0.5, own_draws - 0.5)),
        "drops": drops,
        "recall_curve": [i / 100 for i in range(101)],
    }


def verdict(out: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Does the score beat every control by more than the interval of the paired difference?"""
    own = out[0]
    controls = [line for line in out if line["kind"] == "control"]
    blind = [line for line in controls if not line["fitted"]]
    # The hardest control, not the one with the highest AUROC: the smallest lower end decides the sentence.
    hardest, hardest_blind = (min(group, key=_lead) for group in (controls, blind))
    beaten = _lead(hardest) > 0
    start = "The score beats every control" if beaten else "The score does not beat every control"
    text = (
        f"{start}: its AUROC is {_shown(own, 'auroc')}, that of the hardest one ({hardest['name']}) "
        f"{_shown(hardest, 'auroc')}, the difference {_shown(hardest, 'ahead', '+.2f')}."
    )
    if not beaten and hardest_blind is not hardest:
        word = "beats" if _lead(hardest_blind) > 0 else "does not beat"
        text += (
            f" It {word} the controls that are not fitted on labels: the hardest of them ({hardest_blind['name']}) has "
            f"{_shown(hardest_blind, 'auroc')}, the difference is {_shown(hardest_blind, 'ahead', '+.2f')}."
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


def _lead(control: dict[str, Any]) -> float:
    """Lower end of how far the score is ahead of a control."""
    low = control["ahead_interval"][0]
    return -math.inf if low is None else float(low)


def _shown(line: dict[str, Any], name: str, form: str = ".2f") -> str:
    low, high = line[f"{name}_interval"]
    return f"{line[name]:{form}}" + ("" if low is None else f" [{low:{form}}, {high:{form}}]")


def _notes(manifest: Manifest, rows: Labelled) -> list[str]:
    about, notes = rows.about, []
    if about["without_label"]:
        notes.append(f"{about['without_label']:,} of {about['scored']:,} scored rows have no label and are left out.")
    if about["learnt_from"]:
        notes.append(f"{about['learnt_from']:,} rows that the bank was learnt from are left out.")
    if about["labels_without_row"]:
        notes.append(f"{about['labels_without_row']:,} labels belong to no scored row and are left out.")
    if about["groups"] < FEW_GROUPS:
        notes.append(f"Only {about['groups']} groups of rows: the intervals are rough and too narrow.")
    data = {f["sha256"]: f["path"] for f in manifest["data"]}
    for bank in manifest["banks"]:
        for source in (bank.get("sources") or {}).values():
            if source.get("sha256") in data:
                notes.append(
                    f"The bank {bank['name']} was built from rows of {data[source['sha256']]}, which are evaluated "
                    "here: this says how it fits them, not what it would find in others."
                )
    return notes
