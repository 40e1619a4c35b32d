"""The labelled sets of the score benchmark, their split, and their stored features.

Every row is encoded once, by an ordinary scan; everything else works on what the scan stored. A set is split by
prompt into a part for development and a part that is set aside: candidates are compared on the first, and the second
is scored once, at the end, with what was chosen.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples import evaluation_sets
from geofilter.bank.features import Pooled
from geofilter.config import Loading, ScanConfig, TargetChoice
from geofilter.encode.loss import LossReader
from geofilter.encode.tokens import Encoded, encode_rows
from geofilter.encode.unprompted import encode_unprompted
from geofilter.rows.records import Row, read_rows
from geofilter.rows.shipped import domain_files
from geofilter.scanning.scan import scan
from geofilter.target.resolve import resolve

MODEL = "smollm2-135m"
READING = Loading("cpu", "float32")
PER_SIDE = 450
"""rows of each label at most, both parts together"""


@dataclass(frozen=True)
class Labelled:
    """Labelled rows with their stored features."""

    rows: list[Row]
    bad: np.ndarray
    """(n,) bool"""
    group: np.ndarray
    """(n,) rows with the same one are never split: the prompt or the pair"""
    pooled: Pooled
    loss: np.ndarray | None = None
    """(n, 2) loss per token with the prompt and without it, see `Shard.loss`; None where it was not asked for"""

    @property
    def texts(self) -> list[str]:
        """The responses."""
        return [row.response for row in self.rows]

    def take(self, rows: np.ndarray) -> Labelled:
        """The given rows."""
        loss = None if self.loss is None else self.loss[rows]
        return Labelled([self.rows[i] for i in rows], self.bad[rows], self.group[rows], self.pooled.take(rows), loss)

    def part(self, aside: bool) -> Labelled:
        """Development rows, or those set aside; a third of the groups, by their hash."""
        is_aside = np.array(
            [int(hashlib.sha256(f"aside {g}".encode()).hexdigest()[:8], 16) % 3 == 0 for g in self.group]
        )
        return self.take(np.flatnonzero(is_aside == aside))


@dataclass(frozen=True)
class Source:
    """A row before it is encoded."""

    row: Row
    bad: bool
    group: str


def unread(path: Path, is_bad: bool) -> list[Source]:
    """The rows of a file that the SAE's training did not read, shuffled."""
    found = [r for r in read_rows(path) if isinstance(r, Row) and not evaluation_sets.in_training_half(r.sha256)]
    random.Random(0).shuffle(found)
    return [Source(r, is_bad, str(r.record.get("pair") or r.prompt or r.sha256)) for r in found]


def _files(data: Path, bad: str, good: str) -> Iterator[Source]:
    """Rows of two files; both answers to a prompt are kept together."""
    kept = {is_bad: unread(data / f"{name}.jsonl", is_bad) for name, is_bad in ((bad, True), (good, False))}
    both = {s.group for s in kept[True]} & {s.group for s in kept[False]}
    for side in kept.values():
        side.sort(key=lambda s: (s.group not in both, s.group if s.group in both else ""))
        yield from side[:PER_SIDE]


def domains() -> Iterator[Source]:
    """The paired answers on health, career and law that ship with the package; no bank is made from them."""
    for path in domain_files():
        for row in read_rows(path):
            assert isinstance(row, Row)
            yield Source(row, row.record["label"] == "misaligned", str(row.record["pair"]))


SETS: dict[str, Callable[[Path], Iterator[Source]]] = {
    **{name: (lambda data, files=files: _files(data, *files)) for name, files in evaluation_sets.SETS.items()},
    "toxic sentences / their rewrites": lambda data: _files(data, "paradetox_toxic_text", "paradetox_neutral_text"),
    "advice, same question": lambda data: domains(),
}


def read(name: str, data: Path, work: Path, loss: bool = False) -> Labelled:
    """A set with its stored features; scanned if it has not been."""
    return encoded(name, list(SETS[name](data)), work, loss=loss)


def encoded(name: str, sources: list[Source], work: Path, max_tokens: int = 1024, loss: bool = False) -> Labelled:
    """Rows with their stored features, from a scan that is kept in `work`.

    Args:
        loss: and with their loss per token, which is kept there too.
    """
    stem = "".join(c if c.isalnum() else "-" for c in name)
    path = work / f"{stem}.jsonl"
    text = "".join(json.dumps(dict(s.row.record), ensure_ascii=False) + "\n" for s in sources)
    if not path.is_file() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")
    kept = f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    run_folder = work / f"{kept}.run"
    config = ScanConfig((str(path),), TargetChoice(MODEL), READING, max_tokens=max_tokens)
    run = scan(config, run_folder, notify=print)
    if run.manifest["counts"]["quarantined"]:
        raise SystemExit(f"{path}: rows were quarantined; the labels would not line up")
    return Labelled(
        [s.row for s in sources], np.array([s.bad for s in sources]), np.array([s.group for s in sources]),
        Pooled.concat([shard.pooled for shard in run.shards()]),
        _losses([s.row for s in sources], work / f"{kept}.loss.npy", max_tokens) if loss else None,
    )  # fmt: skip


def _losses(rows: list[Row], path: Path, max_tokens: int) -> np.ndarray:
    """What `scan --with-loss` would store of rows (n, 2), without reading their features again."""
    if not path.is_file():
        print(f"{path}: reading {len(rows):,} rows with the whole model ...", flush=True)
        reader = LossReader(resolve(TargetChoice(MODEL)), READING, offline=True, notify=print)
        coded = [one for one in encode_rows(rows, reader.tokenizer, max_tokens) if isinstance(one, Encoded)]
        np.save(path, reader.both(coded, encode_unprompted(rows, coded, reader.tokenizer, max_tokens)))
    return np.load(path, allow_pickle=False)
