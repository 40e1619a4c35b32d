"""What --with-loss costs: the same rows read for their features, and for their loss, in turn.

    python -m benchmarks.loss [--model smollm2-135m] [--rows 36]

Prints the processor time of each and the ratio of a scan with loss to one without, as far as the model goes. Rows are
those of the shipped paired answers, a few of each question, six at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

from geofilter.config import Loading, TargetChoice
from geofilter.encode.loss import LossReader
from geofilter.encode.reader import FeatureReader
from geofilter.encode.tokens import Encoded, encode_rows
from geofilter.encode.unprompted import encode_unprompted
from geofilter.rows.records import usable_rows
from geofilter.rows.shipped import domain_files
from geofilter.target.resolve import resolve

AT_ONCE = 6


def seconds(work: Callable[[], object]) -> float:
    """Processor time of this process that some work takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=36)
    args = parser.parse_args()
    target, loading = resolve(TargetChoice(args.model)), Loading("cpu", "float32")
    reader, loss = FeatureReader(target, loading), LossReader(target, loading, offline=True, notify=print)
    rows = [row for path in domain_files() for i, row in enumerate(usable_rows(path)) if i % 30 < 4][: args.rows]
    coded = [one for one in encode_rows(rows, reader.tokenizer, 1024) if isinstance(one, Encoded)]
    assert len(coded) == len(rows)
    alone = encode_unprompted(rows, coded, reader.tokenizer, 1024)
    reader.read(coded[:1]), loss.both(coded[:1], alone[:1])  # warm
    features = both = 0.0
    for start in range(0, len(rows), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        features += seconds(partial(reader.read, coded[some]))
        both += seconds(partial(loss.both, coded[some], alone[some]))
    tokens = [sum(len(one.ids) for one in of if one is not None) for of in (coded, alone)]
    print(f"{len(rows)} rows of {tokens[0]:,} tokens, {tokens[1]:,} without their prompts")
    print(f"features {features:.2f} s, loss {both:.2f} s: {1 + both / features:.1f} times the work of a scan without")


if __name__ == "__main__":
    main()
