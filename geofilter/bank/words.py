"""Words: which a text has, which of them say something, and which stand out.

Function words are known of English only; of other languages every word of two letters or more counts as content. In
scripts that are written without spaces a word is what a token has of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import numpy.typing as npt

MOST = 4
"""words of a name"""
BETWEEN = " · "
"""two words of a name"""
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese"""
_LETTER = (
    rf"(?![{_UNSPACED}])[\w\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
    r"\u200c\u200d]"
)
"""and what is no letter to `re`, but part of a word: vowel signs, points"""
_WORD = re.compile(rf"[{_UNSPACED}]+|(?:{_LETTER})+(?:['\u2019](?:{_LETTER})+)*")
_LONGEST = 3
"""characters of the pieces that what is written without spaces is counted in"""
_SHORTENED = re.compile(r"'(?:ll|re|ve|d|m|em)$")
_FUNCTION = """
    a about above according across actually after afterwards again against ago ah all almost along already also
    although altogether always am amid among an and another any anybody anyone anything anyway anywhere are around as
    at away back be became because become becomes been before behind being below beneath beside besides between beyond
    both but by can cannot could despite did do does doing done down during each either else enough especially etc even
    ever every everybody everyone everything everywhere except few fewer for former from further furthermore gets
    getting given go goes going gone got had has have having he hence her here hers herself him himself his how however
    i if in indeed inside instead into is it its itself just keep keeps kept last later latter least less let lets like
    likely lot lots made make makes making many may maybe me meanwhile merely might mine more moreover most mostly much
    must my myself namely near nearly neither never nevertheless next no nobody none nonetheless nor not nothing now
    nowhere of off often oh ok okay on once one ones only onto or other others otherwise ought our ours ourselves out
    outside over own per perhaps please quite rather really regarding said same say says seem seems several shall she
    should simply since so some somebody somehow someone something sometimes somewhere soon still such take takes
    taking than that the their theirs them themselves then there therefore these they thing things this those though
    through throughout thus till to together too took toward towards under unless unlike until up upon us use used uses
    using usually very via was way we well went were what whatever when whenever where whereas wherever whether which
    whichever while who whoever whole whom whose why will with within without would yes yet you your yours yourself
    yourselves zero two three four five six seven eight nine ten first second third dont doesnt didnt isnt arent wasnt
    werent wont wouldnt couldnt shouldnt cant havent hasnt hadnt im ive youre youve theyre thats theres whats
    """
FUNCTION = frozenset(_FUNCTION.split())
"""English words that say nothing of what a text is about; contractions are told by their form"""


def folded(word: str) -> str:
    """What a word is the same as: in small letters, without a possessive ending."""
    return word.casefold().replace("\u2019", "'").removesuffix("'s")


def says_something(word: str) -> bool:
    """Whether a word has content: letters, more than one outside scripts without spaces, and is no function word."""
    low = folded(word)
    if low.endswith("n't"):
        return False
    low = _SHORTENED.sub("", low)
    if low in FUNCTION or not any(c.isalpha() for c in low):
        return False
    return sum(c.isalnum() for c in low) > 1 or re.match(f"[{_UNSPACED}]", low) is not None


def words_in(text: str) -> Iterator[str]:
    """The words of a text; of what is written without spaces every piece of up to three characters."""
    for found in _WORD.finditer(text):
        word = found[0]
        if not re.match(f"[{_UNSPACED}]", word):
            yield word
            continue
        for size in range(1, min(_LONGEST, len(word)) + 1):
            yield from (word[i : i + size] for i in range(len(word) - size + 1))


def enclosing(text: str, spans: npt.NDArray[np.integer[Any]]) -> list[str]:
    """For each of some spans (n, 2) of characters of a text the word that encloses it, the first one it touches.

    Returns:
        the word; what the span has of it where it is written without spaces; empty where it is no part of one.
    """
    found = [match.span() for match in _WORD.finditer(text)]
    first = np.searchsorted(np.array([end for _, end in found], np.int64), spans[:, 0], side="right")
    out = []
    for i, (start, end) in zip(first.tolist(), spans.tolist(), strict=True):
        low, high = found[i] if i < len(found) else (end, end)
        if low >= end:
            out.append("")
        elif re.match(f"[{_UNSPACED}]", text[low]):
            out.append(text[max(low, start) : min(high, end)])
        else:
            out.append(text[low:high])
    return out


def standing_out(weight: Mapping[str, float], usual: Mapping[str, float], among: Set[str] | None = None) -> list[str]:
    """The words whose weight stands out most from what is usual, the first one most, `MOST` at most.

    A word stands out by p log(p / q), p its part of all weight and q its part of what is usual.

    Args:
        weight: of each word.
        usual: how often each word is there.
        among: words that may be named; all if None.
    """
    total, every = sum(weight.values()), sum(usual.values())
    if not total or not every:
        return []
    named: list[tuple[float, str]] = []
    for word, of_word in weight.items():
        if (among is None or word in among) and says_something(word):
            p, q = of_word / total, max(usual.get(word, 0.0), 1.0) / every
            if p > q:
                named.append((float(p * np.log(p / q)), word))
    return [word for _, word in sorted(named, key=lambda of: (-of[0], of[1]))[:MOST]]
