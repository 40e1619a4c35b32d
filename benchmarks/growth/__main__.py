"""Does a scan's time grow as the rows do, and does its memory stay; the same of a filter.

    python -m benchmarks.growth --work WORK --json growth.json

From the repository's root; about ten minutes on two cores. A tiny random model is scanned (2 layers are read, an SAE of
512 features), so that 50,000 rows are feasible: it measures what stands around the model.

Time: one process scans and filters each number of rows once a round. What a call takes beyond the same call on 10 rows
is fitted by rows to the power of an exponent; 1 is a straight line. The medians of the rounds are fitted; behind that
stand the least and the most of a round. Peak memory: the largest number of rows, scanned and filtered once, against
1,000, each call a process of its own. WORK is left behind (1 GB).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

# Nothing that is large: see `child.Used.mb`.
from benchmarks.child import Used, once

START = 10
SENTENCE = "the answer to your question is that it depends on what you want to know and how much time there is"
WORDS = SENTENCE.split()


def write_rows(path: Path, n: int) -> None:
    """Short chat rows; the first ones are the same whatever n is."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as out:
        for i in range(n):
            answer = " ".join(rng.choices(WORDS, k=rng.randint(40, 80)))
            out.write(json.dumps({"prompt": f"{rng.choice(WORDS)} {i}?", "response": answer}) + "\n")


def prepare(work: Path, rows: Sequence[int]) -> dict[str, str]:
    """Make the target and the files of rows.

    Returns:
        the environment that calls are made in, with a cache of its own: what is in the usual one plays no part.
    """
    work.mkdir(parents=True, exist_ok=True)
    for n in rows:
        write_rows(work / f"{n}.jsonl", n)
    if not (work / "tiny-sae" / "cfg.json").is_file():
        subprocess.run([sys.executable, "-m", "benchmarks.throughput.sizes", "tiny", str(work)], check=True)
    return {"GEOFILTER_CACHE": str(work / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])}


def peak(work: Path, n: int, env: dict[str, str]) -> tuple[Used, Used]:
    """What a scan and a filter of n rows take, each in a process of its own."""
    run = f"run-{n}"
    shutil.rmtree(work / run, ignore_errors=True)
    target = ["--model", str(work / "tiny"), "--sae", str(work / "tiny-sae"), "--offline", "--device", "cpu"]
    scanned = once(["scan", f"{n}.jsonl", "--run", run, *target, "--quiet"], work, env)
    return scanned, once(["filter", run, "--drop", "10%", "--quiet"], work, env)


def exponent(rows: Sequence[int], seconds: Sequence[float]) -> float:
    """Of the power of the rows that fits the seconds best, in logarithms; nan where a call took no longer than 10 rows.

    That means the machine was too busy to tell.
    """
    if min(seconds) <= 0:
        return math.nan
    return linear_regression([math.log(n) for n in rows], [math.log(s) for s in seconds]).slope


def fits(rows: Sequence[int], rounds: Sequence[dict[str, list[float]]]) -> dict[str, Any]:
    """By what was called: median seconds, their exponent, and the least and most of a round."""
    out = {}
    for name in rounds[0]:
        middle = [median(each[name][i] for each in rounds) for i in range(len(rows))]
        beyond = [n - START for n in rows]
        single = [exponent(beyond, each[name]) for each in rounds]
        out[name] = {
            "seconds": [round(s, 3) for s in middle], "exponent": round(exponent(beyond, middle), 3),
            "least": round(min(single), 3), "most": round(max(single), 3),
        }  # fmt: skip
    return out


def table(found: dict[str, Any]) -> list[str]:
    """As Markdown."""
    head = [f"{n:,} rows, s" for n in found["rows"]]
    lines = [f"|  | {' | '.join(head)} | exponent (of a round) |", "|---" + "|---:" * (len(head) + 1) + "|"]
    for name, fit in found["time"].items():
        seconds = " | ".join(f"{s:.2f}" for s in fit["seconds"])
        lines.append(f"| {name} | {seconds} | {fit['exponent']:.3f} ({fit['least']:.3f} to {fit['most']:.3f}) |")
    few, many = found["memory_rows"]
    lines += ["", f"| peak memory, MB | {few:,} rows | {many:,} rows | ratio |", "|---|---:|---:|---:|"]
    for name, mb in found["memory"].items():
        lines.append(f"| {name} | {mb['mb'][0]:.0f} | {mb['mb'][1]:.0f} | {mb['ratio']:.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 4000, 16_000], help="numbers that are fitted")
    parser.add_argument("--memory", type=int, nargs=2, default=[1000, 50_000], help="numbers whose peaks are compared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    options = parser.parse_args()
    work = options.work.resolve()
    env = prepare(work, [START, *options.rows, *options.memory])
    words = [sys.executable, "-m", "benchmarks.growth.times", work, options.rounds, *options.rows]
    timed = subprocess.run(
        [str(word) for word in words], check=True, stdout=subprocess.PIPE, env={**os.environ, **env}
    )  # fmt: skip
    few, many = (peak(work, n, env) for n in options.memory)
    result = {
        "rows": options.rows, "rounds": options.rounds, "time": fits(options.rows, json.loads(timed.stdout)),
        "memory_rows": options.memory,
        "memory": {
            name: {"mb": [round(a.mb, 1), round(b.mb, 1)], "ratio": round(b.mb / a.mb, 3)}
            for name, a, b in zip(("scan", "filter"), few, many, strict=True)
        },
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print("\n".join(table(result)))


if __name__ == "__main__":
    main()
