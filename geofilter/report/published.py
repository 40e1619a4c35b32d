"""The files of a cut in a store: put there after they were written here, the description of each set last."""

from __future__ import annotations

from collections.abc import Sequence

from geofilter.cut.places import Outputs
from geofilter.stores import Store


def publish_sets(outputs: Sequence[Outputs], url: str) -> None:
    """Put the files of sets into a folder of a store.

    As on a disk, see `cut.sets`: the description of an old set goes first and the new one comes last, so that files
    without one, or with one that does not fit them, are no whole set.

    Raises:
        InputError: the store cannot be written; the files are complete here.
    """
    store = Store(url)
    for of in outputs:
        store.delete(of.set_file.name)
        for path in of.paths:
            store.publish(path, path.name)
