"""Length and format of a response: what a score must not merely be a proxy of."""

from __future__ import annotations

import re
import string

import numpy as np
import numpy.typing as npt

STYLE = ("length", "lines", "bullets", "digits", "code", "capitals", "punctuation", "word length", "variety")
"""names of the columns of `style_features`"""
SHOWN = ("length", "bullets", "digits", "code")
"""the columns that reports compare a score with"""

_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_CODE_MARKS = rb"{}()[]=;<>_`\|$#"
_PUNCTUATION = b".,;:!?'\"-"
_DIGITS, _CAPITALS = string.digits.encode(), string.ascii_uppercase.encode()
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def style_features(text: str) -> npt.NDArray[np.float32]:
    """(9,) float32, in the order of `STYLE`.

    length: log of 1 + characters; lines: log of lines; bullets: list items per line; digits, code marks,
    capitals, punctuation: shares of characters; word length: mean characters; variety: distinct words
    over words.
    """
    n = max(1, len(text))
    lines = text.count("\n") + 1
    words = text.split()
    ascii_bytes = text.encode("ascii", "ignore")
    further = "".join(_NOT_ASCII.findall(text))
    return np.array(
        [
            np.log1p(len(text)),
            np.log(lines),
            len(_BULLET.findall(text)) / lines,
            (_count(ascii_bytes, _DIGITS) + sum(map(str.isdigit, further))) / n,
            _count(ascii_bytes, _CODE_MARKS) / n,
            (_count(ascii_bytes, _CAPITALS) + sum(map(str.isupper, further))) / n,
            _count(ascii_bytes, _PUNCTUATION) / n,
            sum(map(len, words)) / max(1, len(words)),
            len(set(text.lower().split())) / max(1, len(words)),
        ],
        dtype=np.float32,
    )


def _count(text: bytes, among: bytes) -> int:
    """How many bytes of a text are among some."""
    return len(text) - len(text.translate(None, among))
