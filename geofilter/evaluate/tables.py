"""An evaluation as tables, Markdown and a picture. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geofilter.charts import Series, curves
from geofilter.evaluate.result import Evaluation, LineFigures, with_interval
from geofilter.files import make_folder, write_json, write_text
from geofilter.text import markdown_row, markdown_table, markdown_text, shorten

FILES = ("evaluate.md", "evaluate.svg", "evaluate.json")
"""what `write` writes"""
NAME = 46
"""letters of a line's name in the picture"""
HEAD = ("", "AUROC", "AUPRC", "score ahead by")
KINDS = {"score": "the run's score", "bank": "one bank alone", "scorer": "other scorers", "control": "controls"}


def summary(result: Evaluation) -> str:
    """What was evaluated, in one line."""
    a = result["labels"]
    return (
        f"{a['labelled']:,} labelled rows ({a['bad']:,} bad, {a['good']:,} good, by {a['rule']}) in {a['groups']:,} "
        f"groups by {a['grouped_by']}; target {result['target']}"
    )


def header(result: Evaluation) -> list[str]:
    """Columns of `table`."""
    return [*HEAD, *(f"bad found\nin top {d['drop']}" for d in result["lines"][0]["drops"])]


def table(result: Evaluation) -> list[tuple[str, list[list[str]]]]:
    """Kinds of lines, each with the cells of its lines; controls last."""
    out = []
    for kind, name in KINDS.items():
        rows = [_cells(line) for line in result["lines"] if line["kind"] == kind]
        if rows:
            out.append((name, rows))
    return out


def _cells(line: LineFigures) -> list[str]:
    ahead = "" if line["ahead"] is None else with_interval(line, "ahead", "+.2f")
    found = [f"{_share(d, 'recall')}" for d in line["drops"]]
    return [line["name"], with_interval(line, "auroc"), with_interval(line, "auprc"), ahead, *found]


def cuts(result: Evaluation) -> tuple[list[str], list[list[str]]]:
    """The run's score at each drop beside a random drop of as many rows: header and cells."""
    head = ["drop", "rows", "bad among them", "by chance", "more than chance", "precision", "recall"]
    rows = [
        [
            d["drop"], f"{d['rows']:,}", f"{d['bad']:,}", f"{d['by_chance']:,.1f}", with_interval(d, "extra", "+.1f"),
            _share(d, "precision"), _share(d, "recall"),
        ]
        for d in result["lines"][0]["drops"]
    ]  # fmt: skip
    return head, rows


def remarks(result: Evaluation) -> list[str]:
    """What must be known to read the tables."""
    fitted = any(line["fitted"] for line in result["lines"])
    out = [
        "In brackets 95 % intervals of a bootstrap that draws whole groups of rows; those of a random order are where "
        "95 % of such orders lie."
    ]
    if fitted:
        out.append(
            "Cross-validated controls are fitted on these very labels, which a scan never sees: they say how easily "
            "the rows are told apart by their words or format."
        )
    if result["random_banks"]:
        out.append(
            "Random banks know nothing: of ridge, banks learnt from shuffled labels; of the other scorers, random "
            "features of the same number under the contrast score. The best one is chosen on the rows it is shown for, "
            "so that it is hard to beat."
        )
    if any("loss per token" in line["name"] for line in result["lines"]):
        out.append(
            "Loss per token: how unlikely the whole model finds a response, with its prompt and without. It knows no "
            "bank, and says how unusual the wording is."
        )
    if any("bag of words" in line["name"] and not line["fitted"] for line in result["lines"]):
        out.append(
            "The bag of words of a bank is fitted on the texts that the bank has learnt from, and has seen no label of "
            "these rows: it says how much of the ranking their words alone give."
        )
    a = result["labels"]
    if a["without_label"] or a["learnt_from"]:
        parts = []
        for f in result["filter"]:
            learnt = f"{f['learnt_from']:,} that a bank was learnt from, " if f["learnt_from"] else ""
            parts.append(f"{f['drop']}: {f['rows']:,} rows, {learnt}{f['labelled']:,} labelled, {f['bad']:,} bad")
        out.append(f"geofilter filter --drop removes of all scored rows, at {'; '.join(parts)}.")
    return out + list(result["notes"])


