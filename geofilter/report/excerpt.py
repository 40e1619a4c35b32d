"""The piece of a response that tells most: where the tokens with the largest shares of the score stand, marked."""

from __future__ import annotations

from collections.abc import Sequence

from geofilter.bank.words import says_something
from geofilter.text import inert

STRONG = 0.4
"""share of the largest token's from which on another one is marked"""
MOST_MARKED = 12
"""pieces that are marked at most, the strongest ones"""
LEAD = 0.3
"""of an excerpt, what stands before its first marked piece at most"""

Span = Sequence[float]
"""[start, end, share] in characters of the response"""
Piece = tuple[str, bool]
"""text, and whether it is marked"""


def strong_places(text: str, spans: Sequence[Span], *, content: bool = False) -> list[tuple[int, int, float]]:
    """[start, end) and share of the words to mark, in the order of the text.

    Tokens are widened to the words that they are parts of; those that touch are one.

    Args:
        spans: [start, end, share] of tokens; those beyond the text are left out.
        content: only words that say something, no function words and no punctuation.
    """
    largest = max((share for _, _, share in spans), default=0.0)
    if largest <= 0:
        return []
    strong = [(*_widened(text, int(a), int(b)), share) for a, b, share in spans if share >= STRONG * largest]
    strong = [s for s in strong if text[s[0] : s[1]] and (not content or says_something(text[s[0] : s[1]]))]
    out: list[tuple[int, int, float]] = []
    for start, end, share in sorted(sorted(strong, key=lambda s: -s[2])[:MOST_MARKED]):
        if out and not text[out[-1][1] : start].strip():
            out[-1] = (out[-1][0], max(end, out[-1][1]), out[-1][2] + share)
        else:
            out.append((start, end, share))
    return out


def _widened(text: str, start: int, end: int) -> tuple[int, int]:
    """A token without the white space around it, widened to its word; empty where it has nothing else."""
    end = min(end, len(text))
    start += len(text[start:end]) - len(text[start:end].lstrip())
    end -= len(text[start:end]) - len(text[start:end].rstrip())
    if start >= end:
        return start, start
    while start and _in_word(text[start - 1]) and _in_word(text[start]):
        start -= 1
    while end < len(text) and _in_word(text[end]) and _in_word(text[end - 1]):
        end += 1
    return start, end


def _in_word(character: str) -> bool:
    return character.isalnum() or character in "_'\u2019"


def marked(text: str, spans: Sequence[Span]) -> list[Piece]:
    """A text as a whole, with its strong words marked; what may act on a terminal is to be replaced before.

    Args:
        spans: [start, end, share] of tokens in the text.
    """
    out: list[Piece] = []
    at = 0
    for a, b, _ in strong_places(text, spans):
        out += [(text[at:a], False), (text[a:b], True)]
        at = b
    return [piece for piece in (*out, (text[at:], False)) if piece[0]]


def excerpt(text: str, spans: Sequence[Span], width: int) -> list[Piece]:
    """At most `width` characters of a text, on one line and inert, with its strong words marked; … where it goes on.

    Of all places the one whose strong words have the largest shares together; the beginning where none is strong.

    Args:
        spans: [start, end, share] of tokens in the text.
    """
    line = inert("".join(" " if c.isspace() else c for c in text))
    places = strong_places(line, spans, content=True)
    start = _best_start(line, places, width)
    end = min(len(line), start + width - (start > 0))
    if end < len(line):
        end -= 1
        # To the end of a word, where that leaves most of it.
        cut = line.rfind(" ", start + width // 2, end + 1)
        end = cut if cut > 0 and not any(a < end and cut < b for a, b, _ in places) else end
    out: list[Piece] = [("…", False)] if start else []
    at = start
    for a, b, _ in places:
        a, b = max(a, at), min(b, end)
        if a < b:
            out += [(line[at:a], False), (line[a:b], True)]
            at = b
    out += [(line[at:end], False), ("…" if end < len(line) else "", False)]
    return [piece for piece in out if piece[0]]


def _best_start(line: str, places: Sequence[tuple[int, int, float]], width: int) -> int:
    if len(line) <= width or not places:
        return 0

    def worth(first: int) -> float:
        return sum(share for a, b, share in places[first:] if b - places[first][0] <= width * (1 - LEAD))

    best = max(range(len(places)), key=lambda i: (worth(i), -i))
    start = max(0, min(places[best][0] - round(LEAD * width), len(line) - width + 1))
    if not start:
        return 0
    space = line.find(" ", start, places[best][0])
    return space + 1 if space >= 0 else start
