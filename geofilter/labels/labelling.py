"""Labels for a scanned run, and the bank learnt from them: choose rows, take labels, score again. No model, no torch.

RUN/labels.jsonl    one line a label: sha256, file, line, label (bad, good, or null where none could be given),
                    by (who said so), why (what the row was shown for), and the topic where one was given;
                    `evaluate --labels` reads it too
RUN/labelled/       the bank learnt from them, which the run is then scored with
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from geofilter.arrays import F32, F64, Bools, Digests, Positions, among
from geofilter.bank import geometry
from geofilter.bank.about import BankCheck, BankMeta
from geofilter.bank.bank import Bank
from geofilter.bank.examples import Examples, LearnOptions
from geofilter.bank.known import known_row
from geofilter.bank.learn import learn
from geofilter.bank.naming import first_known
from geofilter.bank.neighbours import keeping
from geofilter.bank.ridge import Ridge
from geofilter.bank.scorer import Scorer
from geofilter.bank.topics import usable
from geofilter.config import CONTROLS
from geofilter.cut.cut import Cut
from geofilter.errors import BankError, InputError, RunError
from geofilter.labels.compare import Compared, compare, compared_rows
from geofilter.labels.label_file import LabelFile, bank_path
from geofilter.labels.labelled_rows import group_of
from geofilter.labels.pick import Pick, pick_rows
from geofilter.rows.fields import topic_of
from geofilter.rows.records import Row
from geofilter.run.again import score_again
from geofilter.run.banks import find_banks
from geofilter.run.labelled import MIN_SIDE, Label
from geofilter.run.names import LABELLED
from geofilter.run.rows import RowPlaces, reread
from geofilter.run.store import Run
from geofilter.stats import auroc
from geofilter.target.sae_folder import unit_decoder

SCORING = "label"
"""the command that scores a run with the bank learnt, see `Run.open`"""
COMPARED = Cut.parse("10%")
"""whose removed rows are compared before and after"""


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """A bank learnt from labels, and what it makes of the run."""

    bank: Bank
    standard: F64
    """(rows,) its standard scores"""
    before: float
    """AUROC of the scan's own scores on the labelled rows"""
    compared: Compared | None
    """held out, both of them; None under a scorer other than ridge"""
    left_out: list[str] = field(default_factory=list)
    """topics of labelled rows that the bank does not tell apart, see `topics.usable`"""

    @property
    def check(self) -> BankCheck:
        """Its check on held-out labelled rows, see `validate.validate`."""
        return self.bank.meta["evaluation"]


@dataclass(frozen=True, slots=True)
class CutNow:
    """Rows that a cut removes."""

    bad: int
    """labelled so"""
    good: int
    unlabelled: int


