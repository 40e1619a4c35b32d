"""The runs of a folder, and which of them is meant: the newest one, one named by its data, or by a part of its name."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geofilter.errors import RunError
from geofilter.files import RUNS, Notify
from geofilter.run.manifest import InputFile, Manifest
from geofilter.run.mirror import behind
from geofilter.run.store import FORMAT, Run
from geofilter.text import did_you_mean


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A run folder, finished or not."""

    run: Run
    changed: float
    """when its manifest was written last, in seconds since 1970"""
    manifest: Manifest | None
    """None where it cannot be read; of an unfinished run it is `manifest.Started`"""
    error: str
    """why it cannot be used; empty of a finished run"""

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.run.path.name

    @property
    def data(self) -> list[InputFile]:
        """Its inputs, as far as they are known."""
        return self.manifest["data"] if self.manifest else []


def runs_of(folder: Path) -> list[Found]:
    """The runs under `.geofilter/` of a folder, newest first."""
    found = []
    for path in (folder / RUNS).glob("*/manifest.json"):
        run, manifest, error = Run(path.parent), None, ""
        try:
            manifest = run.manifest
            Run.open(run.path)
        except RunError as refused:
            error = str(refused)
        known = manifest is not None and manifest.get("format") == FORMAT
        found.append(Found(run, path.stat().st_mtime_ns / 1e9, manifest if known else None, error))
    return sorted(found, key=lambda f: -f.changed)


def newest(folder: Path, notify: Notify) -> Run:
    """The newest finished run of a folder; newer ones that are not are told of.

    Raises:
        RunError: there is none; it says how to make or finish one.
    """
    found = runs_of(folder)
    if not found:
        raise RunError(f"{folder / RUNS}: no run here; make one with geofilter scan DATA --model NAME")
    return _newest_finished(found, notify)


def named(given: Path, folder: Path, notify: Notify, scoring: str = "") -> Run:
    """The run that is meant by a path or a name.

    In this order: a run folder; the full name of a folder under `.geofilter/`; a data file, or a data set of the hub,
    for the newest finished run of it; the beginning of a folder's name, or of the fingerprint at its end.

    Args:
        scoring: see `Run.open`; of a run that is given by its folder or name.

    Raises:
        RunError: no such run, several, or one that is not complete.
    """
    text, runs = str(given), runs_of(folder)
    if behind(given) or (given / "manifest.json").is_file():
        return Run.open(given, scoring)
    if same := [f for f in runs if f.name == text]:
        return Run.open(same[0].run.path, scoring)
    if of_data := _of_data(given, runs):
        return _newest_finished(of_data, notify)
    if given.is_file():
        raise RunError(f"{text}: no run of this file here; make one with geofilter scan {shlex.quote(text)}")
    called = [f for f in runs if f.name.startswith(text) or f.name.rpartition("-")[2].startswith(text)]
    if len(called) > 1:
        raise RunError(f"{text}: may be {_listed(called)}; give one of these names")
    if called:
        return Run.open(called[0].run.path, scoring)
    if given.is_dir():
        raise RunError(f"{text}: not a run folder (no manifest.json); make one with geofilter scan")
    near = did_you_mean(text, [name for f in runs for name in (f.name, *(d["path"] for d in f.data))])
    raise RunError(f"{text}: no such run; geofilter runs lists those that are here{near}")


def given_as(info: InputFile) -> str:
    """What an input was called: id of a data set of the hub, folder of a saved one, URL of a file in a store, else the
    file."""
    origin = info.get("origin", {})
    return origin.get("id") or origin.get("folder") or origin.get("url") or info["path"]


def _of_data(given: Path, runs: Sequence[Found]) -> list[Found]:
    """Runs of a data file, newest first: by its path, else by its name alone where that means one file.

    Raises:
        RunError: runs of several files of that name.
    """
    text, path = str(given), given.resolve()
    exact = [
        f for f in runs
        if any(given_as(d) == text or path in (Path(d["path"]).resolve(), Path(given_as(d)).resolve()) for d in f.data)
    ]  # fmt: skip
    if exact or len(given.parts) != 1:
        return exact
    alike = [f for f in runs if any(Path(d["path"]).name == text for d in f.data)]
    files = dict.fromkeys(d["path"] for f in alike for d in f.data if Path(d["path"]).name == text)
    if len({Path(file).resolve() for file in files}) > 1:
        raise RunError(f"{text}: there are runs of {', '.join(files)}; give one of these paths")
    return alike


def _newest_finished(found: Sequence[Found], notify: Notify) -> Run:
    """The first finished one of some runs, newest first; those before it are told of."""
    for i, f in enumerate(found):
        if not f.error:
            for newer in found[:i]:
                if newer.manifest:
                    notify(f"note: newer run {newer.run.path} is not finished; {newer.run.remedy}")
                else:
                    notify(f"note: a newer run is passed over: {newer.error}")
            return f.run
    return Run.open(found[0].run.path)  # which says why it cannot be used


def _listed(runs: Sequence[Found]) -> str:
    names = [f.name for f in runs]
    return f"{', '.join(names[:-1])} or {names[-1]}"
