"""The scan: read, encode, shard, score. Interrupted at any point, the same call goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from geofilter.apart import end_unused
from geofilter.build.banks import find, names_of
from geofilter.config import BUILT_IN, SCORERS, ScanConfig
from geofilter.encode.model import computes_on_gpu, precision_here
from geofilter.encode.pair import checked_reader, fit
from geofilter.encode.reader import FeatureReader
from geofilter.encode.template import RENDERER
from geofilter.errors import InputError
from geofilter.files import Notify, silent
from geofilter.rows.gather import refuse_twice
from geofilter.rows.records import check_columns
from geofilter.run.banks import check_exclusions, exclude
from geofilter.run.score import score
from geofilter.run.store import LABELS, MANIFEST, Run
from geofilter.scanning.record import begin, claim, describe, encoding_of, finish
from geofilter.scanning.shards import Progress, Telling, encode_shards, shares_of
from geofilter.target.resolve import resolve
from geofilter.target.sae_folder import decoder_shape
from geofilter.target.target import Target
from geofilter.text import did_you_mean


def scan(
    config: ScanConfig,
    run_dir: Path | None = None,
    *,
    offline: bool = False,
    notify: Notify = silent,
    started: Progress = silent,
    progress: Progress = silent,
    expected: Callable[[int], None] = silent,
) -> Run:
    """Encode and score the rows of `config.data`; return the finished run.

    Args:
        run_dir: run folder; by default `.geofilter/<data stem>-<fingerprint>` of the working folder.
        notify: told one line at a time what takes long.
        started: told once how many rows there are, and how many of them earlier shards hold already.
        progress: told rows and tokens done, after each batch.
        expected: told the tokens that are to be encoded in all, as far as can be judged, from shard to shard better.

    Raises:
        InputError, TargetError, BankError, RunError: see `errors`.
    """
    if not config.data:
        raise InputError("no data: name at least one file")
    if config.scorer not in SCORERS:
        near = did_you_mean(config.scorer, SCORERS)
        raise InputError(f"--scorer {config.scorer}: unknown; use {', '.join(SCORERS)}{near}")
    clock, telling = _Clock(), Telling(notify, started, progress, expected)
    refuse_twice(config.data)
    paths = [Path(path) for path in config.data]
    check_columns(paths, config.reading, config.limit)
    files = [describe(path, config) for path in config.data]
    target = resolve(config.target, offline=offline, notify=notify)
    for text in target.notes:
        notify(f"note: {text}")
    encoding = encoding_of(config, files, target)
    known = dict.fromkeys([*names_of(config.banks, target), *BUILT_IN])
    check_exclusions(config.exclude_features, known, target.name, decoder_shape(target.sae_dir)[1])
    run = claim(config, encoding, target, run_dir, notify)
    clock.lap("prepare")
    with run.lock():
        begun = begin(config, encoding, files, target, run_dir)
        if not (run.path / MANIFEST).is_file():
            run.write_manifest(begun)
        elif "scanned_banks" in run.manifest:
            notify(f"note: the bank learnt from labels no longer counts; geofilter label {run.path} --from "
                   f"{run.path / LABELS} brings it back")  # fmt: skip
        reader = _reader(target, config, notify)
        found = find(config.banks, target, precision_here(config.loading), reader, notify)
        banks = exclude(found, config.exclude_features, BUILT_IN)
        if (fits := fit(target, config.loading)) is not None:
            begun["target"]["notes"].append(fits)
        clock.lap("load")
        shares = None if config.no_token_shares else shares_of(banks, config.scorer)
        apart = target.model_dir if computes_on_gpu(config.loading) else None
        tokens = encode_shards(config, run, files, begun["fingerprint"], reader, shares, telling, apart)
        end_unused()
        clock.lap("encode")
        run.write_manifest(begun)  # not complete until all of what scoring writes is there
        try:
            scored = score(run, banks, config.scorer, [f["path"] for f in files])
        except InputError as error:  # the same scan would fail again
            run.write_manifest({**begun, "failed": str(error)})
            raise
        clock.lap("score")
        used = list(zip(banks, config.banks or BUILT_IN, strict=True))
        run.write_manifest(finish(begun, used, scored, clock.laps, tokens, run.sums()))
    return run


def _reader(target: Target, config: ScanConfig, notify: Notify) -> Callable[[], FeatureReader]:
    """Model and SAE, loaded when they are first wanted: a run that is complete needs neither."""
    loaded: list[FeatureReader] = []

    def reader() -> FeatureReader:
        if not loaded:
            if not computes_on_gpu(config.loading):  # rows are rendered in this process: it is ready when the model is
                RENDERER.start_ahead()
            loaded.append(checked_reader(target, config.loading, notify, config.max_tokens))
        return loaded[0]

    return reader


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 3), now
