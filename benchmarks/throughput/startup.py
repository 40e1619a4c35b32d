"""What comes before a scan's first row, step by step; `stages.start_up` runs it as a process of its own.

python -m benchmarks.throughput.startup '{"target": {"model": ..., "sae": ...}, "loading": {"device": ...}}'
"""

from __future__ import annotations

import json
import sys
import time

STARTED = time.perf_counter()


def main() -> None:
    laps, last = {}, STARTED

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        laps[name], last = now - last, now

    given = json.loads(sys.argv[1])
    # What a scan imports by the time that its model is loaded.
    from transformers import AutoModel, AutoTokenizer  # noqa: F401

    import geofilter.scanning.scan  # noqa: F401
    from geofilter.config import Loading, TargetChoice
    from geofilter.encode.reader import FeatureReader
    from geofilter.target.resolve import resolve

    lap("import")
    target = resolve(TargetChoice(**given["target"]), offline=True)
    lap("resolve")
    FeatureReader(target, Loading(**given["loading"]))
    lap("load")
    print(json.dumps(laps))


if __name__ == "__main__":
    main()
