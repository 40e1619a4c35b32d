"""Labelling at the terminal: one row at a time, one key each."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from geofilter.labels.asking import BATCH
from geofilter.labels.labelling import COMPARED, Labelling
from geofilter.labels.pick import Pick
from geofilter.rows.records import Row
from geofilter.run.labelled import Label
from geofilter.text import beginning, inert

SHOWN = 2000
"""characters of a prompt or a response shown at first"""
BY = "person"
_KEYS = "[b]ad  [g]ood  [s]kip  [u]ndo  [m]ore  [q]uit"


def at_terminal(labelling: Labelling, count: int, console: Console, read_key: Callable[[], str]) -> None:
    """Show rows and take keys until `count` of them are labelled, no row is left, or q is pressed.

    A label is kept the moment it is given; the bank is learnt again after each ten, which the next rows are chosen by.
    A skipped row is not shown again in this call.

    Args:
        read_key: the next key, as one character; raises KeyboardInterrupt or EOFError to end.
    """
    labelling.learn()  # from what earlier calls have left
    given: list[tuple[Pick, Row]] = []
    waiting: list[tuple[Pick, Row]] = []
    while len(given) < count:
        if not waiting:
            waiting = labelling.next(min(BATCH, count - len(given)))[::-1]
        if not waiting:
            console.print("No row is left to label.")
            break
        pick, row = waiting[-1]
        _show(console, f"{len(given) + 1} of {count}", row, SHOWN)
        key = _key(console, read_key, row)
        if key == "q":
            break
        if key == "u":
            if not given:
                console.print("Nothing to undo.")
                continue
            last = given.pop()
            labelling.remove(last[1])
            labelling.save()
            waiting.append(last)
            continue
        waiting.pop()
        if key == "s":
            labelling.skip(row)
            continue
        labelling.add(row, Label(key == "b", BY, pick.why))
        labelling.save()
        given.append((pick, row))
        if len(given) % BATCH == 0:
            _learn(console, labelling)
            waiting = []
    if given and labelling.learnt is None:
        _learn(console, labelling)


def _show(console: Console, place: str, row: Row, most: int) -> None:
    # Not what the row was chosen for: who labels should not know how it scores.
    console.rule(Text(inert(f"{place} · {row.file}, line {row.line}")), style="dim")
    if row.prompt:
        console.print(Text(_cut(row.prompt, most), style="dim"))
        console.print()
    console.print(Text(_cut(row.response, most)))


def _cut(text: str, most: int) -> str:
    # A terminal must not act on what stands in a row; line breaks are harmless and are what makes code readable.
    safe = "\n".join(inert(line.expandtabs(4)) for line in text.split("\n"))
    shown = beginning(safe, most)
    return safe if shown == safe else f"{shown} ... ({len(safe) - len(shown):,} more characters)"


def _key(console: Console, read_key: Callable[[], str], row: Row) -> str:
    while True:
        console.print(Text(_KEYS, style="bold"))
        try:
            key = read_key().lower()
        except (KeyboardInterrupt, EOFError):
            return "q"
        if key == "m":
            _show(console, "in full", row, max(len(row.prompt), len(row.response)))
        elif key and key in "bgsuq":
            return key


def _learn(console: Console, labelling: Labelling) -> None:
    bad, good = labelling.counts()
    said = f"{bad} bad, {good} good"
    learnt = labelling.learn()
    if learnt is not None:
        low, high = learnt.check["interval"]
        said += (
            f": AUROC {learnt.check['auroc']:.2f} ({low:.2f} to {high:.2f}) on the labelled rows, cross-validated; "
            f"{learnt.before:.2f} by the scan's scores"
        )
        removed, same = labelling.changed()
        said += f"; of the {removed:,} rows that {COMPARED} removed, {same:,} would still go"
    console.print(Text(said, style="bold"))
