"""Speed of reading rows: geofilter beside SAELens, Hugging Face, and the arithmetic that cannot be left out.

    python -m benchmarks.throughput --work WORK --json throughput.json
    python -m benchmarks.throughput --work WORK --only smollm2-135m --data rows.jsonl --dtype bfloat16
    python -m benchmarks.throughput --work WORK --only gemma-2-2b --rows 4000 --few 200

From the repository's root. A call measures what the machine can hold: on a CPU a random model of Gemma 2's architecture
(`gemma-2-small`: 6 of 12 layers are read) and the embedded target on rows that ship; on a GPU these and random models
of the size of gemma-2-2b, gemma-3-1b and llama-3.1-8b. `--only` names others, `tiny` too, which only shows that it
runs. Nothing is fetched but, once, the embedded model. WORK is left behind: 200 MB on a CPU, 25 GB on a GPU.

**How it is measured.** All ways read the same tokenised rows, with the same weights in the same dtype. In each round
every way runs once, each round beginning with another; so a machine that gets slower gets slower for all. A ratio is
that of the medians; behind it stand the least and the most of a round. Slow ways read only the first rows (column
`rows`, `--few`): they are compared by tokens a second. Rows are in random order, so the first are like the others.

**How to read a table.** A line's two ratios say how many times as fast geofilter is as that line: `features` from
tokenised rows to features, `scan` the whole way from the file to the shards on the disk. Above 1 geofilter is faster.

- `floor`: the linear layers and the encoder alone, over the real tokens. No way that computes every token can be above
  1 here; one that computes a beginning that rows share only once can. How much of the rows that is stands above the
  table.
- `bound`: the same layers in padded passes, sorted by length, with all tokens on the device already, and the encoder's
  product. Nothing is gated, averaged, copied back or written. The fastest of its lines is the one that counts.
- `SAELens, stopped at the hook`: `run_with_cache(stop_at_layer=..., names_filter=...)` and `sae.encode`, row by row.
- `SAELens, run_with_cache_with_saes`: as its tutorials do, the whole model with everything kept.
- `Hugging Face, padded`: the whole model with all hidden states, eight rows a pass in the file's order, dense features.
- `Hugging Face, row by row, float32`: the plainest way, with no padding. All others are held against it.
- `geofilter, tokenised rows, float32`: there where the others read in bfloat16, to tell what that gains.

The last columns are of the rows' scores (of both built-in banks for the embedded target, else of two random weightings
of log activations): the lower rank correlation with the plainest way, and the largest difference of a row, relative to
its score, or to the scores' standard deviation where that is larger. Of slow ways they are of their few rows. All ways
leave out tokens of outlier norm alike. In float32 a difference of 1e-4 or 1e-3 is one feature at its threshold, on one
side of it by one order of additions and on the other by another; all else agrees to 1e-6.

`Stages` are of one more scan, in which each stage is waited for: parsing the file, tokenising, the model's layers, the
SAE, means and token shares with all that is neither, writing shards, scoring. On a GPU they overlap in a real scan.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.throughput import table
from benchmarks.throughput.machine import machine, sentence
from benchmarks.throughput.memory import memory
from benchmarks.throughput.plain import sparse
from benchmarks.throughput.rows import about
from benchmarks.throughput.sizes import SIZES
from benchmarks.throughput.stages import stages, start_up
from benchmarks.throughput.subject import EMBEDDED, Subject, agreement
from benchmarks.throughput.ways import Way, ways_of
from geofilter.bank.features import RowFeatures
from geofilter.config import Loading
from geofilter.encode.model import choose_device, choose_dtype
from geofilter.encode.reader import FeatureReader

ON_CPU = ("gemma-2-small", EMBEDDED)
ON_GPU = (*ON_CPU, "gemma-2-2b", "gemma-3-1b", "llama-3.1-8b")
BUDGETS = {"cpu": (512, 2048), "cuda": (2048, 8192, 16_384)}
"""padded tokens in a pass that the bound is tried with"""


def say(text: str) -> None:
    """How far it is."""
    print(text, file=sys.stderr, flush=True)


def timed(subject: Subject, ways: dict[str, Way], few: int, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds of every way in every round, and what each gave back in the last."""
    rows = {name: subject.encoded[:few] if way.few else subject.encoded for name, way in ways.items()}
    work = {name: way.make(rows[name]) for name, way in ways.items()}
    for name, way in ways.items():  # libraries set themselves up
        way.make(rows[name][:4])()
    found: dict[str, Any] = {
        name: {"rows": len(read), "tokens": sum(len(row.ids) for row in read), "seconds": []}
        for name, read in rows.items()
    }
    gave: dict[str, Any] = {}
    names = list(ways)
    for turn in range(rounds):
        start = turn * 3 % len(names)
        for name in (*names[start:], *names[:start]):
            subject.wait()
            began = time.perf_counter()
            gave[name] = work[name]()
            subject.wait()
            found[name]["seconds"].append(round(time.perf_counter() - began, 4))
            say(f"{subject.name}, round {turn + 1} of {rounds}: {name}, {found[name]['seconds'][-1]:.1f} s")
    return found, gave


