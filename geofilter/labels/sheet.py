"""A sheet of rows to label: a file that is filled in elsewhere and read with `--from`."""

from __future__ import annotations

from pathlib import Path

from geofilter.errors import InputError
from geofilter.files import atomic, dumps
from geofilter.labels.labelling import Labelling


def write_sheet(labelling: Labelling, sheet: Path, count: int) -> int:
    """Write rows to label to a file that is to be filled in; return how many.

    Raises:
        InputError: the file is there already, or no row is left.
    """
    if sheet.exists():
        raise InputError(f"{sheet}: is there already, perhaps with labels in it; give another name")
    labelling.learn()  # from what earlier calls have left
    picked = labelling.next(count)
    if not picked:
        raise InputError(f"{labelling.run.called}: every row has a label already; see labels.jsonl there")
    with atomic(sheet) as handle:
        for _, row in picked:
            handle.write(
                dumps({
                    # Not what the row was chosen for: who labels should not know how it scores.
                    "label": None, "prompt": row.prompt, "response": row.response, "topic": None,
                    "file": row.file, "line": row.line, "sha256": row.sha256,
                })
            )  # fmt: skip
    return len(picked)
