"""Put what was measured into docs/results.json and docs/results.md.

    python examples/write_results.py WORK...

Each of the measuring scripts leaves PART.json and PART.md in its WORK folder: removal (`measure_removal.py`),
mechanism (`check_mechanism.py`), judge (`measure_judge.py`), power (`python -m benchmarks.score`); speed is put
together by hand from `python -m benchmarks.throughput`; removal-contrast is of earlier trials. A part that
is in none of the folders stays as it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from geofilter.trial.tables import change

PARTS = ("removal", "removal-contrast", "mechanism", "judge", "power", "speed")
DOCS = Path(__file__).parent.parent / "docs"
START = "<!-- {} -->\n"
BESIDE = {
    "loss": "removal by loss per token",
    "words": "removal by a bag of words",
    "swap": "giving those rows sound answers",
    "early": "stopping early on all rows",
}
"""arms -> how the first sentence of the page calls them"""


def headline(removal: dict) -> str:
    """What removal by the default score does at each drop in each experiment, beside controls and the paper."""
    said = [f"on {result['title']}, {text}." for result in removal.values() if (text := drops(result))]
    if not said:
        said = ["Fine-tuning moves no measure enough on this model, so no drop can be judged."]
    first = removal["advice-half"]["paper"]
    paper = (
        f"The paper (Minegishi et al., arXiv 2605.00842) has {first['reduction']:.1%} at a drop of {first['drop']}, on "
        "models of 2B to 27B parameters."
    )
    main, *others = said
    lead = f"Removal by the default score, relative to fine-tuning on the full set: {main} {paper}"
    return "\n".join([lead, "", *(f"- O{text[1:]}" for text in others)])


def drops(result: dict) -> str:
    """The same of one experiment, by the measure on other domains; empty where fine-tuning does not move that."""
    measure = result["measures"]["pairs"]
    if not measure["measurable"]:
        return ""
    rows = {(r["arm"], r["drop"]): r for r in measure["rows"]}
    out = []
    for drop in sorted({d for arm, d in rows if arm == "score"}, key=lambda d: float(d.rstrip("%"))):
        score = rows["score", drop]
        clear = "" if score["beyond_random_interval"][0] > 0 else "not "
        text = f"at a drop of {drop} it {change(score)}, {clear}clear of a random removal, which "
        text += change(rows["random", drop])
        text += "".join(f"; {said} {change(rows[arm, drop])}" for arm, said in BESIDE.items() if (arm, drop) in rows)
        out.append(text)
    return "; and ".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="+")
    folders = parser.parse_args().work
    results = json.loads((DOCS / "results.json").read_text("utf-8"))
    old = (DOCS / "results.md").read_text("utf-8")
    texts = {part: old.partition(START.format(part))[2].partition("<!-- ")[0] for part in PARTS}
    for part in PARTS:
        for folder in folders:
            if (folder / f"{part}.json").is_file():
                results[part] = json.loads((folder / f"{part}.json").read_text("utf-8"))
                texts[part] = (folder / f"{part}.md").read_text("utf-8")
    page = ["# Results\n", headline(results["removal"]) + "\n"]
    page += [START.format(part) + texts[part].strip() + "\n" for part in PARTS if texts[part]]
    (DOCS / "results.json").write_text(json.dumps({p: results[p] for p in PARTS if p in results}, indent=1) + "\n")
    (DOCS / "results.md").write_text("\n".join(page), "utf-8")


if __name__ == "__main__":
    main()
