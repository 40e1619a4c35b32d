"""A bank with names for its features: as a judge gives them to what the target shows, or as Neuronpedia has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from geofilter.bank.bank import ABOUT, ARRAYS, Bank
from geofilter.bank.feature_names import RIGHT, Names, usable
from geofilter.build.banks import find
from geofilter.build.contexts import FEWEST, FEWEST_TRIED, ContextCollector, Contexts, Drawn
from geofilter.build.feature_naming import Journal, named_by_judge, requests
from geofilter.build.neuronpedia import export_files, fetched, names_from
from geofilter.config import Loading, TargetChoice
from geofilter.encode.model import precision_here
from geofilter.encode.pair import checked_reader
from geofilter.encode.reader import FeatureReader
from geofilter.encode.tokens import Encoded, encode_rows
from geofilter.errors import InputError, TargetError
from geofilter.files import Notify, make_folder
from geofilter.rows.records import Row, read_rows
from geofilter.target.resolve import resolve
from geofilter.target.target import Target
from geofilter.text import counted
from geofilter.together import mode_of

if TYPE_CHECKING:
    from geofilter.judge.client import Judge

MAX_TOKENS = 256
"""of a row that are read"""
AT_ONCE = 64
"""rows that are read at once"""
JOURNAL = "naming.jsonl"
"""in the bank's folder while a judge is asked"""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """How features are named by a judge."""

    judge: Judge
    data: Sequence[Path]
    """texts that the features are looked at in, best none that the SAE was trained on"""
    rows: int = 400
    """of each file, the first ones"""
    also: Sequence[int] = ()
    """features that are named beside the bank's toxic and aligned ones"""
    of: str | None = None
    """fingerprint of the target that these are of"""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Export:
    """Names as Neuronpedia has them."""

    path: Path | None = None
    """file or folder of its export; fetched where None"""


def name_bank(
    name: str,
    out: Path,
    choice: TargetChoice,
    loading: Loading,
    how: Judged | Export,
    *,
    offline: bool = False,
    notify: Notify = print,
) -> tuple[Bank, Names]:
    """Write a copy of a bank whose features have names, and give it and all names that were tried.

    Args:
        name: folder of the bank, or a built-in name.
        out: folder of the copy; its name is the copy's.

    Raises:
        InputError: data, or an export, that cannot be used.
        TargetError: no such target, or a judge that cannot be reached.
        BankError: no such bank, made for another target, or it cannot be written.
    """
    target = resolve(choice, offline=offline, notify=notify)
    if isinstance(how, Judged) and how.of not in (None, target.fingerprint):
        raise InputError(f"--run: is of another target than {target.name}; give a run that was scanned with this one")
    readers: list[FeatureReader] = []

    def reader() -> FeatureReader:
        if not readers:
            readers.append(checked_reader(target, loading, notify))
        return readers[0]

    (bank,) = find([name], target, precision_here(loading), reader, notify)
    if isinstance(how, Export):
        names, read = _exported(how, target, bank.d_sae, offline, notify), []
    else:
        features = sorted({*bank.toxic.tolist(), *bank.aligned.tolist(), *how.also})
        drawn = drawn_from(contexts(reader(), features, _rows(how, notify)), how.seed, notify)
        make_folder(out)
        journal = Journal(out / JOURNAL, how.judge.model)
        notify(f"{counted(requests(drawn), 'request')} at most to {how.judge.base_url}")
        names, read = named_by_judge(drawn, how.judge, journal, notify), list(how.data)
    named = replace(bank, name=out.resolve().name, meta={**bank.meta, "names": names})
    # The bank's files hold beginnings of rows, so nobody may read the copy who may not read them.
    assert bank.folder is not None  # it was found in one
    named.save(out, mode_of([bank.folder / ABOUT, bank.folder / ARRAYS, *read]))
    if isinstance(how, Judged):
        (out / JOURNAL).unlink(missing_ok=True)
    return named, names


def _exported(how: Export, target: Target, d_sae: int, offline: bool, notify: Notify) -> Names:
    if how.path is not None:
        return names_from(export_files(how.path), target.neuronpedia, d_sae)
    if target.neuronpedia is None:
        raise TargetError(
            f"{target.name}: it is not known where its SAE is on Neuronpedia; name features with --judge, or give an "
            "export with --names"
        )
    return names_from(fetched(target.neuronpedia, offline=offline, notify=notify), target.neuronpedia, d_sae)


def _rows(how: Judged, notify: Notify) -> Iterator[Row]:
    for path in how.data:
        left = 0
        for row in islice(read_rows(path), how.rows):
            if isinstance(row, Row):
                yield row
            else:
                left += 1
        if left:
            notify(f"{path}: {counted(left, 'row')} cannot be read and are left out")


def contexts(reader: FeatureReader, features: Sequence[int], rows: Iterator[Row]) -> Contexts:
    """Where features fire in rows; rows that cannot be tokenised are left out.

    Raises:
        InputError: there are no rows.
    """
    collector = ContextCollector(features, reader.encoder.d_sae)
    while batch := list(islice(rows, AT_ONCE)):
        tokens = reader.readable(encode_rows(batch, reader.tokenizer, MAX_TOKENS))
        read = [(row, one.cut()) for row, one in zip(batch, tokens, strict=True) if isinstance(one, Encoded)]
        if read:
            collector.start([row for row, _ in read], [one for _, one in read])
            reader.read([one for _, one in read], observe=collector.observe)
    found = collector.contexts()
    if not found.rows:
        raise InputError("--data: no row of it can be used; give rows of any shape that scan reads")
    return found


def drawn_from(found: Contexts, seed: int, notify: Notify) -> dict[int, Drawn]:
    """What each feature is named by and tried on; those that fire too rarely are left out.

    Raises:
        InputError: all of them are.
    """
    drawn = {f: of for f in found.features if (of := found.drawn(f, seed)) is not None}
    if not drawn:
        raise InputError(
            f"--data: no feature fires in {FEWEST} rows and again in {FEWEST_TRIED} others; give more text, or more "
            "--rows"
        )
    if rare := len(found.features) - len(drawn):
        notify(f"{counted(rare, 'feature')} of {len(found.features):,} fire too rarely in these texts to be named")
    return drawn


def said(names: Names) -> str:
    """How many features have a name, and what the names are worth."""
    tried = sorted(right for n in names["features"] if (right := n.get("right")) is not None)
    used = len(usable(names))
    if not tried:
        return f"{counted(used, 'feature')} named, by {names['by']}; how far the names are right was not tried"
    return (
        f"{used:,} of {counted(len(names['features']), 'feature')} named; the others' names are right in less than "
        f"{RIGHT:.0%} of the pieces they were tried on (median of all {tried[len(tried) // 2]:.2f}, guessing 0.50)"
    )
