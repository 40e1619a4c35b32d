"""The labels that `geofilter label` has been given for a run, as the run folder keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from geofilter.errors import RunError
from geofilter.files import atomic, dumps, locked
from geofilter.run.labelled import Label, given_labels, label_line
from geofilter.run.names import LABELLED, LABELS
from geofilter.run.rows import RowPlaces
from geofilter.run.store import Run


class LabelFile:
    """The labels of a run as its folder keeps them; several sessions may write it.

    Args:
        first: the first scored row (0-based) of each hash: a label is recorded with that row's file and line.
        places: of the run's rows.

    Raises:
        RunError: a line that is no label, or one of another run's row.
    """

    def __init__(self, run: Run, first: Mapping[str, int], places: RowPlaces) -> None:
        self._run, self._first, self._places = run, first, places
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
        places, files = self._places, [f["path"] for f in self._run.manifest["data"]]
        taken = f"{self._run.called}: another geofilter label is writing its labels; try again"
        with locked(self._run.path / f"{LABELS}.lock", taken, wait=30):
            if self._run.mirror is not None:
                self._run.mirror.latest(LABELS)
            self.labels = self._stored()
            for sha, label in self._changed.items():
                self.labels.pop(sha, None)
                if label is not None:
                    self.labels[sha] = label
            self._changed = {}
            with atomic(self.path, self._run.mode) as handle:
                for sha, label in self.labels.items():
                    i = self._first[sha]
                    handle.write(dumps(label_line(sha, label, files[places.file[i]], int(places.line[i]))))
            self._run.publish()


def bank_path(run: Run) -> str:
    """Folder of the bank that `geofilter label` learns, wherever the command is called from."""
    return str((run.path / LABELLED).resolve())
