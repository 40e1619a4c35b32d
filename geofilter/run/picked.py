"""Some lines of a file that is hashed while they are looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from geofilter.arrays import Positions
from geofilter.errors import RunError
from geofilter.files import ordinary
from geofilter.together import BUFFER


def picked_lines(
    path: Path, wanted: Positions, believed: Callable[[], object], damaged: Callable[[], RunError]
) -> Iterator[tuple[int, bytes]]:
    """The given lines (0-based positions) of a file, ascending; the last one once all of the file is believed.

    Args:
        believed: raises where the file is not what was written.
        damaged: makes the error where it has no such line, or cannot be read.

    Raises:
        RunError: see above.
    """
    places = iter(np.unique(wanted).tolist())
    if (following := next(places, -1)) < 0:
        return
    # Hashed while it is read: before the last line is given it is known whether all of them can be believed.
    with ThreadPoolExecutor(1) as hashing:
        found_right = hashing.submit(believed)
        try:
            with ordinary(path).open("rb", buffering=BUFFER) as handle:
                for i, line in enumerate(handle):
                    if i != following:
                        continue
                    found, following = line, next(places, -1)
                    if following < 0:
                        break
                    yield i, found
        except OSError:
            found_right.result()
            raise damaged() from None
        found_right.result()
        if following >= 0:
            raise damaged()
        yield i, found
