"""Does reading the embedded model in bfloat16 rank rows as float32 does? The figures in docs/speed.md.

    python examples/measure_dtype.py

1,000 of the contrast and chat texts that ship, drawn at random, are read in both, on the CPU, and scored under both
built-in banks: with the banks made from what float32 reads, and with those made from what bfloat16 reads (which are
built on the way, some minutes). `--dtype auto` takes bfloat16 on a CPU only if scores rank alike by 0.999 and the
highest tenth of the rows is the same by 0.99.
"""

from __future__ import annotations

import json
import platform

import numpy as np
import torch

from geofilter.bank.features import Pooled
from geofilter.bank.scorer import Scorer
from geofilter.build.banks import find
from geofilter.build.seeds import built_in_seeds
from geofilter.config import BUILT_IN, DEFAULT_SCORER, Loading, TargetChoice
from geofilter.encode.model import precision_here
from geofilter.encode.reader import FeatureReader
from geofilter.encode.tokens import Encoded, encode_rows
from geofilter.rows.records import Row
from geofilter.rows.shipped import background_rows
from geofilter.stats import spearman
from geofilter.target.resolve import resolve

ROWS, MAX_TOKENS = 1000, 1024
DTYPES = ("float32", "bfloat16")


def texts() -> list[Row]:
    rows = [*background_rows(), *(seed.row for name in BUILT_IN for seed in built_in_seeds(name))]
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:ROWS])
    return [rows[i] for i in chosen]


def agreement(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    top = len(one) // 10
    highest = [set(np.argsort(-scores, kind="stable")[:top].tolist()) for scores in (one, other)]
    return {
        "rank correlation": round(spearman(one, other), 5),
        "highest tenth in both": round(len(highest[0] & highest[1]) / top, 3),
        "largest difference, standard deviations": round(float(np.abs(one - other).max() / one.std()), 3),
    }


def main() -> None:
    target, rows = resolve(TargetChoice("smollm2-135m")), texts()
    pooled, banks = {}, {}
    for dtype in DTYPES:
        loading = Loading("cpu", dtype)
        reader = FeatureReader(target, loading)
        coded = [row for row in encode_rows(rows, reader.tokenizer, MAX_TOKENS) if isinstance(row, Encoded)]
        pooled[dtype] = Pooled.of(reader.read(coded), reader.encoder.d_in)
        banks[dtype] = find((), target, precision_here(loading), lambda reader=reader: reader, print)
    shas = [f"{i:064x}" for i in range(len(pooled["float32"]))]
    report = {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads", "rows": len(shas)}
    for scale in DTYPES:
        for exact, bank in zip(banks["float32"], banks[scale], strict=True):
            scores = (Scorer(exact, DEFAULT_SCORER).standard(pooled["float32"], shas),
                      Scorer(bank, DEFAULT_SCORER).standard(pooled["bfloat16"], shas))  # fmt: skip
            report[f"{bank.name}, bank of {scale}"] = agreement(*scores)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
