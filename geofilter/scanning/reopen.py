"""A finished run's target and banks, found again and checked to be what the run was made with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from geofilter.bank.bank import Bank
from geofilter.build.banks import find
from geofilter.config import Loading, TargetChoice
from geofilter.encode.model import precision_here
from geofilter.encode.reader import FeatureReader
from geofilter.errors import RunError
from geofilter.files import Notify
from geofilter.run.banks import bank_folder, excluded_features, named_banks
from geofilter.run.manifest import Encoding
from geofilter.run.store import Run
from geofilter.target.resolve import resolve
from geofilter.target.target import Target

CLOSE = {"float32": 0.05}
ROUGHLY = 0.5
"""difference of a row's standard score up to which it is the same, by the type that the model was held in: other rows
in its pass, and another machine, round otherwise"""


def same_score(now: float, stored: float, encoding: Encoding) -> bool:
    """Whether a standard score computed now is the one that a scan stored, but for rounding."""
    return abs(now - stored) <= CLOSE.get(encoding["dtype"], ROUGHLY)


def target_of(run: Run, notify: Notify) -> tuple[Target, Loading]:
    """The run's target, without the network, and the dtypes it was read in.

    Raises:
        RunError: model or SAE has changed since the scan.
        TargetError: files that are gone.
    """
    manifest = run.manifest
    about, encoding = manifest["target"], manifest["encoding"]
    target = resolve(TargetChoice.from_json(about["choice"]), offline=True, notify=notify)
    if target.fingerprint != about["fingerprint"]:
        raise RunError(f"{run.path}: model or SAE has changed since the scan; scan again")
    # The dtypes of the scan, not what `auto` would be on this machine: the banks are the ones they name.
    loading = replace(Loading(**manifest["loading"]), dtype=encoding["dtype"], sae_dtype=encoding["sae_dtype"])
    return target, loading


def banks_of(
    run: Run,
    target: Target,
    loading: Loading,
    make_reader: Callable[[], FeatureReader],
    notify: Notify,
    names: Sequence[str] | None = None,
) -> list[Bank]:
    """The banks the run was scored with, all or the named ones.

    Args:
        make_reader: called when a built-in bank is no longer in the cache and has to be built again.

    Raises:
        InputError: the run was not scored with a bank of that name.
        RunError: a bank's folder has changed since the scan.
    """
    used = named_banks(run, names)
    sources = [str(bank_folder(run, about)) if about["path"] else name for name, about in used.items()]
    found = find(sources, target, precision_here(loading), make_reader, notify)
    return [bank.excluding(excluded_features(used[bank.name])) for bank in found]
