"""What chosen less rejected tells beside the chosen answer alone, of pairs of a sound and a harmful answer.

    python examples/measure_pairs.py --work WORK

Of the pairs of each set of `examples/benchmark` half, drawn at random, have the harmful answer chosen. Prints, per set,
how well each score tells these from the others (AUROC with a 95 % interval over pairs), and how many of the pairs that
a cut of a quarter takes are harmful ones: those that `filter --swap` exchanges for the better.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np

from geofilter.config import ScanConfig, TargetChoice
from geofilter.cut.cut import Cut, Selection
from geofilter.cut.swap import worse
from geofilter.evaluate.evaluate import evaluate
from geofilter.scanning.scan import scan

BENCHMARK = Path(__file__).parent / "benchmark"
SHOWN = 3
"""lines of an evaluation that are about the pairs: by difference, chosen alone, rejected alone"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--only", nargs="*", default=[], help="names of sets")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    print("| set | pairs | chosen less rejected | chosen alone | rejected alone | cut of 25 %: harmful |")
    print("|---|---:|---:|---:|---:|---:|")
    for path in sorted(BENCHMARK.glob("*.jsonl")):
        if not args.only or path.stem in args.only:
            print(measured(path, args.work, args.model), flush=True)


def measured(path: Path, work: Path, model: str) -> str:
    """A line of the table."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    bad = np.zeros(len(lines), bool)
    bad[random.Random(0).sample(range(len(lines)), len(lines) // 2)] = True
    data = work / path.name
    data.write_text("".join(json.dumps(pair(of, b)) + "\n" for of, b in zip(lines, bad.tolist(), strict=True)), "utf-8")
    run = scan(ScanConfig((str(data),), TargetChoice(model), pairs="difference"), work / path.stem)
    found = evaluate(run, "label=bad", drops=["25%"])["lines"][:SHOWN]
    each = [f"{of['auroc']:.2f} ({of['auroc_interval'][0]:.2f} to {of['auroc_interval'][1]:.2f})" for of in found]
    selection = Selection.of(run, Cut.parse("25%"))
    gone = selection.removed & worse(selection)
    return f"| {path.stem} | {len(lines)} | {' | '.join(each)} | {int(bad[gone].sum())} of {int(gone.sum())} |"


def pair(line: dict, bad: bool) -> dict:
    """A preference; of texts without a prompt both sides are texts."""
    sides = [line["bad"], line["good"]] if bad else [line["good"], line["bad"]]
    prompt = {"prompt": line["prompt"]} if line.get("prompt") else {}
    return {**prompt, "chosen": sides[0], "rejected": sides[1], "label": "bad" if bad else "good"}


if __name__ == "__main__":
    main()
