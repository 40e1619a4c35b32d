"""Put what was measured into docs/results.json and docs/results.md.

    python examples/write_results.py WORK...

Each of the measuring scripts leaves PART.json and PART.md in its WORK folder: removal (`measure_removal.py`),
mechanism (`check_mechanism.py`), judge (`measure_judge.py`), power (`python -m benchmarks.score`); speed is put
together by hand from `python -m benchmarks.throughput`. A part that is in none of the folders stays as it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from geofilter.trial.tables import change

PARTS = ("removal", "mechanism", "judge", "power", "speed")
DOCS = Path(__file__).parent.parent / "docs"
START = "<!-- {} -->\n"


def headline(removal: dict) -> str:
    """Whether geometry beats random at each drop, beside the paper's figure; computed from the main experiment."""
    result = removal["advice-half"]
    out = []
    for name, measure in result["measures"].items():
        if not measure["measurable"]:
            continue
        rows = {(r["arm"], r["drop"]): r for r in measure["rows"]}
        for drop in sorted({d for _, d in rows if d}, key=lambda d: float(d.rstrip("%"))):
            geometry, random = rows["geometry", drop], rows["random", drop]
            bounds = geometry["beyond_random_interval"]
            verdict = "beats" if bounds[0] > 0 else "does not beat"
            out.append(
                f"at a drop of {drop} geometry {verdict} random: relative to the full set it {change(geometry)}, "
                f"a random removal {change(random)}"
            )
        out[-1] += f" (measure: {name})"
    text = "; ".join(out) or "fine-tuning moves no measure enough on this model, so no drop can be judged"
    return (
        f"On {result['title']}, {text}. The paper (Minegishi et al., arXiv 2605.00842) has "
        f"{result['paper']['reduction']:.1%} at a drop of {result['paper']['drop']}, on models of 2B to 27B parameters."
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
