"""Times of scans and filters of the tiny target in one process, which `python -m benchmarks.growth` starts.

python -m benchmarks.growth.times WORK ROUNDS ROWS...
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import geofilter

START = 10
"""rows of the call that is nearly all start-up"""
STAGES = ("encode", "score")
"""of the scan's own, those that rows take"""


def call(work: Path, n: int) -> dict[str, float]:
    """Seconds of scanning and filtering n rows anew, and of the scan's own stages."""
    run_dir = work / f"run-{n}"
    shutil.rmtree(run_dir, ignore_errors=True)
    target = geofilter.TargetChoice(str(work / "tiny"), str(work / "tiny-sae"))
    config = geofilter.ScanConfig((str(work / f"{n}.jsonl"),), target, geofilter.Loading("cpu", "float32"))
    laps = [time.perf_counter()]
    run = geofilter.scan(config, run_dir, offline=True)
    laps.append(time.perf_counter())
    geofilter.filter_run(run, geofilter.Cut.parse("10%"))
    laps.append(time.perf_counter())
    stages = {f"of it {name}": run.manifest["seconds"][name] for name in STAGES}
    return {"scan": laps[1] - laps[0], **stages, "filter": laps[2] - laps[1]}


def times(work: Path, rounds: int, rows: Sequence[int]) -> list[dict[str, list[float]]]:
    """Of each round what every number of rows takes beyond `START` rows."""
    call(work, START)  # checks the pair, builds the banks, and sets libraries up
    out = []
    for _ in range(rounds):
        first = call(work, START)
        each = [call(work, n) for n in rows]
        out.append({name: [found[name] - first[name] for found in each] for name in first})
    return out


if __name__ == "__main__":
    print(json.dumps(times(Path(sys.argv[1]), int(sys.argv[2]), [int(n) for n in sys.argv[3:]])))
