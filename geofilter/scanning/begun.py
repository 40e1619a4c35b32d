"""A scan that has begun: its target, its run folder, its manifest and its plan; its banks; and its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from geofilter.bank.bank import Bank
from geofilter.build.banks import find, names_of
from geofilter.config import BUILT_IN, SCORERS, ScanConfig
from geofilter.encode.loss import LossReader
from geofilter.encode.model import computes_on_gpu, precision_here
from geofilter.encode.pair import checked_reader, fit
from geofilter.encode.reader import FeatureReader
from geofilter.encode.template import RENDERER
from geofilter.errors import InputError
from geofilter.files import Notify
from geofilter.rows.gather import refuse_twice
from geofilter.rows.records import check_columns
from geofilter.run.banks import check_exclusions, exclude
from geofilter.run.manifest import InputFile, Started
from geofilter.run.names import LABELLED, LABELS, MANIFEST
from geofilter.run.score import score
from geofilter.run.store import Run
from geofilter.scanning.order import withdraw
from geofilter.scanning.record import begin, claim, encoding_of, finish
from geofilter.target.resolve import resolve
from geofilter.target.sae_folder import decoder_shape
from geofilter.target.target import Target
from geofilter.text import did_you_mean


def check(config: ScanConfig) -> None:
    """Refuse what no scan can be made of.

    Raises:
        InputError: no data, the same twice, an unknown scorer, columns that no row has, or options that do not go
            together.
    """
    if not config.data:
        raise InputError("no data: name at least one file")
    if config.scorer not in SCORERS:
        near = did_you_mean(config.scorer, SCORERS)
        raise InputError(f"--scorer {config.scorer}: unknown; use {', '.join(SCORERS)}{near}")
    if config.with_loss and config.loading.max_memory is not None:
        raise InputError("--with-loss: --max-memory does not reckon with the whole model; leave one of them out")
    if config.pairs == "difference" and config.fields:
        raise InputError(
            "--pairs difference: rows whose columns --fields names have no rejected answer; leave one of them out"
        )
    refuse_twice(config.data)
    check_columns([Path(path) for path in config.data], config.reading, config.limit)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A run's folder for a scan, and what the scan is of."""

    config: ScanConfig
    target: Target
    run: Run
    manifest: Started
    """as it is begun with"""

    @property
    def files(self) -> list[InputFile]:
        """The inputs."""
        return self.manifest["data"]

    @property
    def fingerprint(self) -> str:
        """Of the encoding."""
        return self.manifest["fingerprint"]

    def write_manifest(self, notify: Notify) -> None:
        """Write the manifest, where none is there yet."""
        if not (self.run.path / MANIFEST).is_file():
            self.run.write_manifest(self.manifest)
        elif any(bank["name"] == LABELLED for bank in self.run.manifest.get("banks", ())):
            notify(f"note: the bank learnt from labels no longer counts; geofilter label {self.run.path} --from "
                   f"{self.run.path / LABELS} brings it back")  # fmt: skip

    def banks(self, reader: Callable[[], FeatureReader], notify: Notify) -> list[Bank]:
        """The banks to score with, found or built; without the features that are left out.

        Raises:
            BankError: one is not found, or made for another target.
        """
        config = self.config
        found = find(config.banks, self.target, precision_here(config.loading), reader, notify)
        if (fits := fit(self.target, config.loading)) is not None and fits not in self.manifest["target"]["notes"]:
            self.manifest["target"]["notes"].append(fits)
        return exclude(found, config.exclude_features, BUILT_IN)


def claimed(
    config: ScanConfig,
    files: list[InputFile],
    run_dir: Path | None,
    *,
    offline: bool,
    notify: Notify,
    parts: bool = True,
) -> Claimed:
    """Find the target, and claim a run's folder.

    Args:
        run_dir: the folder; by default `.geofilter/<data stem>-<fingerprint>` of the working folder.
        parts: of a run in a store fetch the shards that are there.

    Raises:
        TargetError, BankError: not available.
        RunError: the folder holds another run.
    """
    target = resolve(config.target, offline=offline, notify=notify)
    for text in target.notes:
        notify(f"note: {text}")
    encoding = encoding_of(config, files, target)
    known = dict.fromkeys([*names_of(config.banks, target), *BUILT_IN])
    check_exclusions(config.exclude_features, known, target.name, decoder_shape(target.sae_dir)[1])
    run = claim(config, encoding, target, run_dir, notify, parts=parts)
    return Claimed(config, target, run, begin(config, encoding, files, target, run_dir))


class Loader:
    """Model and SAE, loaded when they are first wanted: a run that is complete needs neither."""

    def __init__(self, target: Target, config: ScanConfig, notify: Notify) -> None:
        self._target, self._config, self._notify = target, config, notify
        self._reader: FeatureReader | None = None

    def __call__(self) -> FeatureReader:
        """Load them, or give those that are loaded."""
        if self._reader is None:
            # Rows are rendered in this process: the one that renders templates is ready when the model is.
            if not computes_on_gpu(self._config.loading):
                RENDERER.start_ahead()
            self._reader = checked_reader(self._target, self._config.loading, self._notify, self._config.max_tokens)
        return self._reader

    def drop(self) -> None:
        """Give their memory back."""
        self._reader = None


def loss_reader(config: ScanConfig, target: Target, offline: bool, notify: Notify) -> Callable[[], LossReader] | None:
    """What loads the whole model when it is first called; None where the loss of rows is not asked for."""
    if not config.with_loss:
        return None
    return cache(partial(LossReader, target, config.loading, offline=offline, notify=notify))


class Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """End a stage."""
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 3), now


def complete(claimed: Claimed, banks: Sequence[Bank], clock: Clock, tokens: int) -> Run:
    """Score all shards, and end the run.

    Args:
        tokens: encoded by this call.

    Raises:
        InputError: no row can be scored.
        RunError: a shard is missing or damaged.
    """
    config, run, begun = claimed.config, claimed.run, claimed.manifest
    run.write_manifest(begun)  # not complete until all of what scoring writes is there
    try:
        scored = score(run, banks, config.scorer, [f["path"] for f in claimed.files])
    except InputError as error:  # the same scan would fail again
        run.write_manifest({**begun, "failed": str(error)})
        raise
    clock.lap("score")
    used = list(zip(banks, config.banks or BUILT_IN, strict=True))
    run.write_manifest(finish(begun, used, scored, clock.laps, tokens, run.sums()))
    withdraw(run)
    return run
