"""What moves on stderr while a command works, if that is a terminal: a spinner while libraries load, then a bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

RECENT = 120.0
"""seconds by whose speed the time left is judged: short rows come before long ones, so that a few tell little"""
LOADING = "loading libraries"


class Bar:
    """A bar of rows; of tokens once it is told how many are expected, since rows differ in length, and so in time."""

    def __init__(self, bar: Progress, doing: str) -> None:
        """Take a progress display, which shows what is being done until `started` is called."""
        self._bar, self._doing = bar, doing
        self._task: TaskID | None = None
        self._rows = self._of = self._tokens = 0
        self._by_tokens = False
        self._began = 0.0
        self._waiting = bar.add_task(LOADING, total=None, said="")

    def waiting(self, doing: str) -> None:
        """Say what is being done before the first row."""
        if self._task is None:
            self._bar.update(self._waiting, description=doing)

    def started(self, rows: int, done: int) -> None:
        """Begin with this many rows in all, some of which are done already."""
        self._bar.remove_task(self._waiting)
        self._rows, self._of, self._began = done, rows, self._bar.get_time()
        self._task = self._bar.add_task(self._doing, total=rows, completed=done, said="")

    def expect(self, tokens: int) -> None:
        """Say how many tokens there are to do, those done included; from now on the bar goes by them."""
        if self._task is not None:
            self._by_tokens = True
            self._bar.update(self._task, total=max(tokens, self._tokens), completed=self._tokens)
            self._say()

    def advance(self, rows: int, tokens: int = 0) -> None:
        """Count rows and tokens that are done."""
        self._rows, self._tokens = self._rows + rows, self._tokens + tokens
        if self._task is not None:
            self._bar.update(self._task, advance=tokens if self._by_tokens else rows)
            self._say()

    def _say(self) -> None:
        if self._task is None:
            return
        said = f"{self._rows:,} of {self._of:,} rows"
        if self._by_tokens:
            spent = max(1e-6, self._bar.get_time() - self._began)
            said += f", {self._tokens / spent:,.0f} tokens/s"
        self._bar.update(self._task, said=said)


@contextmanager
def progress(doing: str, quiet: bool) -> Iterator[Bar]:
    """A bar on stderr, if that is a terminal; a spinner until it is started.

    Args:
        doing: what is said before it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    display = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True), disable=quiet or not sys.stderr.isatty(), transient=True,
        speed_estimate_period=RECENT,
    )  # fmt: skip
    with display:
        yield Bar(display, doing)


@contextmanager
def loading_libraries(quiet: bool = False) -> Iterator[None]:
    """A spinner on stderr, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(LOADING):
        yield
