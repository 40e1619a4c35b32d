"""Time and memory of scoring the stored rows of a run again, with this checkout and another one in turn.

    python -m benchmarks.rescore --run RUN --rows 1000000 --work DIR --other CHECKOUT

From the repository's root. RUN is a finished run; its shards are copied into a run in DIR, with lines of their own, as
often as there are rows wanted, and data with these lines. Each call loads the run's banks, scores all of it and writes
the scores, as a process of its own; what is given is of the scoring alone: without loading the banks, and without
hashing what was written. Memory is that of the largest process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from geofilter.run.names import FEATURES
from geofilter.run.store import Run

DATA = "data.jsonl"
ONCE = """
import json, resource, sys, time
from pathlib import Path
from geofilter.run.banks import find_banks
from geofilter.run.score import score
from geofilter.run.store import Run

def used():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in both), max(of.ru_maxrss for of in both) / 1024

run = Run(Path(sys.argv[1]))
manifest, (banks, _) = run.manifest, find_banks(run)
run.write_manifest({**manifest, "complete": False})
start, (before, _) = time.perf_counter(), used()
said = score(run, banks, sys.argv[2], [info["path"] for info in manifest["data"]])
seconds, (cpu, mb) = time.perf_counter() - start, used()
run.write_manifest({**manifest, **said})
print(json.dumps([round(seconds, 3), round(cpu - before, 3), round(mb)]))
"""


def make_run(of: Run, folder: Path, n: int) -> None:
    """A run of n rows at least, of copies of another one's shards, and its data."""
    (folder / FEATURES).mkdir(parents=True)
    made, manifest, given = Run(folder), of.manifest, list(of.shards())
    number = lines = 0
    path, digest = folder / DATA, hashlib.sha256()
    with path.open("wb") as data_file:
        while lines < n:
            shard = given[number % len(given)]
            size = len(shard.pooled)
            line = lines + np.arange(1, size + 1, dtype=np.int64)
            rows = [b'{"prompt": "question %d", "response": "the answer is %d"}' % (i, i) for i in line.tolist()]
            replace(
                shard,
                file=np.zeros(size, np.int32),
                line=line,
                sha256=np.frombuffer(b"".join(hashlib.sha256(row).digest() for row in rows), np.uint8).reshape(-1, 32),
                span=replace(shard.span, number=number, first=lines, n_lines=size),
            ).save(made.part(number))
            text = b"\n".join([*rows, b""])
            data_file.write(text)
            digest.update(text)
            number, lines = number + 1, lines + size
    data = [{"path": str(path), "rows": lines, "lines": lines, "sha256": digest.hexdigest()}]
    made.write_manifest({**manifest, "data": data, "complete": True, "files": {}})


def once(tree: Path, folder: Path, scorer: str) -> tuple[list[float], str]:
    """What one call by this checkout takes, and a hash of what it writes."""
    env = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", ONCE, str(folder), scorer], env=env, cwd=folder, check=True, capture_output=True
    )
    digest = hashlib.sha256()
    for name in ("scores.jsonl", "scores.safetensors", "vectors.safetensors", "quarantine.jsonl"):
        with (folder / name).open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return json.loads(done.stdout), digest.hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--other", type=Path, help="Another checkout, called in turn with this one.")
    parser.add_argument("--scorer", default="ridge")
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    folder: Path = (args.work / f"rescore-{args.run.resolve().name}-{args.rows}").resolve()
    if not (folder / "manifest.json").is_file():
        make_run(Run.open(args.run), folder, args.rows)
    trees = {"this": Path(__file__).parents[1]} | ({"other": args.other.resolve()} if args.other else {})
    calls: dict[str, list[list[float]]] = {name: [] for name in trees}
    sums = set()
    for _ in range(args.times):
        for name, tree in trees.items():
            used, digest = once(tree, folder, args.scorer)
            calls[name].append(used)
            sums.add(digest)
            print(name, used, digest, flush=True)
    found = {
        name: dict(zip(("seconds", "cpu", "mb"), map(statistics.median, zip(*of, strict=True)), strict=True))
        for name, of in calls.items()
    }
    print(json.dumps({"rows": args.rows, "times": args.times, "same bytes": len(sums) == 1, **found}, indent=1))


if __name__ == "__main__":
    main()
