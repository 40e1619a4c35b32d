"""The labelled rows that a bank keeps beginnings of, so that a scored row can be shown the ones most like it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from geofilter.arrays import Digests, check_array
from geofilter.bank.about import Like
from geofilter.bank.space import F16
from geofilter.text import inert, one_line, shorten
from geofilter.typed import check_typed

PROMPT, RESPONSE = 200, 320
"""characters kept of each"""
MOST = 10_000
"""rows kept; of more, that many spread evenly over them"""
DIGEST = 8
"""bytes of a row's hash by which it is known again"""
MOST_BYTES = 64 << 20
"""of the texts of all rows"""
QUOTED = 160
"""characters of a response that a sentence quotes"""
_TEXTS = "rows.texts"


class KnownRow(TypedDict):
    """A labelled row of a bank."""

    prompt: str
    text: str
    """the response"""
    topic: str
    """"" for none"""
    bad: bool


@dataclass(frozen=True, slots=True, eq=False)
class KnownRows:
    """n labelled rows of a bank, and where they lie in the space in which rows are compared, see `space`."""

    texts: Sequence[KnownRow]
    """(n,) beginnings"""
    content: Digests
    """(n, 8) first bytes of the hash of what is read of each, see `Row.content_sha256`"""
    vectors: F16
    """(n, k + 1 + topics) v"""
    basis: F16
    """(d_in, k) B"""

    def __len__(self) -> int:
        return len(self.texts)

    def named(self, like: Like) -> dict[str, KnownRow]:
        """The rows that a `Like` names, by side."""
        sides = (("bad", like.get("bad")), ("good", like.get("good")))
        return {side: self.texts[of["row"]] for side, of in sides if of is not None and 0 <= of["row"] < len(self)}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, for a safetensors file; the texts as packed JSON."""
        packed = zlib.compress(json.dumps(list(self.texts), ensure_ascii=False).encode(), 9)
        return {
            _TEXTS: np.frombuffer(packed, np.uint8),
            "rows.content": self.content,
            "rows.vectors": self.vectors,
            "rows.basis": self.basis,
        }

    @classmethod
    def from_arrays(cls, a: Mapping[str, npt.NDArray[Any]], d_in: int, n_topics: int) -> KnownRows | None:
        """Inverse of `arrays`; None where a bank keeps no rows.

        Args:
            d_in: width of a residual.
            n_topics: of the bank.

        Raises:
            KeyError: an array is missing.
            ValueError: which array, and what of it.
        """
        if _TEXTS not in a:
            return None
        check_array(_TEXTS, a[_TEXTS], np.uint8)
        texts = _unpacked(a[_TEXTS].tobytes())
        check_array("rows.basis", a["rows.basis"], np.float16, (d_in, None))
        width = a["rows.basis"].shape[1] + 1 + n_topics
        check_array("rows.content", a["rows.content"], np.uint8, (len(texts), DIGEST))
        check_array("rows.vectors", a["rows.vectors"], np.float16, (len(texts), width))
        return cls(texts, a["rows.content"], a["rows.vectors"], a["rows.basis"])


def _unpacked(packed: bytes) -> list[KnownRow]:
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, MOST_BYTES)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError("too long, or cut off")
        texts: list[KnownRow] = json.loads(text)
        check_typed(texts, list[KnownRow], "rows")
    except (ValueError, RecursionError, zlib.error) as error:
        raise ValueError(f"{_TEXTS} cannot be read: {error}") from None
    return texts


def known_row(prompt: str, response: str, topic: str, bad: bool) -> KnownRow:
    """What is kept of a labelled row: beginnings, inert but for line breaks and tabs."""
    return {"prompt": shorten(prompt, PROMPT), "text": shorten(response, RESPONSE), "topic": inert(topic), "bad": bad}


def quoted(row: KnownRow) -> str:
    """A labelled row within a sentence: its response, on one line, and its topic."""
    text = f'"{one_line(shorten(row["text"], QUOTED))}"'
    return f"{text} ({one_line(row['topic'])})" if row["topic"] else text
