"""Names for the embedded target's features: what is looked at, what is asked, and what comes of the answers.

    python examples/name_features.py pieces WORK --data ../shared/data --run RUN --run RUN ...
    python examples/name_features.py trials WORK
    python examples/name_features.py names WORK --by "WHO HAS ANSWERED"

`pieces` takes the toxic and aligned features of the built-in banks and those that the runs' reasons name, and writes
WORK/name.jsonl: of each feature marked pieces of text that the SAE has not been trained on. Whoever names them writes
WORK/named.json (feature -> name, NONE where there is nothing to name). `trials` writes WORK/trial.jsonl: a name and
pieces, shuffled, with and without the feature, of rows that the naming has not seen. Whoever is tried, without having
seen the naming, writes WORK/tried.json (id -> list of 0 and 1, does it fire in each piece?). Mixed in, unmarked, are
controls: the words that a feature is called by without a name, and names of other features. `names` writes the
package's file of names, WORK/features.md and the list in docs/features.md.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
from evaluation_sets import in_training_half

from geofilter.bank.bank import Bank
from geofilter.bank.feature_names import RIGHT, FeatureName
from geofilter.build.contexts import Drawn
from geofilter.build.feature_naming import cleaned, marked, scored
from geofilter.build.named_bank import contexts
from geofilter.config import BUILT_IN, Loading, TargetChoice
from geofilter.encode.reader import FeatureReader
from geofilter.files import package_data
from geofilter.rows.records import Row, read_rows
from geofilter.run.store import Run
from geofilter.target.resolve import resolve
from geofilter.text import markdown_row

TARGET = "smollm2-135m"
ROWS = 400
"""of each file"""
CONTROLS = 60
"""features that are tried with words, and with another feature's name"""
DOCS = Path(__file__).parent.parent / "docs" / "features.md"
START = "<!-- names -->\n"
KINDS = {"": "names", "words": "the words it is strongest on", "other": "another feature's name"}


def banks() -> list[Bank]:
    return [Bank.load(package_data("banks", TARGET, name)) for name in BUILT_IN]


def wanted(runs: list[Path]) -> list[int]:
    """The features of the built-in banks, and those that the runs' reasons name."""
    found = {int(f) for bank in banks() for side in (bank.toxic, bank.aligned) for f in side}
    for path in runs:
        run = Run.open(path)
        every = np.arange(run.manifest["counts"]["scored"])
        found |= {f["feature"] for _, line in run.score_lines(every) for f in line["top_features"]}
    return sorted(found)


def pieces(work: Path, data: Path, runs: list[Path]) -> None:
    rows: list[Row] = []
    for path in sorted(data.glob("*.jsonl")):
        held_out = [r for r in read_rows(path) if isinstance(r, Row) and not in_training_half(r.sha256)]
        random.Random(1).shuffle(held_out)
        rows += held_out[:ROWS]
    target = resolve(TargetChoice(TARGET), notify=print)
    features = wanted(runs)
    found = contexts(FeatureReader(target, Loading("cpu", "float32")), features, iter(rows))
    drawn = {f: found.drawn(f) for f in features}
    work.mkdir(parents=True, exist_ok=True)
    keep(work, {f: of for f, of in drawn.items() if of}, [f for f, of in drawn.items() if not of])


def keep(work: Path, drawn: dict[int, Drawn], rare: list[int]) -> None:
    with (work / "name.jsonl").open("w", encoding="utf-8") as sheet:
        for f, of in drawn.items():
            shown = [[round(p.peak, 2), " ".join(marked(p).split())] for p in of.named_by]
            sheet.write(json.dumps({"feature": f, "pieces": shown}, ensure_ascii=False) + "\n")
    kept = {f: {"on": of.on, "off": of.off} for f, of in drawn.items()}
    (work / "drawn.json").write_text(json.dumps({"drawn": kept, "rare": rare}), "utf-8")


def trials(work: Path) -> None:
    drawn = json.loads((work / "drawn.json").read_text("utf-8"))["drawn"]
    told = json.loads((work / "named.json").read_text("utf-8"))
    named = {f: name for f, text in told.items() if (name := cleaned(text))}
    rng = random.Random(5)
    control = rng.sample(sorted(named), min(CONTROLS, len(named)))
    first = banks()
    tasks = [(f, "", name) for f, name in named.items()]
    tasks += [(f, "other", named[g]) for f, g in zip(control, control[1:] + control[:1], strict=True)]
    for f in control:
        if words := next((bank.labels[int(f)] for bank in first if bank.labels[int(f)]), ""):
            tasks.append((f, "words", words))
    rng.shuffle(tasks)
    key = {}
    with (work / "trial.jsonl").open("w", encoding="utf-8") as sheet:
        for number, (f, kind, name) in enumerate(tasks):
            shown = [(text, 1) for text in drawn[f]["on"]] + [(text, 0) for text in drawn[f]["off"]]
            rng.shuffle(shown)
            texts = [" ".join(text.split()) for text, _ in shown]
            sheet.write(json.dumps({"id": str(number), "name": name, "pieces": texts}, ensure_ascii=False) + "\n")
            key[str(number)] = {"feature": int(f), "kind": kind, "name": name, "fires": [fires for _, fires in shown]}
    (work / "key.json").write_text(json.dumps(key), "utf-8")


