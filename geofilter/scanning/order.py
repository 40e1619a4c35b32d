"""What is told to workers that make shards of a scan: as JSON, and the banks beside it, in a folder of the run.

work/order.json
work/banks/HASH/     a bank as it was found or built, once, by the scan itself
work/attempts/       shards that a worker has begun and not ended, see `worker.Worker`
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geofilter.bank.bank import ABOUT, ARRAYS, Bank
from geofilter.config import Loading, ScanConfig, TargetChoice
from geofilter.errors import RunError
from geofilter.files import from_json, make_folder, own_bytes, write_json
from geofilter.run.manifest import InputFile, Started
from geofilter.run.names import PLAN, WORK
from geofilter.run.store import Run
from geofilter.sums import SEAL, broken, sealed, sum_of
from geofilter.together import Together

ORDER = f"{WORK}/order.json"
ATTEMPTS = f"{WORK}/attempts"
"""in a run folder"""


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker has to know."""

    config: ScanConfig
    offline: bool
    here: str
    """folder that all paths are named from"""
    fingerprint: str
    """of the encoding"""
    device: str
    """type of it"""
    dtype: str
    files: Sequence[InputFile]
    banks: Sequence[str]
    """hashes of the banks that the scan was begun with"""

    @classmethod
    def of(cls, config: ScanConfig, manifest: Started, banks: Sequence[Bank], *, offline: bool) -> Order:
        """What a scan orders that has begun.

        Args:
            banks: that it scores with.
        """
        encoding = manifest["encoding"]
        names = [hash_of(bank.folder) for bank in banks if bank.folder is not None]
        return cls(
            config, offline, str(Path.cwd()), manifest["fingerprint"], encoding["device"], encoding["dtype"],
            manifest["data"], names,
        )  # fmt: skip

    def write(self, run: Run, banks: Sequence[Bank]) -> None:
        """Put it into a run's folder, with the banks; publish them and the plan, where the run is in a store."""
        shutil.rmtree(run.path / ATTEMPTS, ignore_errors=True)
        make_folder(run.path / ATTEMPTS)
        for bank, name in zip(banks, self.banks, strict=True):
            _copy(bank, run.path / WORK / "banks" / name)
        write_json(run.path / ORDER, sealed(self.said()))
        if run.mirror is not None:
            run.mirror.put([PLAN, *(file for name in self.banks for file in _files_of(name)), ORDER])

    def said(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {**asdict(self), "files": list(self.files), "banks": list(self.banks)}

    @classmethod
    def read(cls, run: Run) -> Order:
        """The order of a run.

        Raises:
            RunError: it is not there, or damaged.
        """
        path = run.path / ORDER
        try:
            said = from_json(own_bytes(run.file(ORDER)))
            if not isinstance(said, dict) or broken(said):
                raise ValueError("not what was written")
            del said[SEAL]
            return cls(**{**said, "config": config_of(said["config"])})
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}: cannot be read ({error}); start the scan again") from None

    def open_banks(self, run: Run) -> list[Bank]:
        """The banks that lie beside it.

        Raises:
            RunError: one is not what was written.
            BankError: one is damaged.
        """
        banks = []
        for name in self.banks:
            folder = run.path / WORK / "banks" / name
            for file in _files_of(name):
                run.file(file)
            try:
                found = hash_of(folder)
            except OSError as error:
                raise RunError(f"{folder}: cannot be read ({error.strerror}); start the scan again") from None
            if found != name:
                raise RunError(f"{folder}: is not the bank that was put there; start the scan again")
            banks.append(Bank.load(folder))
        return banks


def _files_of(bank: str) -> list[str]:
    return [f"{WORK}/banks/{bank}/{name}" for name in (ARRAYS, ABOUT)]


def withdraw(run: Run) -> None:
    """Take away what was told, once the run is complete."""
    if run.mirror is not None:
        for name in run.mirror.listed():
            if name.startswith(f"{WORK}/"):
                run.mirror.discard(name)
    shutil.rmtree(run.path / WORK, ignore_errors=True)


def hash_of(folder: Path) -> str:
    """What a bank is known by: a hash of its files.

    Raises:
        OSError: they cannot be read.
    """
    return hashlib.sha256("".join(sum_of(folder / name)["sha256"] for name in (ABOUT, ARRAYS)).encode()).hexdigest()


def _copy(bank: Bank, to: Path) -> None:
    assert bank.folder is not None
    if to.is_dir() and hash_of(to) == to.name:
        return
    make_folder(to)
    with Together() as files:
        for name in (ARRAYS, ABOUT):
            with (bank.folder / name).open("rb") as source, files.open(to / name) as out:
                shutil.copyfileobj(source, out)


def config_of(said: dict[str, Any]) -> ScanConfig:
    """A configuration of what `asdict` made of it, once that was JSON."""
    plain = dict(said)
    target, loading = TargetChoice(**plain.pop("target")), Loading(**plain.pop("loading"))
    lists = {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
    return ScanConfig(target=target, loading=loading, **{**plain, **lists})
