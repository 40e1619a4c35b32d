"""The banks a finished run was scored with, found again on disk without torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from geofilter.bank.about import BankAbout, ExcludedFeature
from geofilter.bank.bank import ARRAYS, Bank
from geofilter.bank.built_in import built_in_folder
from geofilter.config import excluded, precision
from geofilter.errors import InputError, RunError
from geofilter.files import file_sha256
from geofilter.run.names import LABELLED
from geofilter.run.store import Run
from geofilter.text import did_you_mean


def bank_folder(run: Run, bank: BankAbout) -> Path:
    """Where a bank of a run lies: its own folder, or that of a built-in one in package or cache."""
    manifest = run.manifest
    if "scanned_banks" in manifest and bank["name"] == LABELLED and bank in manifest["banks"]:
        return (run.path / LABELLED).resolve()  # it goes where the run goes
    if bank["path"]:
        return Path(bank["path"])
    target, encoding = manifest["target"], manifest["encoding"]
    read_in = precision(encoding["dtype"], encoding["sae_dtype"])
    return built_in_folder(bank["name"], target["name"], target["fingerprint"], read_in, bank["sources"] or {})


def find_banks(run: Run, scanned: bool = False) -> tuple[list[Bank], list[str]]:
    """The run's banks as far as they are still there, and what is to be said of each that is not.

    Args:
        scanned: those of the scan, also where a bank learnt from labels has taken their place.

    Raises:
        RunError: a bank folder has changed since the scan.
        BankError: a bank is damaged.
    """
    manifest = run.manifest
    banks, gone = [], []
    for about in manifest["banks"] if not scanned else manifest.get("scanned_banks", manifest["banks"]):
        folder = bank_folder(run, about)
        if not (folder / ARRAYS).is_file():
            gone.append(f"The bank {about['name']} is no longer at {folder}")
            continue
        _check_unchanged(folder, about)
        bank = Bank.load(folder, manifest["target"]["fingerprint"], manifest["target"]["llama_scope_gate"])
        banks.append(bank.excluding(excluded_features(about)))
    return banks, gone


def _check_unchanged(folder: Path, about: BankAbout) -> None:
    if not about["path"]:
        return  # a built-in one may have been built again
    for name, wanted in about["files"].items():
        path = folder / name
        if path.is_file() and file_sha256(path) != wanted:
            raise changed(folder)


def named_banks(run: Run, names: Sequence[str] | None = None) -> dict[str, BankAbout]:
    """What the manifest says of the banks a run was scored with, all or the named ones.

    Raises:
        InputError: the run was not scored with a bank of that name.
        RunError: a bank's folder has changed since the scan.
    """
    used = {b["name"]: b for b in run.manifest["banks"]}
    for name in names or used:
        if name not in used:
            raise InputError(f"--bank {name}: the run was scored with {', '.join(used)}{did_you_mean(name, used)}")
        if used[name]["path"]:
            _check_unchanged(bank_folder(run, used[name]), used[name])
    return {name: used[name] for name in names or used}


def excluded_features(about: BankAbout) -> list[int]:
    """Features that count nothing under a bank, of what the manifest says of it."""
    return [f["feature"] for f in about["excluded_features"]]


def check_exclusions(wanted: Sequence[str], known: Iterable[str], target: str, d_sae: int) -> None:
    """Refuse excluded features that there are not.

    Args:
        wanted: of `--exclude-feature`, see `config.excluded`.
        known: banks that may be named.
        target: its name.
        d_sae: features of its SAE.

    Raises:
        InputError: no such bank or feature.
    """
    known = list(known)
    for text in wanted:
        name, number = excluded(text)
        if name and name not in known:
            raise InputError(
                f"--exclude-feature {text}: there is no bank {name} here; use {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
        if number >= d_sae:
            raise InputError(f"--exclude-feature {text}: the SAE of {target} has features 0 to {d_sae - 1}")


def exclude(banks: Sequence[Bank], wanted: Sequence[str], others: Iterable[str] = ()) -> list[Bank]:
    """The banks without some features.

    Args:
        wanted: of `--exclude-feature`, see `config.excluded`.
        others: banks that may be named too, though they are not used now: a settings file is for several scans.

    Raises:
        InputError: no such bank or feature.
    """
    known = dict.fromkeys([*(bank.name for bank in banks), *others])
    check_exclusions(wanted, known, banks[0].target["name"], banks[0].d_sae)
    given = [excluded(text) for text in wanted]
    return [bank.excluding([number for name, number in given if name in ("", bank.name)]) for bank in banks]


def changed(place: Path | str) -> RunError:
    """The error for a bank that is not the one the run was scored with."""
    return RunError(f"{place}: the bank has changed since the scan; scan again")


def said_without(features: Sequence[ExcludedFeature]) -> str:
    """What is said of features that count nothing."""
    named = ", ".join(f"{f['feature']} ({f['label']})" if f["label"] else str(f["feature"]) for f in features)
    return f"without the feature{'s' if len(features) > 1 else ''} {named}"


def exclusions_said(banks: Iterable[BankAbout]) -> list[str]:
    """The same for each bank of a manifest that leaves features out."""
    return [f"{b['name']}, {said_without(b['excluded_features'])}" for b in banks if b["excluded_features"]]
