"""The benchmark's results as Markdown."""

from __future__ import annotations

from benchmarks.score import own
from benchmarks.score.candidates import LOSS
from benchmarks.score.own import WORDS


def _range(f: dict) -> str:
    low, high = f["interval"]
    return f"{f['auroc']:.2f} ({low:.2f} to {high:.2f})"


def _gap(f: dict, control: str) -> str:
    gap = f[f"minus {control}"]
    low, high = gap["interval"]
    return f"{gap['difference']:+.2f} ({low:+.2f} to {high:+.2f})"


def seeds(part: dict) -> list[str]:
    """Every set and number of seeds."""
    lines = [
        "| set | n a side | ridge (default) | bag of words | ridge less bag of words | ridge, no prior | contrast "
        "(before) | residuals | style | shorter is worse |",
        "|---|---:|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for name, entry in part.items():
        for n, f in entry["seeds"].items():
            others = ("ridge, no prior", "contrast", "residuals, ridge", "style", "shorter is worse")
            lines.append(
                f"| {name} | {n} | {_range(f['ridge'])} | {f['bag of words']['auroc']:.2f} | "
                f"{_gap(f['ridge'], 'bag of words')} | " + " | ".join(f"{f[o]['auroc']:.2f}" for o in others) + " |"
            )
    return lines


def unlabelled(part: dict) -> list[str]:
    """Every set under every built-in bank, beside what needs no features."""
    lines = [
        "| set | bank | ridge (default) | contrast (before) | random banks | bag of words, bank's texts | loss per "
        "token | loss per token, no question | shorter is worse | verdict |",
        "|---|---|---|---:|---|---:|---:|---:|---:|---|",
    ]
    for name, entry in part.items():
        controls = entry["unlabelled"]["controls"]
        for bank, f in entry["unlabelled"].items():
            if bank == "controls":
                continue
            random = " / ".join(f"{x:.2f}" for x in f["random banks"])
            cells = [_auroc(f, WORDS), *(_auroc(controls, each) for each in (*LOSS, "shorter is worse"))]
            lines.append(
                f"| {name} | {bank} | {_range(f['ridge'])} | {f['contrast']['auroc']:.2f} | {random} | "
                f"{' | '.join(cells)} | {f['said']} |"
            )
    return lines


def _auroc(figures: dict, name: str) -> str:
    """A dash where it was left out."""
    return f"{figures[name]['auroc']:.2f}" if name in figures else "-"


def own_texts(banks: dict) -> list[str]:
    """The built-in banks on topics they were not made from."""
    lines = [
        "| bank | pairs | AUROC | contrast | bag of words | style | shorter is worse | best random bank |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for name, e in banks.items():
        lines.append(
            f"| {name} | {e['rows']['bad']} | {_range(e)} | {e['contrast']:.2f} | {e['bag_of_words']:.2f} | "
            f"{e['style']:.2f} | {e['shorter_is_worse']:.2f} | {e['random_banks']['best_either_way']:.2f} |"
        )
    return lines


def verdict(part: dict) -> list[str]:
    """Where 30 labelled rows a side beat a bag of words on the same rows, computed from the table."""
    ahead, clear, behind = [], [], []
    for name, entry in part.items():
        gap = entry["seeds"].get("30", {}).get("ridge", {}).get("minus bag of words")
        if gap is None:
            continue
        (ahead if gap["difference"] > 0 else behind).append(name)
        if gap["interval"][0] > 0:
            clear.append(name)
    return [
        f"With 30 labelled rows a side the default is above a bag of words on {len(ahead)} of "
        f"{len(ahead) + len(behind)} sets, by more than the interval on {len(clear)} ({'; '.join(clear) or 'none'}); "
        f"level or behind on: {'; '.join(behind) or 'none'}."
    ]


def verdict_errors(found: dict) -> list[str]:
    """How often the verdict without labels is wrong."""
    lines = [
        "| cases | wrong | banks that work | said to have no power | unclear | banks that do not | said to react "
        "| unclear | neither |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, e in found.items():
        w, u = e["working"], e["useless"]
        wrong = (w["no power"] * w["cases"] + u["reacts"] * u["cases"]) / (w["cases"] + u["cases"])
        lines.append(
            f"| {name} | **{wrong:.1%}** | {w['cases']} | {w['no power']:.1%} | {w['unclear']:.1%} | {u['cases']} | "
            f"{u['reacts']:.1%} | {u['unclear']:.1%} | {e['between']} |"
        )
    return lines


def few_labels(found: dict) -> list[str]:
    """Sixty labels against all of them."""
    lines = [
        "| rows | bad | labels wrong | 60 chosen | share of all labels' | cross-validated | 60 at random | bag of "
        "words, chosen | bag of words, at random | all labels | bag of words, all labels |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, e in found.items():
        for wrong in [k for k in e if k not in ("rows", "bad", "all")]:
            c, r, a = e[wrong]["chosen"], e[wrong]["at random"], e["all"]
            few = [f"{f['ridge']:.2f} (sd {f['sd']:.2f})" for f in (c, r)]
            cells = [
                f"{e['rows']:,}: {name}", f"{e['bad']:,}", f"{float(wrong):.0%}", few[0],
                f"{c['ridge'] / a['ridge']:.0%}", f"{c['cross-validated']:.2f}", few[1], f"{c['bag of words']:.2f}",
                f"{r['bag of words']:.2f}", f"{a['ridge']:.2f}", f"{a['bag of words']:.2f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def markdown(report: dict) -> str:
    """The part of docs/results.md."""
    lines = [
        "## What banks find",
        "",
        "AUROC: chance that a bad row scores above a good one; 0.50 is chance. Every number is measured on the",
        f"embedded target {report['model']} ({report['hook']}), a model of 135M parameters: it says nothing about",
        "larger ones. Rows that the SAE was trained on are not used. Made by one command:",
        "",
        "    python -m benchmarks.score --work WORK --data ../shared/data",
        "",
        "[benchmark.md](benchmark.md) says how to run it from a clone alone, and how to add a method.",
        "",
        "In brackets 95 % bootstrap intervals over prompts, all draws of seeds in every sample. *Ridge*: the default",
        "score, see [method.md](method.md). *Contrast*: the default before it. *Bag of words*: TF-IDF of words and",
        "word pairs, logistic regression. *Residuals*: ridge regression on mean residuals, no SAE. *Style*: length and",
        "format only. All are fitted on the same seed rows; the rest is scored, no prompt on both sides; mean of 5",
        "draws.",
    ]
    about = {
        "development": "Candidates were compared on these rows, so their figures are flattered a little.",
        "set aside": "A third of the prompts, scored once with what had been chosen.",
    }
    for part, found in report["sets"].items():
        lines += ["", f"### Labelled seed rows: {part}", "", about[part], "", *verdict(found), "", *seeds(found)]
    for part, found in report["sets"].items():
        lines += [
            "", f"### Built-in banks, no labels: {part}", "",
            "Their texts are the package's own and were never fitted on these sets; the advice on the same questions",
            "has the same authors as the texts, the other sets do not. *Random banks*: learnt from shuffled labels;",
            "lowest, mean and highest of 20. *Bag of words, bank's texts*: fitted on the very texts that the bank was",
            "learnt from. *Loss per token*: of the whole model, a higher loss for worse; it knows no bank, no label,",
            "and says how ordinary the wording is. *Verdict*: what the scan's first line says of the bank on this set.",
            "", *unlabelled(found),
        ]  # fmt: skip
    lines += ["", *own.markdown(report["own"])]
    lines += [
        "", "### The built-in banks on topics of their own texts that they were not made from", "",
        "Five folds that hold out whole topics.", "", *own_texts(report["banks"]),
        "", "### How often the first line of a report is wrong", "",
        "A case is a bank on a set of unlabelled rows: the built-in banks, banks of 30 labelled rows a side of each",
        "set (three draws; two on the rows set aside) and as many of the same rows with their labels shuffled, on",
        "every set with a half, a fifth and a tenth of bad rows. A bank works where the 95 % interval of its AUROC is",
        "above 0.6, and does not where it is below; the rest is neither. The constants behind the verdict are fitted",
        "to the development cases; in the first line they are fitted anew for each case without its set and without",
        "banks of its source.", "",
        *verdict_errors(report["verdicts"]),
        "", "### Sixty labels against all of them", "",
        "10,000 rows of five kinds, a fifth of them bad; labels are the true ones, some flipped, and stand in for a",
        "person or a judge. AUROC over the rows that were not labelled, mean of 5 draws. *Chosen*: as",
        "`geofilter label` chooses. *Cross-validated*: what it says of the bank, on the chosen labels, right or wrong.",
        "*All labels*: five folds by prompt.", "",
        *few_labels(report["labels"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
