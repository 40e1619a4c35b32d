"""Where a scan's time goes, stage by stage; and what comes before its first row, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from benchmarks.throughput.rows import MAX_TOKENS
from benchmarks.throughput.subject import Scores, Subject
from benchmarks.throughput.ways import features_of, scan_run
from geofilter.bank.features import Pooled
from geofilter.encode.model import DTYPES
from geofilter.encode.reader import FeatureReader
from geofilter.encode.sae import Activations, FeatureEncoder
from geofilter.encode.shares import TokenShares
from geofilter.encode.tokens import encode_rows
from geofilter.rows.lines import read_lines
from geofilter.rows.records import Row, parse_line
from geofilter.run.score import score

SLICE, SHARD = 32, 1000
"""rows that a scan tokenises at once, and reads as a shard"""


class Clock:
    """Seconds by stage; on a GPU each stage ends when the device has done its part."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.wait = wait
        self._depth, self._start = 0, 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds what its body takes."""
        self.wait()
        start = time.perf_counter()
        yield
        self.wait()
        self.seconds[name] += time.perf_counter() - start

    def follow(self, model: torch.nn.Module) -> list[Any]:
        """Count as `forward` what passes within the model take, or within its parts where these are called alone.

        Returns:
            what ends it.
        """

        def enter(*_: Any) -> None:
            if not self._depth:
                self.wait()
                self._start = time.perf_counter()
            self._depth += 1

        def leave(*_: Any) -> None:
            self._depth -= 1
            if not self._depth:
                self.wait()
                self.seconds["forward"] += time.perf_counter() - self._start

        parts = [m for m in model.modules() if not isinstance(m, torch.nn.ModuleList)]
        hooks = [part.register_forward_pre_hook(enter) for part in parts]
        return hooks + [part.register_forward_hook(leave, always_call=True) for part in parts]


class TimedEncoder(FeatureEncoder):
    """The SAE's encoder, on a clock."""

    clock: Clock

    def encode(self, x: torch.Tensor) -> Activations:
        """See `FeatureEncoder.encode`."""
        with self.clock.stage("encode"):
            return super().encode(x)


def stages(subject: Subject, scores: Scores) -> dict[str, float]:
    """Seconds of each stage of one scan over all rows, each stage waited for.

    `pool` is what of reading rows is neither model nor encoder: grouping rows to passes, outliers, means, and dividing
    scores among tokens. `score` is all of scoring under the built-in banks; under random scores those alone.
    """
    clock = Clock(subject.wait)
    reader = FeatureReader(subject.target, subject.loading)
    encoder = reader.encoder
    timed = TimedEncoder(subject.target.sae_dir, encoder.device, DTYPES[subject.loading.sae_dtype])
    with clock.stage("read"):
        parsed = [parse_line(line, str(subject.data), i) for i, line in enumerate(read_lines(subject.data), start=1)]
        rows = [row for row in parsed if isinstance(row, Row)]
    with clock.stage("tokenise"):
        for start in range(0, len(rows), SLICE):
            reader.readable(encode_rows(rows[start : start + SLICE], reader.tokenizer, MAX_TOKENS))
    shares = TokenShares(scores.shares, encoder.device)
    reader.read_divided(subject.encoded[:8], shares)
    timed.clock, reader.encoder = clock, timed
    hooks = clock.follow(reader.model.model)
    with clock.stage("rows to features"):
        for start in range(0, len(subject.encoded), SHARD):
            reader.read_divided(subject.encoded[start : start + SHARD], shares)
    for hook in hooks:
        hook.remove()
    reader.encoder = encoder
    run, paths = scan_run(subject, reader, scores, len(rows))
    shards = list(run.shards())
    with clock.stage("write"):
        for i, shard in enumerate(shards):
            shard.save(run.part(i))
    if scores.banks:
        with clock.stage("score"):
            score(run, scores.banks, "ridge", paths)
    else:
        pooled = Pooled.of(features_of(run), encoder.d_in)
        with clock.stage("score"):
            for linear in scores.linear.values():
                linear.scores(pooled)
    found = dict(clock.seconds)
    found["pool"] = found.pop("rows to features") - found.get("forward", 0.0) - found.get("encode", 0.0)
    order = ("read", "tokenise", "forward", "encode", "pool", "write", "score")
    return {name: round(found.get(name, 0.0), 4) for name in order}


def start_up(subject: Subject, times: int) -> dict[str, float]:
    """Median seconds of each step before the first row, each time in a new process."""
    choice, loading = subject.target.choice, subject.loading
    words = [sys.executable, "-m", "benchmarks.throughput.startup", json.dumps({
        "target": {"model": choice.model, "sae": choice.sae}, "loading": {
            "device": loading.device, "dtype": loading.dtype},
    })]  # fmt: skip
    laps = [json.loads(subprocess.run(words, check=True, capture_output=True).stdout) for _ in range(times)]
    return {name: round(median(lap[name] for lap in laps), 3) for name in laps[0]}
