"""The files of a run and of its banks against the hashes that were recorded of them, and where they differ."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

from geofilter.bank.about import BankAbout
from geofilter.bank.bank import ABOUT, ARRAYS, Bank
from geofilter.cut.sets import within
from geofilter.errors import BankError, RunError
from geofilter.files import dumps, file_sha256, from_json, ordinary, own_bytes
from geofilter.report.last import CUT
from geofilter.run.manifest import Manifest
from geofilter.run.names import FEATURES, LABELLED, LABELS, MANIFEST, QUARANTINE, SCORING
from geofilter.run.shard import unusable_of
from geofilter.run.store import Run
from geofilter.run.tensors import unpacked
from geofilter.sums import broken, sum_of
from geofilter.verify.findings import Findings

_OURS = {MANIFEST, "lock", LABELS, f"{LABELS}.lock", CUT, f"{LABELLED}/{ABOUT}", f"{LABELLED}/{ARRAYS}"}
_REPORTS = {"report.html", "report.json", "report.md"}


def check_files(run: Run, manifest: Manifest, found: Findings) -> None:
    """Hold every file of a run's folder against its hash; one that is of nothing is a doubt too."""
    for name, wanted in manifest["files"].items():
        path = run.path / name
        try:
            if sum_of(path) != wanted:
                found.doubt(path, _where(path), "is not what was written")
        except OSError as error:
            found.doubt(path, "", f"cannot be read ({error.strerror or error})")
    parts = [run.path / name for name in manifest["files"] if name.startswith(f"{FEATURES}/")]
    if all(path.is_file() for path in parts):
        _check_quarantine(run, parts, found)
    known = {*manifest["files"], *_OURS, *_REPORTS, *(path.name for path in within(run))}
    for path in sorted(run.path.rglob("*")):
        name = path.relative_to(run.path).as_posix()
        if name in _OURS and not path.is_file():
            found.doubt(path, "", "is no ordinary file")
        left = name.startswith(f"{SCORING}/")  # by a scan that was killed before it took them away
        if not path.is_dir() and name not in known and not left:
            found.doubt(path, "", "is no file of this run; remove it")


def _where(path: Path) -> str:
    """Which array of a file is not what was written, as far as it can be told."""
    from safetensors import SafetensorError

    if path.suffix != ".safetensors":
        return ""
    try:
        unpacked(path)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        return str(error).removesuffix(" is not what was written")
    return "header"


def _check_quarantine(run: Run, parts: list[Path], found: Findings) -> None:
    """The quarantined rows against those that the shards hold."""
    wanted = (record for path in parts for record in unusable_of(path))
    try:
        with ordinary(run.path / QUARANTINE).open("rb") as lines:
            for number, (record, line) in enumerate(zip_longest(wanted, lines), start=1):
                if record is None or line is None or line != dumps(record):
                    found.doubt(run.path / QUARANTINE, f"line {number}", "is not the row that the scan set aside")
                    return
    except (RunError, OSError):
        return  # told as files already


def check_bank_files(folder: Path, about: BankAbout, found: Findings) -> None:
    """A bank's files against what the manifest says of them."""
    for name, wanted in about["files"].items():
        path = folder / name
        if not about["path"] and name == ABOUT:
            continue  # a built-in bank that was built again has another date
        try:
            if file_sha256(path) != wanted:
                found.doubt(path, _bank_place(folder, name), f"bank {about['name']} is not the one of the scan")
        except OSError as error:
            text = f"bank {about['name']} cannot be read ({error.strerror or error})"
            found.doubt(path, "", text)


def _bank_place(folder: Path, name: str) -> str:
    """Which array or field of a bank's file is not what was written, as far as it can be told."""
    if name == ABOUT:
        try:
            return broken(from_json(own_bytes(folder / ABOUT))) or ""
        except (OSError, ValueError, AttributeError) as error:
            return str(error)
    try:
        Bank.load(folder)
    except BankError as error:
        return str(error).partition(": ")[2].partition(" in ")[0].partition(";")[0]
    return "header"
