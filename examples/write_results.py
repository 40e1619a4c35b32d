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
    "random": "a random removal",
    "loss": "removal by loss per token",
    "words": "removal by a bag of words",
    "swap": "sound answers in the rows' place",
    "early": "stopping early on all rows",
}
"""arms -> how the first sentence of the page calls them"""


def headline(removal: dict) -> str:
    """What removal by the default score does at each drop in the main experiment, beside controls and the paper."""
    result = removal["advice-half"]
    out = []
    for name, measure in result["measures"].items():
        if not measure["measurable"]:
            continue
        rows = {(r["arm"], r["drop"]): r for r in measure["rows"]}
        for drop in sorted({d for arm, d in rows if arm == "score"}, key=lambda d: float(d.rstrip("%"))):
            score = rows["score", drop]
            clear = score["beyond_random_interval"][0] > 0
            out.append(
                f"at a drop of {drop} it {change(score)}, which is {'' if clear else 'not '}clear of a random removal"
            )
            for arm, said in BESIDE.items():
                if (arm, drop) in rows:
                    out[-1] += f"; {said} {change(rows[arm, drop])}"
        out[-1] += f" (measure: {name})"
    text = ". And ".join(out) or "fine-tuning moves no measure enough on this model, so no drop can be judged"
    return (
        f"Removal by the default score, on {result['title']}, relative to fine-tuning on the full set: {text}. "
        f"The paper (Minegishi et al., arXiv 2605.00842) has {result['paper']['reduction']:.1%} at a drop of "
        f"{result['paper']['drop']}, on models of 2B to 27B parameters."
    )


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
