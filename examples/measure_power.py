"""Measure what banks find on labelled sets, beside controls; write WORK/power.json and WORK/power.md.

    python examples/measure_power.py --data ../shared/data --work WORK

Uses the embedded target through the ordinary scan. Only rows that SAE training did not read are used. Runs
are kept in WORK and gone on with, so a second call takes a minute.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import numpy as np
from evaluation_sets import SETS, Labelled, draw_seeds, load

from geofilter import __version__, controls, geometry
from geofilter.bank import Bank, fit
from geofilter.config import ScanConfig, TargetChoice
from geofilter.metrics import auroc, auroc_interval, precision_at
from geofilter.pooled import Pooled
from geofilter.power import assess
from geofilter.sae import unit_decoder
from geofilter.scan import scan
from geofilter.seeding import BUILT_IN, built_in_sources, cached
from geofilter.targets import resolve

MODEL = "smollm2-135m"
PER_SIDE = 250
SEEDS = (10, 30, 100)
DRAWS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    target = resolve(TargetChoice(MODEL))
    directions = unit_decoder(target.sae_dir)
    about = {"name": target.name, "fingerprint": target.fingerprint, "hook": str(target.hook), "d_sae": len(directions)}
    built_in = {name: Bank.load(cached(name, target, "float32"), target.fingerprint) for name in BUILT_IN}
    results = []
    for name in SETS:
        data = load(args.data, name, PER_SIDE)
        pooled, style = read(args.work, name, data)
        entry = {
            "set": name,
            "rows": {"bad": int(data.bad.sum()), "good": int((~data.bad).sum())},
            "built_in": {b.name: score_built_in(b, pooled, style, data) for b in built_in.values()},
            "length": figures(-pooled.n_tokens.astype(float), data.bad, data.group),
            "random": figures(random_scores(data), data.bad, data.group),
            "seeds": {
                str(n): score_seeds(n, data, pooled, directions, about, next(iter(built_in.values())).reference)
                for n in SEEDS
            },
        }
        results.append(entry)
        print(json.dumps(entry, indent=1), flush=True)
    evaluation = {name: bank.meta["evaluation"] for name, bank in built_in.items()}
    sources = {name: built_in_sources(name) for name in BUILT_IN}
    report = {"geofilter": __version__, "model": MODEL, "hook": str(target.hook), "python": platform.python_version(),
              "banks": evaluation, "sources": sources, "sets": results}  # fmt: skip
    (args.work / "power.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.work / "power.md").write_text(markdown(report))


def read(work: Path, name: str, data: Labelled) -> tuple[Pooled, np.ndarray]:
    """Scan the set; its pooled rows and style features in the set's order."""
    path = work / f"{''.join(c if c.isalnum() else '-' for c in name)}.jsonl"
    path.write_text("".join(json.dumps(r.record, ensure_ascii=False) + "\n" for r in data.rows), "utf-8")
    run = scan(ScanConfig(data=(str(path),), target=TargetChoice(MODEL)), work / f"{path.stem}.run", notify=print)
    shards = list(run.shards())
    if run.manifest["counts"]["quarantined"]:
        raise SystemExit(f"{path}: rows were quarantined; the labels would not line up")
    return Pooled.concat([s.pooled for s in shards]), np.concatenate([s.style for s in shards])


def random_scores(data: Labelled) -> np.ndarray:
    return np.random.default_rng(0).random(len(data.rows))


def figures(score: np.ndarray, bad: np.ndarray, groups: list[str]) -> dict:
    low, high = auroc_interval(score, bad, groups)
    return {
        "auroc": round(auroc(score, bad), 3),
        "interval": [round(low, 3), round(high, 3)],
        "precision_top_10": round(precision_at(score, bad, 0.1), 3),
    }


