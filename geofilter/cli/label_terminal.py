"""Labelling at the terminal: one row at a time, one key each."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from geofilter.labels.asking import BATCH
from geofilter.labels.labelling import COMPARED, Labelling
from geofilter.labels.pick import Pick
from geofilter.rows.records import Row
from geofilter.run.labelled import MIN_SIDE, Label
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
    console.print(Text(_begin(labelling, count), style="bold"))
    given: list[tuple[Pick, Row]] = []
    waiting: list[tuple[Pick, Row]] = []
    while len(given) < count:
        if not waiting:
            waiting = labelling.next(min(BATCH, count - len(given)))[::-1]
        if not waiting:
            console.print("No row is left to label.")
            break
        pick, row = waiting[-1]
        _show(console, row, SHOWN)
        key = _key(console, read_key, row, f"{len(given) + 1} of {count} · {_so_far(labelling)}")
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


def _begin(labelling: Labelling, count: int) -> str:
    said = (
        f"Up to {count} rows, one key each: is the row one that should not be trained on (bad) or fine (good)? "
        f"A bank needs {MIN_SIDE} bad and {MIN_SIDE} good rows at least; thirty of each make it a good one."
    )
    return f"{said} Labelled before: {_so_far(labelling)}." if any(labelling.counts()) else said


def _so_far(labelling: Labelling) -> str:
    bad, good = labelling.counts()
    missing = [f"{MIN_SIDE - n} {side}" for n, side in ((bad, "bad"), (good, "good")) if n < MIN_SIDE]
    more = f" ({' and '.join(missing)} more needed)" if missing else ""
    return f"{bad} bad, {good} good{more}"


def _show(console: Console, row: Row, most: int) -> None:
    # Not what the row was chosen for: who labels should not know how it scores.
    console.print()
    console.print(Text(inert(f"{row.file}, line {row.line}"), style="dim"))
    for name, text in (("prompt", row.prompt), ("response", row.response)):
        if text:
            console.rule(Text(name, style="bold"), style="dim", align="left")
            console.print(Text(_cut(text, most), style="dim" if name == "prompt" else ""))
    console.rule(style="dim")


def _cut(text: str, most: int) -> str:
    # A terminal must not act on what stands in a row; line breaks are harmless and are what makes code readable.
    safe = "\n".join(inert(line.expandtabs(4)) for line in text.split("\n"))
    shown = beginning(safe, most)
    return safe if shown == safe else f"{shown} ... ({len(safe) - len(shown):,} more characters)"


def _key(console: Console, read_key: Callable[[], str], row: Row, place: str) -> str:
    while True:
        # Behind the row, however long it is: what stands before it has left the screen.
        console.print(Text(f"{place}   {_KEYS}", style="bold"))
        try:
            key = read_key().lower()
        except (KeyboardInterrupt, EOFError):
            return "q"
        if key == "m":
            _show(console, row, max(len(row.prompt), len(row.response)))
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