class Labelling:
    """The labels of one run. Of rows with the same bytes one is shown, and its label holds for all.

    Raises:
        InputError: the run's scorer knows no bank.
        RunError: a run of an earlier version, a bank or an SAE that has changed, a label file that is damaged.
        BankError: a bank of the scan is gone.
    """

    def __init__(self, run: Run, seed: int = 0) -> None:
        self.run, self.seed = run, seed
        self._manifest = run.manifest
        self.scorer: str = self._manifest["scorer"]
        if self.scorer in CONTROLS:
            raise InputError(f"{run.called}: scored with {self.scorer}, which knows no bank; scan with --scorer ridge")
        if "sae_folder" not in self._manifest:
            raise RunError(f"{run.called}: scanned by an earlier version; run the same geofilter scan again")
        banks, gone = find_banks(run, scanned=True)
        if gone:
            raise BankError(f"{gone[0]}; scan again, then label")
        self.priors = banks
        """the banks of the scan"""
        self.places, self.contents, self._standard = self._read_run()
        """see `rows.RowPlaces`, (rows, 32) see `Shard`, and (rows, banks) standard scores"""
        self.shas: Digests = self.places.sha256
        """(rows, 32)"""
        self.known: Bools = np.logical_or.reduce([among(self.contents, bank.learnt_from) for bank in banks])
        """(rows,) which of them these were learnt from"""
        self.scanned: F64 = self._standard.max(1)
        """(rows,) scores of the scan"""
        self._first: dict[str, int] = {}
        """the first row of each hash"""
        self._again: list[int] = []
        for i, sha in enumerate(self.shas):
            if self._first.setdefault(sha.tobytes().hex(), i) != i:
                self._again.append(i)
        self._file = LabelFile(run, self._first, self.places)
        self._skipped: set[str] = set()
        self._known: dict[int, Row] = {}
        """rows read already"""
        self.learnt: Learnt | None = None
        self._guide: F64 | None = None
        """(rows,) scores of the bank learnt last, which rows are chosen by until the next one"""

    def _read_run(self) -> tuple[RowPlaces, Digests, F64]:
        # Of the shards alone, so that a run whose scoring was stopped can go on.
        places, contents, scores = [], [], []
        scorers = [Scorer(bank, self.scorer) for bank in self.priors]
        for shard in self.run.shards():
            places.append(RowPlaces(shard.file, shard.line, shard.sha256))
            contents.append(shard.content)
            shas = shard.shas()
            scores.append(np.stack([s.standard(shard.pooled, shas) for s in scorers], axis=1))
        return RowPlaces.concat(places), np.concatenate(contents), np.concatenate(scores)

    @property
    def labels(self) -> dict[str, Label]:
        """By the row's sha256, in the order in which they were given."""
        return self._file.labels

    def save(self) -> None:
        """Write labels.jsonl, see `LabelFile.save`."""
        self._file.save()

    def add(self, row: Row, label: Label) -> None:
        """Take a label; a later one of the same row replaces it. What was learnt before holds no longer."""
        self.add_all({row.sha256: label})

    def add_all(self, labels: Mapping[str, Label]) -> None:
        """The same for several, by the rows' sha256."""
        for sha256, label in labels.items():
            self._file.set(sha256, label)
        self.learnt = None

    def remove(self, row: Row) -> None:
        """Take a label back."""
        self._file.set(row.sha256, None)
        self.learnt = None

    def skip(self, row: Row) -> None:
        """Do not choose this row again."""
        self._skipped.add(row.sha256)

    def counts(self) -> tuple[int, int]:
        """Rows labelled bad, and rows labelled good."""
        said = [label.bad for label in self.labels.values()]
        return said.count(True), said.count(False)

    def labelled(self, said: bool = False) -> Positions:
        """The rows that have a label, one of each hash, ascending.

        Args:
            said: only those of which the label says something.
        """
        labels = self.labels.items()
        return np.array(sorted(self._first[sha] for sha, x in labels if not said or x.bad is not None), np.int64)

    def rows(self, positions: Positions) -> list[Row]:
        """Rows read from the inputs again, in the order of `positions`.

        Raises:
            InputError: an input is gone.
            RunError: an input has changed since the scan.
        """
        places, files = self.places, self._manifest["data"]
        details = {
            int(i): {
                "file": files[places.file[i]]["path"],
                "line": int(places.line[i]),
                "sha256": self.shas[i].tobytes().hex(),
            }
            for i in positions
            if i not in self._known
        }
        found = reread(details.values(), self.run.reading)
        self._known |= {i: found[d["file"], d["line"]] for i, d in details.items()}
        return [self._known[int(i)] for i in positions]

    def next(self, n: int) -> list[tuple[Pick, Row]]:
        """Up to n rows to label next, each with what it was chosen for."""
        taken = [self._first[sha] for sha in self.labels]
        without = [*self._again, *(self._first[sha] for sha in self._skipped)]
        standard, names = self._standard, [b.name for b in self.priors]
        if self._guide is not None:
            standard, names = self._guide[:, None], [LABELLED]
        background = self.priors[0].background
        picks = pick_rows(
            n, standard, names, lambda p: background.log_matrix(self.run.features(p)[0]), taken, without, self.seed
        )
        return list(zip(picks, self.rows(np.array([p.position for p in picks], np.int64)), strict=True))

    def learn(self) -> Learnt | None:
        """A bank learnt from the labels, and its scores; None with fewer than five labels of a kind.

        Raises:
            BankError: the two sides do not differ.
            RunError: an input or the SAE has changed since the scan.
        """
        self.learnt = None
        n_bad, n_good = self.counts()
        if min(n_bad, n_good) < MIN_SIDE:
            return None
        positions = self.labelled(said=True)
        rows = self.rows(positions)
        bad = np.array([bool(self.labels[row.sha256].bad) for row in rows])
        prior = self.priors[0]
        # What no bank of the scan may count, the learnt one may not either.
        excluded = sorted(set.intersection(*(set(p.excluded) for p in self.priors)))
        pooled = self.run.features(positions)[0].without(excluded)
        topics = [self.labels[row.sha256].topic or topic_of(row.record) for row in rows]
        examples = Examples(pooled, bad, [group_of(row) for row in rows], [row.response for row in rows], topics)
        meta: BankMeta = {
            "description": "learnt from labelled rows of the run",
            "dtype": prior.meta.get("dtype"),
            "sources": {"labels": {"bad": n_bad, "good": n_good, "by": self._by()}},
        }
        if (names := next((p.meta["names"] for p in self.priors if "names" in p.meta), None)) is not None:
            meta["names"] = names
        named = first_known(self.priors)
        options = LearnOptions(
            priors=self.priors, labels=named.labels, rate=prior.rate, content=named.content, meta=meta
        )
        bank = learn(LABELLED, prior.target, self._directions, examples, prior.reference, options).excluding(excluded)
        compared = self._compared(examples, options, positions)
        if compared is not None:
            # The bank says what the user was told, not what one repeat of it came to.
            figures = [round(x, 4) for x in (compared.learnt, *compared.interval)]
            check: BankCheck = {**bank.meta["evaluation"], "auroc": figures[0], "interval": figures[1:]}
            bank = replace(bank, meta={**bank.meta, "evaluation": check})
        sources = [self.contents[positions], *(p.learnt_from for p in self.priors)]
        bank = replace(bank, learnt_from=np.unique(np.concatenate(sources), axis=0))
        told = zip(rows, topics, bad.tolist(), strict=True)
        texts = [known_row(row.prompt, row.response, topic, said) for row, topic, said in told]
        bank = keeping(bank, pooled, texts, self.contents[positions], prior)
        scorer = Scorer(bank, self.scorer)
        self._guide = np.concatenate([scorer.standard(shard.pooled, shard.shas()) for shard in self.run.shards()])
        before = auroc(self.scanned[positions], bad) if compared is None else compared.scan
        self.learnt = Learnt(bank, self._guide, before, compared, usable(topics, bad)[1])
        return self.learnt

    def _compared(self, examples: Examples, options: LearnOptions, positions: Positions) -> Compared | None:
        """What is learnt from labelled rows beside what the scan said of them."""
        if self.scorer != "ridge":
            return None
        seen = compared_rows(examples.bad, self.seed)
        of, prior = examples.take(seen), self.priors[0]
        learner = Ridge(of.pooled, prior.background, None, options.prior_weights, prior.reference)
        return compare(learner, of.bad, of.groups, self.scanned[positions[seen]], self.seed)

    def _by(self) -> dict[str, int]:
        """Who gave the labels, and how many."""
        by = [label.by for label in self.labels.values() if label.bad is not None]
        return {name: by.count(name) for name in dict.fromkeys(by)}

    @cached_property
    def _directions(self) -> F32:
        """Decoder directions of the run's SAE, checked against what a bank of the scan knows of them."""
        folder = self._manifest["sae_folder"]
        directions = unit_decoder(Path(folder))
        bank = self.priors[0]
        found = geometry.closeness(directions, bank.toxic, bank.aligned).contrast
        gap = np.abs(found - bank.closeness.contrast)
        gap[list(bank.excluded)] = 0
        if gap.max() > 1e-3:
            raise RunError(f"{folder}: the SAE has changed since the scan; scan again")
        return directions

    def apply(self) -> None:
        """Keep the bank learnt last and score the run with it; `filter`, `report` and `explain` then go by it."""
        if self.learnt is None:
            raise BankError("no bank has been learnt from these labels; call learn first")
        self.save()
        folder, bank, mode = Path(bank_path(self.run)), self.learnt.bank, self.run.mode
        score_again(
            self.run, [bank], lambda: [bank.about(str(folder))], SCORING, first=lambda: bank.save(folder, mode)
        )  # fmt: skip

    def changed(self) -> tuple[int, int]:
        """How many rows `COMPARED` removes by the scan's scores, and how many of them by the learnt ones too."""
        if self.learnt is None:
            raise BankError("no bank has been learnt from these labels; call learn first")
        best = self.scanned
        unused: F64 = np.zeros(len(best))
        before, after = COMPARED.removed(best, unused), COMPARED.removed(self.learnt.standard, unused)
        return int(before.sum()), int((before & after).sum())

    def cut_now(self) -> CutNow:
        """What `COMPARED` removes by the learnt scores, of labelled rows and of others."""
        if self.learnt is None:
            raise BankError("no bank has been learnt from these labels; call learn first")
        gone = COMPARED.removed(self.learnt.standard, np.zeros(len(self.shas)))
        said = {bytes.fromhex(sha): label.bad for sha, label in self.labels.items()}
        labels = [said.get(sha.tobytes()) for sha in self.shas[gone]]
        return CutNow(labels.count(True), labels.count(False), labels.count(None))
