"""Data files at URLs: each becomes a file under `.geofilter/`, named by what identifies the object, and is fetched
once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from geofilter.errors import InputError
from geofilter.files import RUNS, Notify, make_folder, slug
from geofilter.rows.packing import split_name
from geofilter.stores import Held, Store, checked, protocol_of

_MAGIC = re.compile(r"[*?\[]")
_LONGEST = 60
"""characters of a stem"""


def fetched(
    text: str, outputs: Sequence[str], *, offline: bool, notify: Notify
) -> Iterator[tuple[Path, dict[str, str]]]:
    """The files that a URL, or a pattern of URLs, names, and where each came from: its URL and its version there.

    Args:
        outputs: what earlier commands have put between the stem of a name and its ending; a pattern passes these over.

    Raises:
        InputError: there is none, it cannot be had, or nothing tells whether it has changed.
    """
    if offline:
        raise InputError(
            f"{checked(text)}: lies in a store, and --offline was given; leave it out, or download the file"
        )
    for store, name in _named(checked(text), outputs):
        held = store.held(name)
        path = _place(store.url_of(name), held)
        if not path.is_file():
            size = "" if held.size is None else f" ({held.size:,} bytes)"
            notify(f"fetching {store.url_of(name)}{size} ...")
            make_folder(path.parent)
            if store.fetch(name, path) != held:
                path.unlink()
                raise InputError(f"{store.url_of(name)}: changed while it was read; run the same command again")
        yield path, {"url": store.url_of(name), "version": held.version}


def fetch_again(inputs: Sequence[Mapping[str, Any]], notify: Notify) -> None:
    """Fetch the inputs of a run that came from stores, where they are no longer here.

    Raises:
        InputError: one cannot be had, or has changed since the scan.
    """
    for info in inputs:
        origin = info.get("origin", {})
        if "url" not in origin or Path(info["path"]).is_file():
            continue
        store, name = _parted(checked(origin["url"]))
        held = store.held(name)
        # The place is reckoned, not believed: a run may come from anywhere, and names no file that is written.
        if str(_place(store.url_of(name), held)) != info["path"]:
            raise InputError(f"{origin['url']}: is not the file of the scan any more; scan it again")
        for _ in fetched(origin["url"], (), offline=False, notify=notify):
            pass


def _named(url: str, outputs: Sequence[str]) -> Iterator[tuple[Store, str]]:
    """Each file of a URL, as its store and its name there."""
    if protocol_of(url) in ("http", "https") or not _MAGIC.search(url):
        yield _parted(url)
        return
    folder = _MAGIC.split(url, maxsplit=1)[0].rpartition("/")[0]
    store, pattern = Store(folder), url[len(folder) + 1 :]
    found = [name for name in store.matching(pattern) if not {f".{o}" for o in outputs} & set(Path(name).suffixes)]
    if not found:
        raise InputError(f"{url}: matches no file; check the pattern and the folder")
    yield from ((store, name) for name in found)


def _parted(url: str) -> tuple[Store, str]:
    folder, _, name = url.rpartition("/")
    if folder.endswith("/"):
        raise InputError(f"{url}: is a whole store; give its files, by a pattern such as {url}/*.jsonl")
    return Store(folder), name


def _place(url: str, held: Held) -> Path:
    """Where an object is kept here."""
    if not held.version:
        raise InputError(f"{url}: its store does not tell when it changes; download it and give the file")
    stem, ending = split_name(Path(url.rpartition("/")[2]))
    name = hashlib.sha256(f"{url}\0{held.version}".encode()).hexdigest()[:12]
    return Path(RUNS, f"{slug(stem)[:_LONGEST] or 'data'}-{name}.{slug(ending)[:_LONGEST]}")
