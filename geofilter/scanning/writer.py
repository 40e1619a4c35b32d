"""Files written behind the work that makes them: on a thread, in their order, and never many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue
from types import TracebackType
from typing import Self

MOST = 2
"""pieces of work that are begun or wait"""


class Writer:
    """Does what it is given on a thread of its own, one after the other; a `with` block ends when all is done.

    After one that fails nothing more is done; its error is raised at the next call, or at the end of the block in the
    place of a later error.
    """

    def __init__(self) -> None:
        self._work: Queue[Callable[[], None] | None] = Queue(MOST - 1)
        self._failed: BaseException | None = None
        # A daemon: a second interrupt does not wait for it.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __call__(self, work: Callable[[], None]) -> None:
        """Have something done; wait while there is too much to do."""
        if self._failed is None:
            self._work.put(work)
        if self._failed is not None:
            raise self._failed

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._work.put(None)
        self._thread.join()
        if self._failed is not None and self._failed is not error and (kind is None or issubclass(kind, Exception)):
            raise self._failed from None

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if self._failed is None:
                try:
                    work()
                except BaseException as error:
                    self._failed = error
