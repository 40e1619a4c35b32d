"""The scan: read, encode, shard, score. Interrupted at any point, the same call goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from geofilter.apart import end_unused
from geofilter.bank.bank import Bank
from geofilter.config import ScanConfig
from geofilter.encode.loss import LossReader
from geofilter.encode.model import computes_on_gpu
from geofilter.encode.pair import require_pair
from geofilter.files import Notify, silent
from geofilter.run.store import Run
from geofilter.scanning.begun import Claimed, Clock, Loader, check, claimed, complete, loss_reader
from geofilter.scanning.order import Order
from geofilter.scanning.plan import Plan, Ranges, drafted
from geofilter.scanning.present import present
from geofilter.scanning.ready import Job
from geofilter.scanning.shards import Encoder, Progress, Telling, encode_shards, shares_of
from geofilter.scanning.spread import HERE, RAY, Spread


def scan(
    config: ScanConfig,
    run_dir: Path | None = None,
    *,
    spread: Spread = HERE,
    offline: bool = False,
    notify: Notify = silent,
    started: Progress = silent,
    progress: Progress = silent,
    expected: Callable[[int], None] = silent,
) -> Run:
    """Encode and score the rows of `config.data`; return the finished run.

    Args:
        run_dir: run folder; by default `.geofilter/<data stem>-<fingerprint>` of the working folder.
        spread: what makes the shards.
        notify: told one line at a time what takes long.
        started: told once how many rows there are, and how many of them earlier shards hold already.
        progress: told rows and tokens done, after each batch.
        expected: told the tokens that are to be encoded in all, as far as can be judged, from shard to shard better.

    Raises:
        InputError, TargetError, BankError, RunError: see `errors`.
    """
    clock, telling = Clock(), Telling(notify, started, progress, expected)
    check(config)
    draft = drafted(config)
    begun = claimed(config, draft.files, run_dir, offline=offline, notify=notify)
    clock.lap("prepare")
    with begun.run.lock():
        plan = draft.write(begun.run.path)
        begun.write_manifest(notify)
        reader = Loader(begun.target, config, notify)
        if spread.engine == RAY:
            require_pair(begun.target, config.loading, notify)
        banks = begun.banks(reader, notify)
        clock.lap("load")
        asked = (0, plan.n_shards)
        found = present(begun.run, plan, begun.fingerprint, asked, notify, fail=config.on_error == "fail")
        started(plan.n_lines([asked]), found.lines)
        if spread.engine == RAY:
            reader.drop()
            tokens = _on_ray(begun, plan, found.todo, banks, spread, telling, offline)
        else:
            loss = loss_reader(config, begun.target, offline, notify)
            tokens = encode_here(begun, plan, found.todo, banks, reader, telling, loss)
        end_unused()
        clock.lap("encode")
        return complete(begun, banks, clock, tokens)


def encode_here(
    begun: Claimed, plan: Plan, todo: Ranges, banks: list[Bank], reader: Loader, telling: Telling,
    loss: Callable[[], LossReader] | None,
) -> int:  # fmt: skip
    """Make shards in this process; return the tokens encoded.

    Args:
        loss: see `loss_reader`.

    Raises:
        InputError, TargetError, RunError: see `shards.encode_shards`.
    """
    config = begun.config
    shares = None if config.no_token_shares else shares_of(banks, config.scorer)
    encoder = Encoder(
        begun.files, reader, shares, fail=config.on_error == "fail", progress=telling.progress, loss=loss
    )  # fmt: skip
    apart = begun.target.model_dir if computes_on_gpu(config.loading) else None
    job = Job.of(config, begun.files, plan.path, todo, begun.fingerprint)
    return encode_shards(job, begun.run, encoder, reader, telling, apart)


def _on_ray(
    begun: Claimed, plan: Plan, todo: Ranges, banks: list[Bank], spread: Spread, telling: Telling, offline: bool
) -> int:
    if not todo:
        return 0
    from geofilter.scanning.on_ray import encode_on_ray

    order = Order.of(begun.config, begun.manifest, banks, offline=offline)
    order.write(begun.run, banks)
    return encode_on_ray(begun.run, plan, todo, order, spread, telling)
