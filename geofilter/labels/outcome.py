"""What labelling came to: whether the run is scored with a bank learnt from its labels, and what to say of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from geofilter.bank.about import BankCheck
from geofilter.bank.topics import MIN_ROWS
from geofilter.labels.compare import Compared
from geofilter.labels.labelling import COMPARED, CutNow, Labelling
from geofilter.run.labelled import MIN_SIDE
from geofilter.text import inert


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What `conclude` did."""

    run: str
    bad: int
    good: int
    check: BankCheck | None = None
    """of the bank learnt; None with too few labels to learn from"""
    before: float = 0.0
    """AUROC of the scan's scores on the labelled rows"""
    applied: bool = False
    """the run is scored with the bank now"""
    removed: int = 0
    """rows that `COMPARED` removed before"""
    same: int = 0
    """of them, rows that it still removes"""
    now: CutNow | None = None
    """what `COMPARED` removes by the bank learnt"""
    known: int = 0
    """labelled rows that a bank of the scan was learnt from too"""
    compared: Compared | None = None
    """the bank learnt beside the scan's scores; None where nothing was learnt, and under a scorer other than ridge"""
    topics: tuple[str, ...] = ()
    """that the bank tells apart"""
    left_out: tuple[str, ...] = ()
    """topics of labelled rows that it does not"""
    again: bool = False
    """the run keeps the scores of a bank learnt from earlier labels"""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        out: dict[str, Any] = {
            "run": self.run, "labels": {"bad": self.bad, "good": self.good}, "applied": self.applied
        }  # fmt: skip
        if self.check is not None:
            out |= {"check": self.check, "before": round(self.before, 4)}
        if self.compared is not None:
            out |= {"better": self.compared.better, "ahead": [round(x, 4) for x in self.compared.ahead]}
        if self.applied:
            out |= {"removed_before": self.removed, "removed_still": self.same}
        if self.now is not None:
            out |= {"removed_now": asdict(self.now)}
        return out | {"text": list(self.text())}

    def text(self) -> Iterator[str]:
        """In sentences."""
        check = self.check
        if check is None:
            yield (
                f"{self.bad} bad and {self.good} good labels: {MIN_SIDE} of each are needed to learn from; the run "
                "keeps its scores. Label more rows."
            )
            return
        low, high = check["interval"]
        yield (
            f"{self.bad} bad and {self.good} good labels. Bank learnt from them, cross-validated on them: AUROC "
            f"{check['auroc']:.2f} ({low:.2f} to {high:.2f}); bag of words {check['bag_of_words']:.2f}, style "
            f"{check['style']:.2f}; the scan's scores on the same rows {self.before:.2f}"
        )
        if self.known:
            yield (
                f"{self.known:,} of these rows are among those that a bank of the scan was learnt from, on which this "
                "one builds: they flatter both figures."
            )
        if check["weak"]:
            yield "That does not beat random banks: the run keeps its scores. Label more rows."
            return
        if not self.applied:
            kept = "the scores of the bank learnt before; scan again for the scan's own" if self.again else "its scores"
            yield (
                f"The bank learnt ranks these rows no better ({check['auroc']:.3f}) than the scan's scores do "
                f"({self.before:.3f}): the run keeps {kept}. Label more rows, or use the bank anyway with --apply."
            )
            return
        if low <= self.before if self.compared is None else not self.compared.clear:
            yield (
                "That is not clearly better than the scan's scores: compare what each cut takes, label more rows, or "
                "go back to them by scanning again."
            )
        yield f"of the {self.removed:,} rows that {COMPARED} removed, {self.same:,} still go"
        if self.topics:
            yield f"topics told apart: {', '.join(map(inert, self.topics))}"
        if self.left_out:
            yield (
                f"not told apart: {', '.join(map(inert, self.left_out))}; it takes two topics or more with {MIN_ROWS} "
                "bad and as many good labels each"
            )
        if self.now is not None:
            yield (
                f"{COMPARED} removes {self.now.bad:,} rows labelled bad now and {self.now.good:,} labelled good, from "
                f"which the bank was learnt, and {self.now.unlabelled:,} without a label"
            )
        yield f"the run is scored with this bank now; next: geofilter filter {quoted(self.run)} --drop 10%"


def conclude(labelling: Labelling, anyway: bool = False) -> Outcome:
    """Score the run with what was learnt last, unless it is worth nothing or seems to rank no better than the scan.

    Args:
        anyway: also where it seems to rank no better.

    Raises:
        RunError: the run is in use.
    """
    run, (bad, good), learnt = labelling.run.called, labelling.counts(), labelling.learnt
    if learnt is None:
        return Outcome(run, bad, good)
    known = int(labelling.known[labelling.labelled(said=True)].sum())
    compared = learnt.compared
    found = Outcome(run, bad, good, learnt.check, learnt.before, known=known, compared=compared)
    if learnt.bank.weak or (compared is not None and not compared.better and not anyway):
        return replace(found, again="scanned_banks" in labelling.run.manifest)
    removed, same = labelling.changed()
    labelling.apply()
    found = replace(found, topics=learnt.bank.topics.names, left_out=tuple(learnt.left_out))
    return replace(found, applied=True, removed=removed, same=same, now=labelling.cut_now())


def quoted(run: str) -> str:
    """What a run is called, as a shell takes it."""
    return inert(shlex.quote(run))