def names(work: Path, by: str) -> None:
    key = json.loads((work / "key.json").read_text("utf-8"))
    tried = json.loads((work / "tried.json").read_text("utf-8"))
    drawn = json.loads((work / "drawn.json").read_text("utf-8"))
    told = json.loads((work / "named.json").read_text("utf-8"))
    found: dict[str, list] = {kind: [] for kind in KINDS}
    for number, of in key.items():
        if number not in tried:
            continue
        answers = [(bool(f), bool(a) == bool(f)) for f, a in zip(of["fires"], tried[number], strict=True)]
        name = of["name"] if of["kind"] else cleaned(told[str(of["feature"])])
        found[of["kind"]].append(scored(of["feature"], name, answers))
    made = sorted(found[""], key=lambda n: n["feature"])
    fingerprint = banks()[0].target["fingerprint"]
    path = package_data("names", f"{TARGET}.json")
    path.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(n, ensure_ascii=False) for n in made)
    head = json.dumps({"fingerprint": fingerprint, "by": by}, ensure_ascii=False)[:-1]
    path.write_text(f'{head}, "features": [\n{lines}\n]}}\n', "utf-8")
    none = sum(not cleaned(text) for text in told.values())
    untried = len(told) - none - len(made)
    (work / "features.md").write_text(table(found, len(drawn["rare"]), none, untried), "utf-8")
    page = DOCS.read_text("utf-8")
    DOCS.write_text(page[: page.index(START)] + START + every(made), "utf-8")


def every(made: list[FeatureName]) -> str:
    """The section of docs/features.md that lists all names that are used."""
    used = sorted((n for n in made if (n["right"] or 0) >= RIGHT), key=lambda n: n["feature"])
    rows = [[str(n["feature"]), n["name"], f"{n['right']:.2f}"] for n in used]
    head = ["## All names", "", "Those of the embedded target that are used, and the balanced accuracy of each.", ""]
    lines = ["| feature | name | right |", "|---:|---|---:|", *(markdown_row(row) for row in rows)]
    return "\n".join([*head, *lines]) + "\n"


def table(found: dict[str, list], rare: int, none: int, untried: int) -> str:
    def median(of: list) -> float:
        return float(np.median([n["right"] for n in of])) if of else float("nan")

    made = found[""]
    used = sum(n["right"] >= RIGHT for n in made)
    total = len(made) + rare + none + untried
    best = median([n for n in made if n["right"] >= RIGHT])
    out = [
        f"{total} features: {used} are named ({used / total:.0%}), {len(made) - used} have a name that is right in "
        f"less than {RIGHT:.0%}, {none} have nothing in common in their pieces, {rare} fire too rarely, and the names "
        f"of {untried} were not tried. Of those that are used the median is {best:.2f}.\n",
        markdown_row(["tried by", "features", "right, median", f"{RIGHT} or more"]),
        "|---|---:|---:|---:|",
    ]
    for kind, of in found.items():
        share = np.mean([n["right"] >= RIGHT for n in of])
        out.append(markdown_row([KINDS[kind], str(len(of)), f"{median(of):.2f}", f"{share:.0%}"]))
    same = {n["feature"]: n["right"] for n in made}
    for kind in ("words", "other"):
        pairs = [(n["right"], same[n["feature"]]) for n in found[kind]]
        if pairs:
            ours = np.median([b for _, b in pairs])
            out.append(f"\nThe names of the {len(pairs)} features that were tried by {KINDS[kind]} too: {ours:.2f}.")
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("pieces", "trials", "names"))
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--run", type=Path, action="append", default=[])
    parser.add_argument("--by", default="unknown")
    asked = parser.parse_args()
    if asked.step == "pieces":
        pieces(asked.work, asked.data, asked.run)
    elif asked.step == "trials":
        trials(asked.work)
    else:
        names(asked.work, asked.by)


if __name__ == "__main__":
    main()
