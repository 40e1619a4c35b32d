"""Some rows of a run read through the model again, and their scores held against those that are stored."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from geofilter.bank.features import Pooled
from geofilter.bank.scorer import Scorer
from geofilter.encode.reader import FeatureReader
from geofilter.encode.tokens import encode_rows
from geofilter.errors import InputError
from geofilter.files import Notify
from geofilter.rows.row_error import RowError
from geofilter.run.rows import reread
from geofilter.run.store import Run
from geofilter.scanning.reopen import banks_of, same_score, target_of


def recheck(run: Run, n: int, notify: Notify) -> Iterator[tuple[str, int, str]]:
    """Encode n rows again, spaced evenly over the scored ones.

    Yields:
        file, line and what differs, of each row whose score is another.

    Raises:
        InputError: an input is gone.
        RunError: an input, the model or the SAE has changed since the scan.
        TargetError: files that are gone.
    """
    manifest, arrays = run.manifest, run.arrays()
    total = len(arrays["score"])
    positions = np.unique(np.linspace(0, total - 1, min(n, total)).astype(np.int64))
    details = [line for _, line in run.score_lines(positions)]
    texts = reread(details, run.reading)
    target, loading = target_of(run, notify)
    reader = FeatureReader(target, loading)
    encoding, rows = manifest["encoding"], [texts[d["file"], d["line"]] for d in details]
    coded = []
    for row, found in zip(
        rows,
        reader.readable(encode_rows(rows, reader.tokenizer, encoding["max_tokens"], encoding["system"])),
        strict=True,
    ):
        if isinstance(found, RowError):
            raise InputError(f"{row.file}, line {row.line}: {found}")
        coded.append(found)
    pooled = Pooled.of(reader.read(coded), reader.encoder.d_in)
    scorers = [Scorer(b, manifest["scorer"]) for b in banks_of(run, target, loading, lambda: reader, notify)]
    for scorer in scorers:
        again = scorer.standard(pooled, [d["sha256"] for d in details])
        for detail, now in zip(details, again.tolist(), strict=True):
            stored = detail["banks"][scorer.bank.name]["score"]
            if not same_score(now, stored, encoding):
                yield (
                    detail["file"], detail["line"],
                    f"scores {now:.3f} under {scorer.bank.name} now, not {stored:.3f} as stored",
                )  # fmt: skip
