"""The texts of a cut's removed rows as its page holds them: packed, shortened to what there is room for."""

from __future__ import annotations

import json
import zlib
from concurrent.futures import Future, ThreadPoolExecutor

from geofilter.files import dumps
from geofilter.rows.records import Row
from geofilter.text import TEXT, shorten

MOST, OF_MORE = 20_000, 10_000
"""removed rows whose texts a page holds, the highest scores first: all up to so many; of more these, since reading them
is a seventh of the time of a cut of a million rows"""
CHARS = 8_500_000
"""characters of their responses in all"""
PACKED = 3_900_000
"""bytes that all of it may have packed: 5.2 MB of a page"""
LEAST_CHARS = 200
PROMPT = 300
"""characters of a prompt at most"""
LEVEL = 5
"""of packing"""
BATCH = 1 << 20
"""bytes packed at once"""


class Texts:
    """Texts of rows, packed as they come.

    Args:
        n: how many rows there will be.
    """

    def __init__(self, n: int) -> None:
        self.chars = min(TEXT, max(LEAST_CHARS, CHARS // max(1, n)))
        """characters of a response at most"""
        self.shortened = False
        """some response is longer"""
        self._packer = zlib.compressobj(LEVEL)
        self._pieces: list[bytes] = []
        self._size = self._n = 0
        self._thread = ThreadPoolExecutor(1)  # packs while rows are read
        self._parts: list[Future[bytes]] = []

    def add(self, rank: int, sha256: str, row: Row) -> None:
        """Take a row.

        Args:
            rank: 0-based.
        """
        response, prompt = row.response, shorten(row.prompt, min(PROMPT, self.chars))
        whole = len(response) <= self.chars
        self.shortened |= not whole
        self._put((b"," if self._n else b"[") + dumps([rank, sha256, prompt, shorten(response, self.chars), whole]))
        self._n += 1

    def _put(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= BATCH:
            self._pack()

    def _pack(self) -> None:
        self._parts.append(self._thread.submit(self._packer.compress, b"".join(self._pieces)))
        self._pieces, self._size = [], 0

    def packed(self) -> bytes:
        """All of them as JSON, packed with zlib: lists of rank, sha256, prompt, response, and whether it is whole.

        Responses that do not pack as well as text does are shortened further. No row can be added after it.
        """
        self._put(b"]" if self._n else b"[]")
        self._pack()
        with self._thread:
            parts = [part.result() for part in self._parts]
        packed = b"".join([*parts, self._packer.flush()])
        while len(packed) > PACKED:
            self.chars, self.shortened = int(0.9 * self.chars * PACKED / len(packed)), True
            rows = json.loads(zlib.decompress(packed))
            short = [
                [rank, sha, shorten(prompt, self.chars), shorten(text, self.chars), whole and len(text) <= self.chars]
                for rank, sha, prompt, text, whole in rows
            ]
            packed = zlib.compress(dumps(short), LEVEL)
        return packed
