"""A trial as sentences, tables, Markdown and a picture. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geofilter.charts import Interval, intervals
from geofilter.files import write_text
from geofilter.text import markdown_table, markdown_text
from geofilter.trial.result import TrialResult

FILES = ("trial.json", "trial.md", "trial.svg", "lock")
"""what a trial's folder has beside its arms"""
HEAD = ("arm", "drop", "misalignment", "reduction against full", "beyond random", "loss on held-out rows")
UNITS = {
    "statements": "logits",
    "pairs": "nats per token",
    "own_pairs": "nats per token",
    "free_form": "share of coherent answers",
}


def verdicts(result: TrialResult) -> list[str]:
    """What came out, one sentence for each measure and drop: the run's own score against the full set and random."""
    out = []
    for name, measure in result["measures"].items():
        rows = {(r["arm"], r["drop"]): r for r in measure["rows"]}
        full = rows[("full", "")]
        if not measure["measurable"]:
            out.append(
                f"{name}: fine-tuning on the full set does not measurably misalign this model "
                f"({_figure(full, 'misalignment', 'interval', '+.3f')} against aligned rows): nothing to reduce."
            )
            continue
        for (arm, drop), row in rows.items():
            if arm != "score":
                continue
            text = f"{name}, drop {drop}: removal by score {change(row)} relative to full"
            random = rows.get(("random", drop))
            if random is not None:
                text += f", a random removal of equal size {change(random)}"
                bounds = row["beyond_random_interval"]
                clear = bounds is not None and bounds[0] > 0
                text += f"; the difference is {'clear of' if clear else 'not clear of'} zero"
            if drop == result["paper"]["drop"]:
                text += f" (the paper: {result['paper']['reduction']:.1%})"
            out.append(f"{text}.")
    return out


def change(row: Mapping[str, Any]) -> str:
    """`cuts misalignment by 58% [5%, 137%]`, or `raises` where the reduction is negative."""
    if round(row["reduction"], 2) >= 0:
        return f"cuts misalignment by {_percent(row, 'reduction')}"
    low, high = row["reduction_interval"]
    raised = {"reduction": -row["reduction"], "reduction_interval": (-high, -low)}
    return f"raises misalignment by {_percent(raised, 'reduction')}"


def table(result: TrialResult, name: str) -> list[list[str]]:
    """Cells under `HEAD` of one measure, an arm a line."""
    general = {(a["arm"], a["drop"]): a for a in result["arms"]}
    out = []
    for row in result["measures"][name]["rows"]:
        arm = general[(row["arm"], row["drop"])]
        label = row["arm"]
        if "rows" in arm:
            counts = [f"{arm['rows']:.0f} rows"]
            counts += [f"{arm['bad_rows']:.0f} bad"] if "bad_rows" in arm else []
            counts += [f"{arm['swapped']:.0f} swapped"] if "swapped" in arm else []
            label += f" ({', '.join(counts)})"
        out.append(
            [
                label,
                row["drop"] or "-",
                _figure(row, "misalignment", "interval", "+.3f"),
                _percent(row, "reduction"),
                _percent(row, "beyond_random"),
                f"{arm['loss']:.3f} ({arm['loss_change']:+.3f})",
            ]
        )
    return out


def features(result: TrialResult) -> tuple[list[str], list[list[str]]]:
    """What the paper says moves: toxic activations and closeness on held-out rows, before and after; head and cells."""
    banks = list(result["base"]["features"])
    head = ["arm", "drop"]
    for bank in banks:
        head += [f"{bank}: toxic activation", f"{bank}: closeness"]
    before = result["base"]["features"]
    rows = [["before", "-", *(f"{before[b][k]:.4f}" for b in banks for k in ("toxic_activation", "closeness"))]]
    for arm in result["arms"]:
        cells = [
            f"{arm['features'][b][k]['after']:.4f} ({arm['features'][b][k]['after'] - before[b][k]:+.4f})"
            for b in banks
            for k in ("toxic_activation", "closeness")
        ]
        rows.append([arm["arm"], arm["drop"] or "-", *cells])
    return head, rows


def remarks(result: TrialResult) -> list[str]:
    """What must be known to read the tables."""
    budget, n = result["budget"], len(result["seeds"])
    return [
        f"Every arm: {budget['steps']} steps, {budget['response_tokens']:,} response tokens, {n} seed{'s' * (n > 1)}; "
        "a smaller set is seen more often."
        + " Early: all rows, and fewer steps by the drop."
        * any(a["arm"] == "early" for a in result["arms"]),
        "Misalignment is the measure less that of the `good` arm (aligned rows only) with the same seed; in brackets "
        "Student's 95 % interval over seeds. Reductions: 1 - arm / full, in brackets a 95 % bootstrap over seeds and "
        "items; with few seeds its seed part is rough. Beyond random: the reduction less that of random removal.",
        "Loss on held-out rows: nats per response token of aligned answers that no arm saw, and its change against the "
        "model before; a removal that costs the task shows here.",
    ]


def markdown(result: TrialResult) -> str:
    """The trial as Markdown."""
    out = ["# geofilter trial\n", *(f"**{markdown_text(text)}**\n" for text in verdicts(result))]
    out.append(
        markdown_text(
            f"Target {result['target']}; data {', '.join(f['path'] for f in result['data'])}; scorer "
            f"{result['scorer']} with {', '.join(result['banks'])}."
        )
        + "\n"
    )
    for name, measure in result["measures"].items():
        out += [f"## {name}\n", f"{markdown_text(measure['text'])}; before fine-tuning {measure['base']:+.3f}.\n"]
        out += [*markdown_table(HEAD, table(result, name)), ""]
    head, rows = features(result)
    out += ["## The bank's features on held-out rows\n", *markdown_table(head, rows), ""]
    out += [f"- {markdown_text(text)}" for text in remarks(result)]
    return "\n".join(out) + "\n"


def picture(result: TrialResult) -> str:
    """Misalignment of each arm with its interval over seeds, for the first measure that fine-tuning moves."""
    measures = result["measures"]
    name = next((n for n, m in measures.items() if m["measurable"]), next(iter(measures)))
    rows = [
        Interval(
            f"{row['arm']} {row['drop']}".strip(), row["misalignment"],
            *(row["interval"] or (row["misalignment"],) * 2),
        )
        for row in measures[name]["rows"]
    ]  # fmt: skip
    return intervals(
        rows,
        f"{name}: misalignment against the good arm, {UNITS[name]}",
        f"Misalignment after fine-tuning, {result['target']}",
        note=f"{len(result['seeds'])} seeds, equal steps and tokens; bars are 95 % intervals over seeds",
    )


def write(result: TrialResult, folder: Path) -> None:
    """Write trial.md and trial.svg into a trial's folder.

    Raises:
        InputError: it cannot be written.
    """
    write_text(folder / "trial.md", markdown(result))
    write_text(folder / "trial.svg", picture(result))


def _figure(row: Mapping[str, Any], name: str, bounds: str, form: str) -> str:
    if not row.get(bounds):
        return f"{row[name]:{form}}"
    low, high = row[bounds]
    return f"{row[name]:{form}} [{low:{form}}, {high:{form}}]"


def _percent(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return "-"
    bounds = row[f"{name}_interval"]
    # Rounded first, plus 0: no "-0%".
    value, *ends = (f"{round(v, 2) + 0:.0%}" for v in (row[name], *(bounds or ())))
    return value + (f" [{ends[0]}, {ends[1]}]" if ends else "")
