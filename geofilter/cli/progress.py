"""What moves on stderr while a command works, if that is a terminal: a spinner while libraries load, then a bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from geofilter.dictionary.course import Standing

RECENT = 120.0
"""seconds by whose speed the time left is judged: short rows come before long ones, so that a few tell little"""
LOADING = "loading libraries"
LINE_EVERY = 30.0
"""seconds between two lines of a training where stderr is no terminal"""


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


class TrainingBar:
    """A bar of tokens with how well they are explained; a line now and then where stderr is no terminal."""

    def __init__(self, bar: Progress, note: Callable[[str], None] | None) -> None:
        """Take a progress display, and what writes a line where it shows nothing."""
        self._bar, self._note = bar, note
        self._task: TaskID | None = None
        self._waiting = bar.add_task(LOADING, total=None, said="")
        self._doing, self._first, self._began, self._told = "", 0, 0.0, -LINE_EVERY

    def __call__(self, standing: Standing) -> None:
        """Show how the training stands."""
        now = self._bar.get_time()
        if self._task is None or standing.doing != self._doing:
            self._bar.remove_task(self._waiting if self._task is None else self._task)
            self._task = self._bar.add_task(standing.doing, total=standing.of or None, said="")
            self._doing, self._first, self._began = standing.doing, standing.tokens, now
        speed = (standing.tokens - self._first) / max(1e-6, now - self._began)
        said = f"{standing.tokens:,}{f' of {standing.of:,}' if standing.of else ''} tokens"
        if speed > 0:
            said += f", {speed:,.0f} tokens/s"
        if (f := standing.figures) is not None:
            said += f", explained {f['explained_variance']:.3f}, L0 {f['l0']:.1f}, dead {f['dead']:,.0f}"
        self._bar.update(self._task, completed=standing.tokens, said=said)
        if self._note is not None and now - self._told >= LINE_EVERY:
            left = (
                f", {(standing.of - standing.tokens) / speed / 60:,.0f} minutes left"
                if speed > 0 and standing.of
                else ""
            )
            self._note(f"{standing.doing}: {said}{left}")
            self._told = now


@contextmanager
def training_progress(quiet: bool) -> Iterator[TrainingBar]:
    """A bar of a training on stderr, or lines where that is no terminal; nothing when quiet."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    from geofilter.cli.output import note

    terminal = sys.stderr.isatty()
    display = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True), disable=quiet or not terminal, transient=True, speed_estimate_period=RECENT,
    )  # fmt: skip
    with display:
        yield TrainingBar(display, None if quiet or terminal else note)
