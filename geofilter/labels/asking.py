"""Having the rows of a run labelled: by whoever answers, or by a file or a field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from geofilter.errors import InputError
from geofilter.labels.labelling import Labelling, Learnt
from geofilter.labels.pick import Pick
from geofilter.labels.source import FieldLabels, Labeller
from geofilter.rows.records import Row
from geofilter.run.labelled import Label
from geofilter.run.rows import scored_rows

BATCH = 10
"""labels after which the bank is learnt again"""
Answer = Callable[[Sequence[Row], Callable[[int, bool | None], None]], None]
"""labels rows: tells of each, by its place among those given, True for bad, False for good, None for cannot say"""


def ask(labelling: Labelling, n: int, answer: Answer, by: str) -> Iterator[Learnt | None]:
    """Have n rows labelled, learning anew after each ten so that the choice of the next rows goes by it.

    What has been answered is kept, also when `answer` fails. A row that it could not label counts, and is not shown
    again.

    Args:
        by: who answers, for the record.

    Yields:
        after each ten what has been learnt so far, None while a side has too few labels.
    """
    labelling.learn()  # from what earlier calls have left
    while n > 0:
        picked = labelling.next(min(BATCH, n))
        if not picked:
            return

        def done(i: int, bad: bool | None, picked: list[tuple[Pick, Row]] = picked) -> None:
            pick, row = picked[i]
            labelling.add(row, Label(bad, by, pick.why))

        try:
            answer([row for _, row in picked], done)
        finally:
            labelling.save()
        n -= len(picked)
        yield labelling.learn()


def take(labelling: Labelling, labeller: Labeller, by: str) -> int:
    """Take the labels that a file or a field gives the run's rows; return how many rows have one.

    Raises:
        InputError: no row has a label, or one that cannot be used; no row has a value that is bad.
        RunError: an input has changed since the scan.
    """
    said = [
        (row.sha256, Label(bad, by, labeller.why(row), labeller.topic(row)))
        for row in scored_rows(labelling.run, labelling.places)
        if (bad := labeller.of(row)) is not None
    ]
    if not said:
        raise InputError(f"--from {labeller.text}: no scored row has a label; {labeller.seen()}")
    # A file may have labels of one side; a value that no row has is misspelt.
    if isinstance(labeller, FieldLabels) and not any(label.bad for _, label in said):
        raise InputError(f"--from {labeller.text}: no bad row; {labeller.seen()}")
    labelling.add_all(dict(said))
    labelling.save()
    return len(said)
