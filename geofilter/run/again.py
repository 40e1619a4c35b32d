"""A finished run scored again from its stored features, under other banks than before. No model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from geofilter.bank.about import BankAbout
from geofilter.bank.bank import Bank
from geofilter.errors import InputError, RunError
from geofilter.run.banks import find_banks
from geofilter.run.manifest import Manifest
from geofilter.run.score import score
from geofilter.run.store import Run
from geofilter.text import did_you_mean

FILTER = "filter"
"""the command that scores a run under some of its banks"""


def score_again(
    run: Run,
    banks: Sequence[Bank],
    about: Callable[[], list[BankAbout]],
    command: str,
    first: Callable[[], object] = lambda: None,
) -> None:
    """Score a run under other banks; all that reads it then goes by these. The scan's are kept in mind.

    Args:
        about: what the manifest is to say of the banks; asked at the end.
        command: that goes on where this was stopped, see `manifest.Started`.
        first: what else has to be there before the run is complete again.

    Raises:
        RunError, BankError, InputError: see `score`; another process holds the run.
    """
    with run.lock():
        manifest = run.manifest
        manifest.setdefault("scanned_banks", manifest["banks"])
        # As in a scan: not complete until all of what scoring writes is there.
        unfinished: Manifest = {**manifest, "complete": False, "scoring": command}
        run.write_manifest(unfinished)
        first()
        scored = score(run, banks, manifest["scorer"], [f["path"] for f in manifest["data"]])
        finished: Manifest = {**manifest, "complete": True, "banks": about(), "files": run.sums(), **scored}
        finished.pop("scoring", None)
        run.write_manifest(finished)


def score_under(run: Run, names: Sequence[str]) -> bool:
    """Score a run under some banks of its scan alone.

    Returns:
        False where it was scored under them already.

    Raises:
        InputError: the scan had no bank of that name.
        RunError: the bank is gone or has changed, or another process holds the run.
    """
    manifest = run.manifest
    scanned = {bank["name"]: bank for bank in manifest.get("scanned_banks", manifest["banks"])}
    for name in names:
        if name not in scanned:
            raise InputError(
                f"--bank {name}: the run was scanned with {', '.join(scanned)}{did_you_mean(name, scanned)}"
            )
    wanted = [name for name in scanned if name in names]
    if manifest["complete"] and [bank["name"] for bank in manifest["banks"]] == wanted:
        return False
    found, gone = find_banks(run, scanned=True)
    banks = [bank for bank in found if bank.name in wanted]
    if len(banks) < len(wanted):
        raise RunError(f"{'; '.join(gone)}; scan again")
    score_again(run, banks, lambda: [scanned[name] for name in wanted], FILTER)
    return True