def measure(subject: Subject, budgets: tuple[int, ...], few: int, rounds: int) -> dict[str, Any]:
    """All there is to say of one target."""
    out: dict[str, Any] = {
        "name": subject.name, "dtype": str(subject.dtype).removeprefix("torch."),
        "rows": {**about(subject.encoded), "left_out": subject.left_out},
    }  # fmt: skip
    if subject.device.type == "cuda":
        out["memory"] = memory(subject)
    reader = FeatureReader(subject.target, subject.loading)
    scores = subject.scores(reader)
    ways, plainest = ways_of(subject, reader, scores, budgets)
    found, gave = timed(subject, ways, few, rounds)
    say(f"{subject.name}: every row in the plainest way")
    wanted = scores.of(reference(plainest, subject))
    for name, way in ways.items():
        if way.features is not None:
            found[name]["agreement"] = agreement(scores.of(way.features(gave[name])), wanted)
    del ways, plainest, reader, gave
    say(f"{subject.name}: stages and start-up")
    return {
        **out, "ways": table.with_ratios(found), "stages": stages(subject, scores),
        "start_up": start_up(subject, rounds),
    }  # fmt: skip


def reference(plainest: Any, subject: Subject) -> list[RowFeatures]:
    """Every row in the plainest way."""
    return [row for one in subject.encoded for row in sparse(plainest.single([one]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*SIZES, EMBEDDED]
    parser.add_argument("--only", action="append", choices=names, help="a target; repeat for several")
    parser.add_argument("--data", action="append", type=Path, default=[], help="rows for the embedded target; repeat")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--few", type=int, default=50, help="rows that slow ways read")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N or cpu")
    parser.add_argument("--dtype", default="auto", help="of the model: auto, float32 or bfloat16")
    parser.add_argument("--work", type=Path, required=True, help="folder for models, SAEs, rows and runs")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    options = parser.parse_args()
    device = choose_device(options.device)
    chosen = options.only or (ON_CPU if device.type == "cpu" else ON_GPU)
    if options.data and EMBEDDED not in chosen:
        parser.error(f"--data is read by {EMBEDDED} alone, which --only leaves out")
    dtype = choose_dtype(options.dtype, device)
    loading = Loading(str(device), str(dtype).removeprefix("torch."))
    result: dict[str, Any] = {"machine": machine(device), "targets": []}
    print(sentence(result["machine"]))
    for name in chosen:
        subject = Subject.prepare(name, loading, device, dtype, options.rows, options.data, options.work)
        found = measure(subject, BUDGETS[device.type], options.few, options.rounds)
        print("\n" + "\n".join(table.lines(found)), flush=True)
        result["targets"].append(found)
        if options.json:  # after each: a later one may not fit into the machine
            options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        del subject
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
