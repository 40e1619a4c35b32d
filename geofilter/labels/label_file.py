"""The labels that `geofilter label` has been given for a run, as the run folder keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from geofilter.errors import RunError
from geofilter.files import atomic, dumps, locked
from geofilter.rows.lines import read_lines
from geofilter.run.store import LABELS, Run

LABELLED = "labelled"
"""in a run folder: the bank learnt from its labels"""


@dataclass(frozen=True, slots=True)
class Label:
    """One label as it was given to `geofilter label`."""

    bad: bool | None
    """None where none could be given"""
    by: str
    """who said so"""
    why: str = ""
    """what the row was shown for"""


def given_labels(path: Path) -> dict[str, Label]:
    """The labels of a run's labels.jsonl by the row's sha256, in the order in which they were given.

    Raises:
        RunError: a line that is no label.
    """
    found: dict[str, Label] = {}
    if not path.is_file() or not path.stat().st_size:
        return found
    for number, line in enumerate(read_lines(path), start=1):
        try:
            entry = json.loads(line)
            bad = {"bad": True, "good": False, None: None}[entry["label"]]
            found[str(entry["sha256"])] = Label(bad, str(entry["by"]), str(entry["why"]))
        except (ValueError, KeyError, TypeError):
            raise RunError(
                f"{path}, line {number}: no label of geofilter label; mend or remove the line, or move the file away "
                "and take labels from it with --from"
            ) from None
    return found


class LabelFile:
    """The labels of a run as its folder keeps them; several sessions may write it.

    Args:
        first: the first scored row (0-based) of each hash: a label is recorded with that row's file and line.

    Raises:
        RunError: a line that is no label, or one of another run's row.
    """

    def __init__(self, run: Run, first: Mapping[str, int]) -> None:
        self._run, self._first = run, first
        self.labels = self._stored()
        """by the row's sha256, in the order in which they were given"""
        self._changed: dict[str, Label | None] = {}
        """what has been given, or taken back, since the file was read"""

    @property
    def path(self) -> Path:
        """Where the labels are kept."""
        return self._run.path / LABELS

    def _stored(self) -> dict[str, Label]:
        labels = given_labels(self.path)
        other = next((sha for sha in labels if sha not in self._first), None)
        if other is not None:
            raise RunError(
                f"{self.path}: {other[:12]}... is no row of this run; move the file away and take labels from it with "
                "--from"
            )
        return labels

    def set(self, sha256: str, label: Label | None) -> None:
        """Give a row a label, in place of an earlier one; None takes it back."""
        self.labels.pop(sha256, None)
        if label is not None:
            self.labels[sha256] = label
        self._changed[sha256] = label

    def save(self) -> None:
        """Write the file; what another session has written meanwhile stays, unless it is of the same row.

        Raises:
            RunError: the run folder cannot be written, or another session holds the file for long.
        """
        arrays, files = self._run.arrays(), [f["path"] for f in self._run.manifest["data"]]
        taken = f"{self._run.path}: another geofilter label is writing its labels; try again"
        with locked(self._run.path / f"{LABELS}.lock", taken, wait=30):
            self.labels = self._stored()
            for sha, label in self._changed.items():
                self.labels.pop(sha, None)
                if label is not None:
                    self.labels[sha] = label
            self._changed = {}
            with atomic(self.path) as handle:
                for sha, label in self.labels.items():
                    i = self._first[sha]
                    said = None if label.bad is None else "bad" if label.bad else "good"
                    handle.write(
                        dumps({
                            "sha256": sha, "file": files[arrays["file"][i]], "line": int(arrays["line"][i]),
                            "label": said, "by": label.by, "why": label.why,
                        })
                    )  # fmt: skip


def bank_path(run: Run) -> str:
    """Folder of the bank that `geofilter label` learns, wherever the command is called from."""
    return str((run.path / LABELLED).resolve())


def learnt_from(run: Run) -> frozenset[str]:
    """Hashes of the run's rows that its bank was learnt from, where `geofilter label` made it."""
    if all(b["path"] != bank_path(run) for b in run.manifest["banks"]):
        return frozenset()
    return frozenset(sha for sha, label in given_labels(run.path / LABELS).items() if label.bad is not None)
