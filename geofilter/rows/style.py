"""Length and format of a response: what a score must not merely be a proxy of."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

STYLE = ("length", "lines", "bullets", "digits", "code", "capitals", "punctuation", "word length", "variety")
"""names of the columns of `style_features`"""
SHOWN = ("length", "bullets", "digits", "code")
"""the columns that reports compare a score with"""

_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_CODE_MARKS = re.compile(r"[{}()\[\]=;<>_`\\|$#]")


def style_features(text: str) -> npt.NDArray[np.float32]:
    """(9,) float32, in the order of `STYLE`.

    length: log of 1 + characters; lines: log of lines; bullets: list items per line; digits, code marks,
    capitals, punctuation: shares of characters; word length: mean characters; variety: distinct words
    over words.
    """
    n = max(1, len(text))
    lines = text.count("\n") + 1
    words = text.split()
    return np.array(
        [
            np.log1p(len(text)),
            np.log(lines),
            len(_BULLET.findall(text)) / lines,
            sum(c.isdigit() for c in text) / n,
            len(_CODE_MARKS.findall(text)) / n,
            sum(c.isupper() for c in text) / n,
            sum(c in ".,;:!?'\"-" for c in text) / n,
            sum(map(len, words)) / max(1, len(words)),
            len({w.lower() for w in words}) / max(1, len(words)),
        ],
        dtype=np.float32,
    )
