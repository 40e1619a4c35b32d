"""More than one worker: how much faster a scan is, and what the process that hands out the shards needs.

    python -m benchmarks.scale workers --work WORK [--workers 1 2 4] [--json scale.json]
    python -m benchmarks.scale driver --work WORK [--shards 1000 1000000] [--stop 3000] [--json driver.json]

From the repository's root, with `pip install 'geofilter[ray]'`.

workers: the embedded target scans the same rows in one process and under --engine ray, in turn, each into a new run,
each round in another order; the scores must be the same bytes.

driver: the engine hands out shards of a plan of so many, to workers that make nothing, until some thousands are done;
how much memory its process holds is looked at along the way. No rows are read: it is the plan, the data sets of Ray
Data and the answers that are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from geofilter.run.names import PLAN
from geofilter.scanning.plan import COLUMNS, WIDTH, Plan, Work


class Nothing:
    """A worker that makes nothing, and says that it has."""

    def __init__(self, *_: Any) -> None: ...

    def made(self, work: Work) -> dict[str, Any]:
        """What a worker would say."""
        return {"number": work.number, "lines": work.n_lines, "bytes": work.n_bytes, "tokens": 1}


def simulated(folder: Path, n: int) -> Plan:
    """A plan of n shards of a thousand rows each."""
    with (folder / PLAN).open("wb") as out:
        for line in (list(COLUMNS), *([i, 1000 * i, 1000, 700_000, 700_000 * i, 0, 1000 * i, 1000 * i, 700_000 * i,
                                       "0" * 64] for i in range(n))):  # fmt: skip
            out.write(json.dumps(line).encode().ljust(WIDTH - 1) + b"\n")
    return Plan(folder / PLAN)


def resident() -> float:
    """MB that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Enough(Exception):
    """Ends a measurement."""


def driver(folder: Path, n: int, stop: int, wave: int) -> dict[str, Any]:
    """Memory while the shards of a plan of n are handed out, until `stop` are done."""
    from geofilter.config import ScanConfig
    from geofilter.run.store import Run
    from geofilter.scanning import on_ray
    from geofilter.scanning.order import Order
    from geofilter.scanning.shards import Telling
    from geofilter.scanning.spread import RAY, Spread

    plan, held, done, began = simulated(folder, n), [], 0, time.monotonic()
    on_ray.Worker, on_ray.WAVE = Nothing, wave  # type: ignore[misc,assignment]

    def progress(rows: int, _: int) -> None:
        nonlocal done
        if done % (stop // 10) == 0:
            held.append({"done": done, "mb": round(resident(), 1), "seconds": round(time.monotonic() - began, 1)})
        done += 1
        if done > stop:
            raise Enough

    order = Order(
        ScanConfig(), True, "", "", "cpu", "float32", [{"path": "d", "sha256": "", "lines": 0, "rows": 0}], ()
    )
    telling = Telling(print, lambda *_: None, progress, lambda _: None)
    with suppress(Enough):
        on_ray.encode_on_ray(Run(folder), plan, [(0, n)], order, Spread(RAY, 2), telling)
    return {"shards": n, "wave": wave, "plan_mb": round((n + 1) * WIDTH / 1e6, 1), "held": held}


def ran(command: list[str]) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def scanned(work: Path, data: Path, workers: int) -> dict[str, Any]:
    """Seconds of a scan in a process of its own; 0 workers are the local engine."""
    shutil.rmtree(work / "run", ignore_errors=True)
    engine = ["--engine", "ray", "--workers", str(workers)] if workers else []
    words = ["scan", str(data), "--model", "smollm2-135m", "--run", str(work / "run"), "--shard-rows", "20", "--quiet"]
    began = time.monotonic()
    ran([sys.executable, "-m", "geofilter", *words, *engine])
    whole = time.monotonic() - began
    seconds = json.loads((work / "run" / "manifest.json").read_text())["seconds"]
    scores = (work / "run" / "scores.jsonl").read_bytes()
    return {"workers": workers, "whole": whole, "encode": seconds["encode"], "scores": scores}


def workers(work: Path, data: Path, counts: list[int], rounds: int) -> dict[str, Any]:
    """Scans by so many workers, in turn."""
    ways, found = [0, *counts], dict[int, list[dict[str, Any]]]()
    scores: set[bytes] = set()
    for number in range(rounds):
        for way in random.Random(number).sample(ways, len(ways)):
            one = scanned(work, data, way)
            scores.add(one.pop("scores"))
            found.setdefault(way, []).append(one)
            print(one, flush=True)
    middle = {
        way: {k: statistics.median(r[k] for r in runs) for k in ("whole", "encode")} for way, runs in found.items()
    }
    return {"rounds": rounds, "same_bytes": len(scores) == 1, "ways": middle}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["workers", "driver"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("examples/mixed_advice.jsonl"))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--stop", type=int, default=3000)
    parser.add_argument("--wave", type=int, default=1000, help="shards for each worker in a data set")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.what == "workers":
        found: Any = workers(args.work, args.data, args.workers, args.rounds)
    else:
        # Each in a process of its own, so that one does not hold what the other has left.
        found = []
        for n in args.shards:
            folder = args.work / f"plan-{n}"
            folder.mkdir(exist_ok=True)
            call = f"driver(Path({str(folder)!r}), {n}, {min(n, args.stop)}, {args.wave})"
            code = (
                f"import json\nfrom pathlib import Path\nfrom benchmarks.scale import driver\nprint(json.dumps({call}))"
            )
            found.append(json.loads(ran([sys.executable, "-c", code]).splitlines()[-1]))
            print(found[-1], flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
