"""A run that lies in a store: its folder here is a mirror, filled as files are wanted, and written through.

    CACHE/stores/<name>-<hash of the URL>/            the mirror, a run folder
    CACHE/stores/<name>-<hash of the URL>.jsonl       the URL, and of each file the object it was last the same as

The manifest is published last, so that whoever reads it finds what it names. Files that it has hashes of are held
against these when they are read; of the others the store's copy counts, but for labels that were not published yet.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from geofilter.errors import InputError, RunError
from geofilter.files import append, cache_dir, from_json, json_text, slug, write_text
from geofilter.run.names import FEATURES, LABELLED, LABELS, LINES, MANIFEST, PLAN, QUARANTINE, SCORES, VECTORS, WORK
from geofilter.stores import Held, Store, checked
from geofilter.sums import FileSum, sum_of

STORES = "stores"
"""in the cache: the mirrors"""
_UNHASHED = (
    *(LABELS, f"{LABELLED}/bank.json", f"{LABELLED}/bank.safetensors"),
    *("evaluate.json", "evaluate.md", "evaluate.svg", "report.html", "report.json", "report.md", "cut.json"),
)
"""files of a run that its manifest has no hash of, in the order in which they are published"""
_HASHED = (LINES, SCORES, VECTORS, QUARANTINE, PLAN)
_TOLD = re.compile(rf"{WORK}/(order\.json|banks/[0-9a-f]{{64}}/bank\.(json|safetensors))")
_PART = re.compile(rf"{FEATURES}/part-\d{{5,}}\.safetensors")

_Known = tuple[str, int, int]
"""version of the object that a file here is the same as, and the file's size and time then"""


def mirror_of(url: str) -> Path:
    """The folder that is a mirror of a run at a URL; made if need be. Nothing is fetched yet.

    Raises:
        InputError: no such URL, or the cache cannot be written.
    """
    url = checked(url)
    name = f"{slug(url.rpartition('/')[2])[:60]}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    folder = cache_dir() / STORES / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.parent.chmod(0o700)  # rows that could not be scored are in there
        if not _about(folder).is_file():
            write_text(_about(folder), json_text({"url": url}) + "\n")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({error.strerror}); set GEOFILTER_CACHE to a folder that can"
        ) from None
    return folder


