"""The banks that are asked for: a folder, or a built-in one that ships, is cached, or is built now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from geofilter.arrays import digests
from geofilter.bank.about import Source
from geofilter.bank.bank import Bank
from geofilter.bank.built_in import built_in_folder, built_in_sources
from geofilter.build.build import BuildOptions, Ordinary, build, read_ordinary
from geofilter.build.seeds import Seed, SeedFiles, built_in_seeds
from geofilter.config import BUILT_IN, Loading, TargetChoice
from geofilter.encode.model import precision_here
from geofilter.encode.pair import checked_reader
from geofilter.encode.reader import FeatureReader
from geofilter.errors import BankError
from geofilter.files import Notify, made_once
from geofilter.target import kept
from geofilter.target.resolve import resolve
from geofilter.target.target import Target
from geofilter.text import did_you_mean
from geofilter.together import mode_of


def find(
    names: Sequence[str], target: Target, precision: str, make_reader: Callable[[], FeatureReader], notify: Notify
) -> list[Bank]:
    """The banks to score with: built-in names or folders; the two built-in ones when none is named.

    A built-in bank comes from the package when it ships for this target, else from the cache, else it is
    built now and cached, one for each way of reading the target.

    Args:
        precision: see `model.precision_here`.

    Raises:
        BankError: not found, or made for another target.
    """
    banks = []
    ordinary: list[Ordinary] = []
    """the background, once a bank has needed it"""
    for name in names or BUILT_IN:
        if name not in BUILT_IN:
            banks.append(bank := _from_folder(name, target))
            if not bank.learnt_known and bank.name not in BUILT_IN:
                notify(
                    f"{name}: a bank of an earlier version, which does not say what rows it was learnt from: they are "
                    "counted like all others; build it again"
                )
            continue

        def make(folder: Path, name: str = name) -> None:
            notify(f"building the bank {name} for {target.name}, once ...")
            reader = make_reader()
            ordinary.extend([] if ordinary else [read_ordinary(reader)])
            built = build(
                name, target, built_in_seeds(name), reader, built_in_sources(name), BuildOptions(centred=True),
                ordinary=ordinary[0], notify=notify,
            )  # fmt: skip
            built.save(folder)
            kept.record(folder)

        place = bank_folder_for(name, target, precision)
        path = made_once(place, lambda folder: (folder / "bank.json").is_file(), make, notify)
        kept.check(path, kept.recorded(path))
        banks.append(Bank.load(path, target.fingerprint, target.llama_scope_gate))
    _refuse_same([bank.name for bank in banks])
    return banks


def names_of(banks: Sequence[str], target: Target) -> list[str]:
    """What the banks that `find` would give are called; none is built.

    Raises:
        BankError: one is not there, damaged, made for another target, or two have the same name.
    """
    names = [name if name in BUILT_IN else _from_folder(name, target).name for name in banks or BUILT_IN]
    _refuse_same(names)
    return names


def _from_folder(name: str, target: Target | None = None) -> Bank:
    """A bank that is no built-in one."""
    path = Path(name)
    if not path.exists():
        raise BankError(
            f"--bank {name}: neither a built-in bank ({', '.join(BUILT_IN)}) nor a folder{did_you_mean(name, BUILT_IN)}"
        )
    return Bank.load(path, target.fingerprint, target.llama_scope_gate) if target else Bank.load(path)


def _refuse_same(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise BankError("two banks have the same name; rename one of their folders' bank.json")


def bank_folder_for(name: str, target: Target, precision: str) -> Path:
    """Folder of a built-in bank for a target, see `built_in.built_in_folder`."""
    return built_in_folder(name, target.name, target.fingerprint, precision, built_in_sources(name))


def build_from_files(
    files: SeedFiles,
    out: Path,
    choice: TargetChoice,
    loading: Loading,
    options: BuildOptions,
    *,
    prior: bool = True,
    offline: bool = False,
    notify: Notify = print,
) -> Bank:
    """Build a bank from two files of labelled rows and save it at `out`.

    Args:
        prior: build on the weights of the built-in banks, which are made for the target if they are not there yet.

    Raises:
        InputError, TargetError, BankError: see `SeedFiles.read`, `resolve.resolve` and `build`.
    """
    seeds = files.read()
    target = resolve(choice, offline=offline, notify=notify)
    bank = built(out, target, loading, seeds, files.sources(seeds), options, prior, notify)
    bank.save(out, mode_of([files.bad, files.good]))
    return bank


def built(
    out: Path,
    target: Target,
    loading: Loading,
    seeds: Sequence[Seed],
    sources: dict[str, Source],
    options: BuildOptions,
    prior: bool,
    notify: Notify,
) -> Bank:
    """A bank learnt from seed rows of a user's.

    Args:
        prior: see `build_from_files`.

    Raises:
        TargetError, BankError: see `build`.
    """
    reader = checked_reader(target, loading, notify)
    priors = find((), target, precision_here(loading), lambda: reader, notify) if prior else []
    known = [Ordinary(p.reference, p.rate) for p in priors if p.rate.any()]  # which earlier versions do not say
    bank = build(
        out.resolve().name, target, seeds, reader, sources, replace(options, priors=priors),
        ordinary=known[0] if known else None, notify=notify,
    )  # fmt: skip
    return replace(bank, learnt_from=digests(seed.row.content_sha256 for seed in seeds))


def open_bank(
    name: str, choice: TargetChoice, loading: Loading, offline: bool, notify: Notify, required: bool = False
) -> Bank:
    """A bank by folder or built-in name.

    Args:
        required: check that it is for the chosen target; a built-in one always needs a target.

    Raises:
        BankError, TargetError: not found, or made for another target.
    """
    if name not in BUILT_IN and not required:
        return _from_folder(name)
    target = resolve(choice, offline=offline, notify=notify)
    return find(
        [name],
        target,
        precision_here(loading),
        lambda: checked_reader(target, loading, notify),
        notify,
    )[0]