def score_built_in(bank: Bank, pooled: Pooled, style: np.ndarray, data: Labelled) -> dict:
    raw = geometry.raw_scores("contrast", bank, pooled, [""] * len(pooled))
    random = geometry.contrast_scores(pooled, bank.background, bank.random)
    null = [auroc(random[:, j], data.bad) for j in range(random.shape[1])]
    verdict = assess(bank, bank.scale("contrast").standard(raw), random, style)
    return {
        **figures(raw, data.bad, data.group),
        "random_banks": [round(min(null), 3), round(float(np.mean(null)), 3), round(max(null), 3)],
        "said_without_labels": verdict["demonstrated"],
    }


def score_seeds(n: int, data: Labelled, pooled: Pooled, directions: np.ndarray, about: dict, reference: Pooled) -> dict:
    """Seed banks of n rows a side, mean of the draws; the bag of words and the style model see the same rows."""
    columns: dict[str, list[float]] = {}
    precision, texts = [], [r.response for r in data.rows]
    for draw in range(DRAWS):
        seeds, rest = draw_seeds(data, n, draw)
        bad, left = data.bad[rest], pooled.take(rest)
        bank = fit("seeds", about, directions, pooled.take(seeds), data.bad[seeds], reference, seed=draw)
        scores = {s: geometry.raw_scores(s, bank, left, [""] * len(left)) for s in geometry.SCORERS if s != "random"}
        fitted, shown = [texts[i] for i in seeds], [texts[i] for i in rest]
        scores["bag of words"] = controls.bag_of_words(fitted, data.bad[seeds])(shown)
        scores["style"] = controls.style_model(fitted, data.bad[seeds])(shown)
        for key, score in scores.items():
            columns.setdefault(key, []).append(auroc(score, bad))
        null = geometry.contrast_scores(left, bank.background, bank.random)
        columns.setdefault("random banks", []).append(
            float(np.mean([auroc(null[:, j], bad) for j in range(null.shape[1])]))
        )
        precision.append(precision_at(scores["contrast"], bad, 0.1))
    return {
        "auroc": {k: round(float(np.mean(v)), 3) for k, v in columns.items()},
        "contrast_draws": [round(v, 3) for v in columns["contrast"]],
        "interval": interval_of_mean(columns["contrast"]),
        "precision_top_10": round(float(np.mean(precision)), 3),
        "scored_rows": len(rest),
    }


def interval_of_mean(values: list[float]) -> list[float]:
    """95 % bootstrap interval of the mean over draws."""
    rng = np.random.default_rng(0)
    means = np.mean(rng.choice(values, (2000, len(values))), axis=1)
    return [round(float(x), 3) for x in np.percentile(means, [2.5, 97.5])]