def _about(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.jsonl"


def behind(folder: Path) -> Mirror | None:
    """What keeps a folder the same as a run in a store; None of every folder but those that `mirror_of` makes."""
    # By the place alone: nothing that lies in a folder may have it written to a store.
    if folder.parent != cache_dir() / STORES or not _about(folder).is_file():
        return None
    return Mirror(folder)


class Mirror:
    """The copy here of a run in a store.

    Raises:
        RunError: what is known of the copy cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._at = folder, _about(folder)
        try:
            first, *lines = self._at.read_text("utf-8").splitlines() or [""]
            self.url = str(from_json(first)["url"])
            self._store = Store(self.url, RunError)
        except (OSError, ValueError, LookupError, TypeError, InputError) as error:
            raise RunError(f"{self._at}: damaged ({error}); remove it") from None
        self._known: dict[str, _Known] = dict(kept for line in lines if (kept := _parsed(line)) is not None)
        self._there: dict[str, Held] = {}
        """as the store was listed last, and as was published since"""

    def pull(self, parts: bool = False) -> None:
        """Take what is newer in the store: the manifest and what it has no hash of.

        Args:
            parts: shards that are not here too.

        Raises:
            RunError: the store cannot be read, or labels were given here and there.
        """
        # What is known comes before the list: of what another process publishes meanwhile nothing is taken for gone.
        known = Mirror(self._folder)._known
        self._there = {name: held for name, held in self._store.names().items() if _ours(name)}
        self._known = known
        for name in known.keys() - self._there.keys():
            if self._now(name) == known[name][1:]:
                (self._folder / name).unlink()
            del self._known[name]
        for name in (*_UNHASHED, MANIFEST):
            if name in self._there and not self._same(name):
                self._take(name)
        if parts:
            for name in sorted(self._there):
                if _PART.fullmatch(name) and self._now(name) is None:
                    self.fetch(name)
        about = [json_text({"url": self.url}), *(json_text([name, *of]) for name, of in self._known.items())]
        write_text(self._at, "\n".join(about) + "\n")
        if LABELS not in self._there or not self._same(LABELS):
            self.put([LABELS])

    def _take(self, name: str) -> None:
        """Fetch a file that is another in the store; labels that only are here are kept."""
        path, known = self._folder / name, self._known.get(name)
        if name == LABELS and self._now(name) not in (None, known and known[1:]):
            if known is not None and known[0] == self._there[name].version:
                return
            kept = self._folder.parent / f"{self._folder.name}-{LABELS}"
            path.replace(kept)
            self.fetch(name)
            if kept.read_bytes() == path.read_bytes():
                return
            raise RunError(
                f"{self._store.url_of(name)}: has labels that were given elsewhere, after those here could not be "
                f"published; those here are in {kept} now: geofilter label {self.url} --from {kept} adds them"
            )
        self.fetch(name)

    def fetch(self, name: str) -> Path:
        """Copy a file of the run here.

        Raises:
            RunError: it is no file of a run, it is not in the store, or the store cannot be read.
        """
        path = self._folder / name
        if not _ours(name):
            raise RunError(f"{self.url}: {name} is no file of a run; scan again")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._note(name, self._store.fetch(name, path, 0o600))
        return path

    def present(self, name: str, wanted: FileSum | None = None) -> Path:
        """Where a file of the run is here; fetched where it is not, or is not the one that is wanted.

        Raises:
            RunError: see `fetch`.
        """
        path = self._folder / name
        if self._now(name) is None or (wanted is not None and not self._right(name, wanted)):
            return self.fetch(name)
        return path

    def _right(self, name: str, wanted: FileSum) -> bool:
        """Whether a file here is the store's, which need not be hashed for that, or at least the one that is wanted."""
        now = self._now(name)
        if now is None or now[0] != wanted["bytes"]:
            return False
        return self._same(name) or sum_of(self._folder / name) == wanted

    def listed(self) -> set[str]:
        """The files of the run that are in the store now.

        Raises:
            RunError: the store cannot be read.
        """
        self._there = {name: held for name, held in self._store.names().items() if _ours(name)}
        return set(self._there)

    def latest(self, name: str) -> None:
        """Have a file of which the manifest has no hash as the store has it now, where it is there.

        Raises:
            RunError: the store cannot be read, or it is another here and there.
        """
        if name in self._there:
            self._there[name] = self._store.held(name)
            if not self._same(name):
                self._take(name)

    def put(self, names: Iterable[str]) -> None:
        """Publish files that are other ones here than in the store; those that are not here are passed over.

        Raises:
            RunError: the store cannot be written, or a name is none of a run's files.
        """
        for name in names:
            if not _ours(name):  # a manifest that a store gave may name any file of this machine
                raise RunError(f"{self.url}: {name} is no file of a run; scan again")
            if self._now(name) is not None and not self._same(name):
                self._note(name, self._store.publish(self._folder / name, name))

    def publish(self, files: Mapping[str, FileSum] = {}) -> None:
        """Publish a manifest, after all that it names.

        Args:
            files: of the manifest.

        Raises:
            RunError: the store cannot be written.
        """
        if files:
            # Anew: another scan may have published its own since.
            self.listed()
            self.put(files)
        self.put((*_UNHASHED, MANIFEST))

    def discard(self, name: str) -> None:
        """Take a file away, here and in the store.

        Raises:
            RunError: the store cannot be written.
        """
        (self._folder / name).unlink(missing_ok=True)
        self._store.delete(name)
        self._there.pop(name, None)

    def _now(self, name: str) -> tuple[int, int] | None:
        """Size and time of a file here; None where there is none."""
        try:
            found = (self._folder / name).stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns

    def _same(self, name: str) -> bool:
        """Whether a file here is the object in the store."""
        known, there, now = self._known.get(name), self._there.get(name), self._now(name)
        if known is None or there is None or now is None:
            return False
        return bool(there.version) and known == (there.version, *now)

    def _note(self, name: str, held: Held) -> None:
        """Note that a file here is an object of the store."""
        self._there[name] = held
        if (now := self._now(name)) is not None:
            self._known[name] = (held.version, *now)
            append(self._at, json_text([name, *self._known[name]]) + "\n")


def _ours(name: str) -> bool:
    """Whether a name is one of a run's files: all that is fetched or published: no name leads elsewhere."""
    known = name in _HASHED or name in _UNHASHED or name == MANIFEST
    return known or _PART.fullmatch(name) is not None or _TOLD.fullmatch(name) is not None


def _parsed(line: str) -> tuple[str, _Known] | None:
    """A line on a file; None where it was cut off."""
    try:
        name, version, size, time = from_json(line)
        return str(name), (str(version), int(size), int(time))
    except (ValueError, TypeError):
        return None
