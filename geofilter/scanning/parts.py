"""A scan by several processes that share a run's folder, each with a stretch of its shards: a Slurm array, a matrix of
CI jobs, the GPUs of one machine. The first one plans, and finds or builds the banks; the last one scores.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from geofilter.apart import end_unused
from geofilter.bank.bank import Bank
from geofilter.config import BUILT_IN, ScanConfig
from geofilter.errors import RunError
from geofilter.files import Notify, atomic, locked, make_folder, silent
from geofilter.run.banks import exclude
from geofilter.run.names import MANIFEST, PLAN, WORK
from geofilter.run.store import Run
from geofilter.scanning.begun import Claimed, Clock, Loader, check, claimed, complete, loss_reader
from geofilter.scanning.order import ORDER, Order
from geofilter.scanning.plan import Plan, Ranges, drafted
from geofilter.scanning.present import absent, present
from geofilter.scanning.scan import encode_here
from geofilter.scanning.shards import Progress, Telling
from geofilter.scanning.spread import Part

WAIT = 24 * 3600.0
"""seconds that a process waits for the one that plans and builds the banks"""


def scan_part(
    config: ScanConfig,
    run_dir: Path,
    part: Part,
    *,
    offline: bool = False,
    notify: Notify = silent,
    started: Progress = silent,
    progress: Progress = silent,
    expected: Callable[[int], None] = silent,
) -> Run:
    """Make one part of a scan's shards; score all of them if no other is missing.

    Args:
        run_dir: the folder of the run, which all parts share.
        part: which one.

    Returns:
        the run, which is not complete where parts are missing.

    Raises:
        InputError, TargetError, BankError, RunError: see `errors`.
    """
    clock, telling = Clock(), Telling(notify, started, progress, expected)
    make_folder(run_dir / WORK)
    with locked(run_dir / WORK / "begin.lock", f"{run_dir}: another process has been beginning this run for a day; "
                "end it, and start the scan again", wait=WAIT):  # fmt: skip
        found = _found(config, run_dir, offline, notify)
    if found is None:
        shutil.rmtree(run_dir / WORK, ignore_errors=True)
        notify(f"note: {Run(run_dir).called} is complete already")
        return Run.open(run_dir)
    (begun, order), plan = found, Plan(run_dir / PLAN)
    clock.lap("prepare")
    taken = f"{begun.run.called}: part {part} is being scanned by another process; wait for it, or give another part"
    with locked(run_dir / WORK / f"part-{part.number}-of-{part.of}.lock", taken):
        numbers = part.numbers(plan.n_shards)
        lacks = present(begun.run, plan, begun.fingerprint, numbers, notify, fail=config.on_error == "fail")
        started(plan.n_lines([numbers]), lacks.lines)
        reader = Loader(begun.target, config, notify)
        banks = _banks(order, begun.run)
        clock.lap("load")
        loss = loss_reader(config, begun.target, offline, notify)
        tokens = encode_here(begun, plan, lacks.todo, banks, reader, telling, loss)
        end_unused()
        clock.lap("encode")
    if absent(begun.run, plan):
        return begun.run
    try:
        with begun.run.lock():
            if begun.run.mirror is not None:
                begun.run.mirror.pull(parts=True)
            if begun.run.manifest["complete"]:  # another part was done at the same moment
                return begun.run
            return complete(begun, banks, clock, tokens)
    except RunError as error:
        if "is writing this run" not in str(error):
            raise
        notify("note: another process completes the run")
        return begun.run


def _found(config: ScanConfig, run_dir: Path, offline: bool, notify: Notify) -> tuple[Claimed, Order] | None:
    """What another part has begun, or this one begins now; None of a run that is complete.

    Raises:
        RunError: the folder holds another run.
    """
    run = Run(run_dir)
    told = {ORDER, PLAN} if run.mirror is None else run.mirror.listed()
    if run.mirror is not None:
        run.mirror.pull()
        for name in told & {ORDER, PLAN}:
            run.file(name)
    if all((run_dir / name).is_file() for name in (MANIFEST, PLAN)):
        manifest = run.manifest
        if [info["path"] for info in manifest["data"]] == list(config.data):
            begun = claimed(config, manifest["data"], run_dir, offline=offline, notify=notify, parts=False)
            if manifest["complete"]:
                return None
            if (run_dir / ORDER).is_file():
                order = Order.read(run)
                _refuse_other_options(run, order.config, config)
                return begun, order
    check(config)
    draft = drafted(config)
    begun = claimed(config, draft.files, run_dir, offline=offline, notify=notify, parts=False)
    draft.write(run_dir)
    banks = begun.banks(Loader(begun.target, config, notify), notify)
    order = Order.of(config, begun.manifest, banks, offline=offline)
    order.write(run, banks)
    begun.run.write_manifest(begun.manifest)
    return begun, order


def _refuse_other_options(run: Run, begun: ScanConfig, asked: ScanConfig) -> None:
    """Refuse what would be scored otherwise than the parts before it.

    Raises:
        RunError: which option differs.
    """
    for option, name in (("--bank", "banks"), ("--scorer", "scorer"), ("--exclude-feature", "exclude_features")):
        was, now = getattr(begun, name), getattr(asked, name)
        if was != now:
            said = [" ".join(value) if isinstance(value, tuple) else value for value in (was, now)]
            raise RunError(
                f"{run.called}: was begun with {option} {said[0] or '(none)'}, not {said[1] or '(none)'}; give each "
                "part the same options, or another --run"
            )


def _banks(order: Order, run: Run) -> list[Bank]:
    return exclude(order.open_banks(run), order.config.exclude_features, BUILT_IN)


def merge(run_dir: Path, others: Sequence[Path] = (), notify: Notify = silent) -> Run:
    """Complete a run whose parts were made by several processes.

    Args:
        others: further run folders of the same scan, where the processes had no folder in common; their shards are
            copied.

    Raises:
        RunError: a folder is of another scan, a shard is missing, or two of the same number differ.
    """
    clock, run = Clock(), Run(run_dir)
    if run.mirror is not None:
        run.mirror.pull(parts=True)
        run.file(PLAN)
    if not (run_dir / MANIFEST).is_file():
        raise RunError(f"{run_dir}: not a run folder (no manifest.json); make one with geofilter scan --shard 1/N")
    with run.lock():
        manifest = run.manifest
        if manifest["complete"] and not others:
            notify(f"note: {run.called} is complete already")
            return run
        for other in others:
            _take(run, other, notify)
        plan, order = Plan(run_dir / PLAN), Order.read(run)
        if lacks := absent(run, plan):
            raise RunError(_missing(run, plan, lacks))
        config = replace(order.config, data=tuple(info["path"] for info in manifest["data"]))
        begun = claimed(config, manifest["data"], run_dir, offline=order.offline, notify=notify)
        clock.lap("prepare")
        return complete(begun, _banks(order, run), clock, 0)


def _take(run: Run, other: Path, notify: Notify) -> None:
    """Copy the shards of another folder of the same scan.

    Raises:
        RunError: it is of another scan, or holds another shard of a number that is here.
    """
    source = Run(other)
    if not (other / MANIFEST).is_file():
        raise RunError(f"{other}: not a run folder (no manifest.json)")
    if source.manifest["fingerprint"] != run.manifest["fingerprint"]:
        raise RunError(f"{other}: is of another scan than {run.path}; give folders of one scan")
    for path in source.parts:
        place = run.path / path.relative_to(other)
        if not place.is_file():
            with path.open("rb") as handle, atomic(place, run.mode) as out:
                shutil.copyfileobj(handle, out)
        elif place.read_bytes() != path.read_bytes():
            raise RunError(f"{path.name}: is in {run.path} and, not the same, in {other}; remove the wrong one")
        else:
            notify(f"note: {path.name} is in {run.path} and in {other}; the one is as the other")


def _missing(run: Run, plan: Plan, lacks: Ranges) -> str:
    """What is said of missing shards: by the parts that they are of, where it is known how many there were to be."""
    n = sum(stop - start for start, stop in lacks)
    divided = {int(m[1]) for path in (run.path / WORK).glob("part-*.lock")
               if (m := re.fullmatch(r"part-\d+-of-(\d+)\.lock", path.name))}  # fmt: skip
    first = plan[lacks[0][0]]
    path = run.manifest["data"][first.file]["path"]
    said = f"{run.called}: {n:,} of {plan.n_shards:,} shards are missing, from {path}, line {first.line + 1:,} on"
    if len(divided) == 1:
        parts = [Part(k, of) for of in divided for k in range(1, of + 1)]
        lack = [str(p) for p in parts if any(_meet(p.numbers(plan.n_shards), stretch) for stretch in lacks)]
        return f"{said}; scan again: {' '.join(f'--shard {p}' for p in lack)}"
    return f"{said}; the same geofilter scan without --shard makes them"


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]