def markdown(report: dict) -> str:
    lines = [
        "## What banks find",
        "",
        "AUROC: chance that a bad row scores above a good one; 0.50 is chance. Every number is measured on the",
        f"embedded target {report['model']} ({report['hook']}), a model of 135M parameters: it says nothing about",
        "larger ones. Rows that the SAE was trained on are not used. Made by one command:",
        "",
        "    python examples/measure_power.py --data ../shared/data --work WORK",
        "",
        "### Built-in banks, no labels",
        "",
        "The banks' contrast texts were never fitted on these sets. In brackets 95 % bootstrap intervals, rows with",
        "the same prompt drawn together. *Random banks*: lowest, mean and highest of 20 banks of the same size",
        "drawn from live features. *Power*: yes when the interval lies above 0.5 and the bank beats every random bank",
        "in either direction. *Said blind*: what the scan's first line said of the bank on this set, without labels.",
        "",
        "| set | bank | AUROC | precision, top 10 % | random banks | shorter is worse | random | power | said blind |",
        "|---|---|---|---:|---|---:|---:|---|---|",
    ]
    for entry in report["sets"]:
        for name, f in entry["built_in"].items():
            low, mean, high = f["random_banks"]
            power = f["interval"][0] > 0.5 and f["auroc"] > max(high, 1 - low)
            lines.append(
                f"| {entry['set']} | {name} | {f['auroc']:.2f} ({f['interval'][0]:.2f} to {f['interval'][1]:.2f}) | "
                f"{f['precision_top_10']:.2f} | {low:.2f} / {mean:.2f} / {high:.2f} | {entry['length']['auroc']:.2f} | "
                f"{entry['random']['auroc']:.2f} | {'yes' if power else '**no power**'} | "
                f"{'reacts' if f['said_without_labels'] else 'no demonstrated power'} |"
            )
    lines += [
        "",
        "Half of each set is bad, so a precision of 0.50 is chance. Sets that are not matched (harmful advice against",
        "general chat, persona statements) differ in subject and style too, which a high number there may be.",
        "",
        "### Seed banks: labelled rows of the same kind",
        "",
        "n rows a side choose the bank, the rest is scored, no prompt on both sides; mean of 5 draws. In brackets the",
        "95 % bootstrap interval of that mean over draws. Bag of words (TF-IDF of words and word pairs, logistic",
        "regression) and style (length and format only) are fitted on the same seed rows.",
        "",
        "| set | n a side | contrast | precision, top 10 % | bag of words | style | shorter is worse | random banks |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for entry in report["sets"]:
        for n, f in entry["seeds"].items():
            a = f["auroc"]
            lines.append(
                f"| {entry['set']} | {n} | {a['contrast']:.2f} ({f['interval'][0]:.2f} to {f['interval'][1]:.2f}) | "
                f"{f['precision_top_10']:.2f} | {a['bag of words']:.2f} | {a['style']:.2f} | {a['length']:.2f} | "
                f"{a['random banks']:.2f} |"
            )
    lines += [
        "",
        "Other scorers over the same stored features and the same seed rows (mean AUROC):",
        "",
        "| set | n a side | contrast | nearest | activation | dense |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for entry in report["sets"]:
        for n, f in entry["seeds"].items():
            a = f["auroc"]
            values = " | ".join(f"{a[s]:.2f}" for s in ("contrast", "nearest", "activation", "dense"))
            lines.append(f"| {entry['set']} | {n} | {values} |")
    lines += [
        "",
        "### The built-in banks on their own texts",
        "",
        "Five folds, pairs never split. The texts carry no length signal (shorter is worse) and little format signal",
        "(style).",
        "",
        "| bank | pairs | AUROC | bag of words | style | shorter is worse | best random bank |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for name, e in report["banks"].items():
        lines.append(
            f"| {name} | {e['rows']['bad']} | {e['auroc']:.2f} ({e['interval'][0]:.2f} to {e['interval'][1]:.2f}) | "
            f"{e['bag_of_words']:.2f} | {e['style']:.2f} | {e['shorter_is_worse']:.2f} | "
            f"{e['random_banks']['best_either_way']:.2f} |"
        )
    lines += ["", *conclusions(report)]
    return "\n".join(lines) + "\n"


def conclusions(report: dict) -> list[str]:
    """What the tables say, computed from them."""
    blind = []
    for entry in report["sets"]:
        for name, f in entry["built_in"].items():
            low, _, high = f["random_banks"]
            if not (f["interval"][0] > 0.5 and f["auroc"] > max(high, 1 - low)):
                blind.append(f"`{name}` on {entry['set']} ({f['auroc']:.2f})")
    thirty = [(e["set"], e["seeds"]["30"]["auroc"]) for e in report["sets"]]
    behind = [f"{s} ({a['contrast']:.2f} against {a['bag of words']:.2f})" for s, a in thirty
              if a["contrast"] < a["bag of words"]]  # fmt: skip
    out = ["### In words", "", f"- No power without labels: {'; '.join(blind) or 'none'}."]
    out.append(
        f"- With 30 seed rows a side a bag of words on the same rows is ahead on: {'; '.join(behind) or 'none'}."
    )
    return out


if __name__ == "__main__":
    main()
