"""Text that may come from anywhere, made safe to show: inert on a terminal, short, and no markup in Markdown.

And what a misspelt word may have meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

TEXT = 2000
"""characters of a prompt or response that are shown"""
CELL = 400
"""characters of a table's cell"""


def inert(text: str, keep: str = "") -> str:
    """Replace what a terminal or a browser would act on.

    Args:
        keep: characters that stay although they are not printable, line breaks for instance.
    """
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)


def beginning(text: str, most: int) -> str:
    """The beginning of a text: at most so many characters, to the end of a word where one ends in their second half."""
    if len(text) <= most:
        return text
    end = next((i for i in range(most, most // 2, -1) if text[i].isspace()), most)
    return text[:end].rstrip()


def shorten(text: str, most: int = TEXT) -> str:
    """Cut a text to its beginning, see `beginning`, with … where something is left out; inert but for line breaks and
    tabs.
    """
    return inert(text if len(text) <= most else beginning(text, most - 1) + "…", keep="\n\t")


def one_line(text: str) -> str:
    """A text on one line, inert."""
    return inert(" ".join(text.split()))


def counted(n: int, what: str) -> str:
    """A number of things: `1 row`, `2,000 rows`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def markdown_text(text: str) -> str:
    """Escape a text so that it cannot act as Markdown or HTML; it is put on one line and stays whole."""
    return re.sub(r"([\\`*_{}\[\]<>|#~!&])", r"\\\1", inert(re.sub(r"\s+", " ", text)))


def markdown_cell(text: str) -> str:
    """Escape the beginning of a text, for a table's cell."""
    return markdown_text(shorten(text, CELL))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Make the lines of a table, its first column to the left and the others to the right."""
    return [markdown_row(head), "|---|" + "---:|" * (len(head) - 1), *map(markdown_row, rows)]


def markdown_row(cells: Sequence[str]) -> str:
    """Make one line of a table."""
    return f"| {' | '.join(map(markdown_text, cells))} |"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to add to an error about a word that is unknown: `; did you mean X?`, or nothing when none is near."""
    from difflib import get_close_matches

    folded = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), folded, n=1)
    return f"; did you mean {folded[near[0]]}?" if near else ""