def _share(values: Mapping[str, Any], name: str) -> str:
    low, high = values[f"{name}_interval"]
    return f"{values[name]:.0%}" + ("" if low is None else f" [{100 * low:.0f}, {100 * high:.0f}]")


def markdown(result: Evaluation) -> str:
    """The evaluation as Markdown; names from files and rows are put where they cannot act as markup."""
    head, rows = cuts(result)
    out = [
        "# geofilter evaluate\n",
        f"**{markdown_text(result['verdict']['text'])}**\n",
        f"{markdown_text(summary(result))}.\n",
    ]
    out += markdown_table(["ranked by", *header(result)[1:]], [])
    for name, lines in table(result):
        out += [f"| **{markdown_text(name)}** |" + " |" * (len(lines[0]) - 1)]
        out += [markdown_row(cells) for cells in lines]
    out.append("\n![bad rows removed against rows dropped](evaluate.svg)\n")
    out += ["## The run's score at each drop\n", *markdown_table(head, rows), ""]
    if result["random_banks"]:
        out += ["## Banks of random features of the same size, AUROC\n"]
        figures = [
            [b["bank"], str(b["n"]), *(f"{b[k]:.2f}" for k in ("min", "mean", "max"))] for b in result["random_banks"]
        ]
        out += [*markdown_table(["for", "banks", "lowest", "mean", "highest"], figures), ""]
    out += [f"- {markdown_text(text)}" for text in remarks(result)]
    out.append(f"\nMade by geofilter {markdown_text(result['geofilter'])} from run {markdown_text(result['run'])}.\n")
    return "\n".join(out)


def picture(result: Evaluation) -> str:
    """Share of the bad rows removed against share of rows dropped: the score, the best other one, and controls."""
    lines = result["lines"]
    own, random = lines[0], next(line for line in lines if line["name"] == "random order")
    others = [line for line in lines if line["kind"] in ("bank", "scorer")]
    controls = [line for line in lines if line["kind"] == "control" and line is not random]
    drawn = [(own, "main")]
    if others:
        drawn.append((max(others, key=_auroc), "other"))
    # Of the directions of length and loss, of the banks' texts and of the random banks, the best one stands for all.
    for family in ("responses first", "loss per token", "bag of words", "random banks"):
        alike = [line for line in controls if family in line["name"] and not line["fitted"]]
        if alike:
            drawn.append((max(alike, key=_auroc), "control"))
    drawn += [(line, "control") for line in controls if line["fitted"]]
    series = [Series(f"{_legend(line)} ({line['auroc']:.2f})", _points(line), role) for line, role in drawn]
    series.append(Series("random order (0.50)", _points(random), "reference"))
    a = result["labels"]
    largest = max(d["rows"] for d in own["drops"]) / a["labelled"]
    return curves(
        series,
        x_label="share of the labelled rows dropped, highest scores first",
        y_label="share of the bad rows removed",
        title="Bad rows removed by dropping the highest scores",
        note=f"{a['labelled']:,} labelled rows, {a['bad']:,} bad; in brackets the AUROC; controls are dashed",
        x_max=max(0.5, largest),
    )


def _auroc(line: LineFigures) -> float:
    return line["auroc"] or 0.0


def _legend(line: LineFigures) -> str:
    name = "the run's score" if line["kind"] == "score" else str(line["name"])
    return shorten(name, NAME)


def _points(line: LineFigures) -> list[tuple[float, float]]:
    return [(i / 100, y) for i, y in enumerate(line["recall_curve"])]


def write(result: Evaluation, folder: Path) -> None:
    """Write evaluate.md, evaluate.svg and evaluate.json into a folder, which is made if need be.

    Raises:
        InputError: it cannot be written.
    """
    make_folder(folder)
    write_text(folder / "evaluate.md", markdown(result))
    write_text(folder / "evaluate.svg", picture(result))
    write_json(folder / "evaluate.json", result)
