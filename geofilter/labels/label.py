"""The labels that `geofilter label` has been given for a run, as the run folder keeps them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from geofilter.errors import RunError
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


def bank_path(run: Run) -> str:
    """Folder of the bank that `geofilter label` learns, wherever the command is called from."""
    return str((run.path / LABELLED).resolve())


def learnt_from(run: Run) -> frozenset[str]:
    """Hashes of the run's rows that its bank was learnt from, where `geofilter label` made it."""
    if all(b["path"] != bank_path(run) for b in run.manifest["banks"]):
        return frozenset()
    return frozenset(sha for sha, label in given_labels(run.path / LABELS).items() if label.bad is not None)
