"""Text that may come from anywhere, made safe to show: inert on a terminal, short, and no markup in Markdown.

And what a misspelt word may have meant.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

TEXT = 2000
"""characters of a prompt or response that are shown"""
CELL = 400
"""characters of a table's cell"""


_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0").union(
    map(chr, range(0xE0100, 0xE01F0))
)
"""printable characters, as Python has it, that show nothing: letters that fill, selectors of variants"""


def inert(text: str, keep: str = "") -> str:
    """Replace what a terminal or a browser would act on, and what would hide: control characters, marks that turn the
    direction of writing, line breaks of any kind, characters without width.

    Args:
        keep: characters that stay although they are not printable, line breaks for instance.
    """
    return text.translate(_table(keep))


class _Table(dict[int, int]):
    """What each character is replaced by, looked up when it is first met: texts may be long, and many."""

    def __init__(self, keep: str) -> None:
        super().__init__((ord(c), ord(c)) for c in keep)

    def __missing__(self, code: int) -> int:
        self[code] = code if _shown(chr(code)) else ord("\N{REPLACEMENT CHARACTER}")
        return self[code]


@cache
def _table(keep: str) -> _Table:
    return _Table(keep)


def _shown(character: str) -> bool:
    if character.isprintable():
        return character not in _BLANK
    return unicodedata.category(character) == "Zs"  # spaces of other widths: harmless, and in many names


def inert_json(text: str) -> str:
    """JSON whose strings are escaped where a terminal would act on them; it stands for the same."""
    return "".join(c if _shown(c) or c == "\n" else json.dumps(c)[1:-1] for c in text)


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


def shown_length(text: str, most: int = TEXT) -> int:
    """Characters of a text that `shorten` shows, each in its place."""
    return len(text) if len(text) <= most else len(beginning(text, most - 1))


def one_line(text: str) -> str:
    """A text on one line, inert."""
    return inert(" ".join(text.split()))


_COMMAND = re.compile(r"##(?=\w*\[)|^\s*:(?=:)", re.MULTILINE)


def unheard(text: str) -> str:
    """Lines in which the runner of a CI job hears no command.

    GitHub's takes what begins with `::` after blanks for one, and `##[` anywhere in a line, Azure's `##vso[` anywhere:
    https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs
    https://github.com/microsoft/azure-pipelines-agent/blob/master/src/Agent.Sdk/CommandStringConvertor.cs
    """
    return _COMMAND.sub(r"\g<0> ", text)


def unheard_json(text: str) -> str:
    """JSON in which no runner hears a command; it stands for the same."""
    return re.sub(r"##(?=\w*\[)", r"#\\u0023", text)  # such a thing stands in strings only


def counted(n: int, what: str) -> str:
    """A number of things: `1 row`, `2,000 rows`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


_APART = "\0"
"""stands, in a text that is inert, for `&#8203;` until all else is escaped"""
_LINKING = re.compile(r"@|#(?=\d)|:(?=//)|:(?=[\w+-]+:)|\b(?:GH|GHSA|CVE)-", re.IGNORECASE)
"""what is followed by a name, a number, a host or the word of an emoji"""
_LINKED = re.compile(r"(?<=www)\.|(?<=[\w.+-])@", re.IGNORECASE)
"""what follows the start of an address"""
_BLOCK = re.compile(r"^(\d*)([-+.)])(?=[-+\s]|$)")
"""what at the start of a line begins a list or draws a rule; the others are escaped anywhere"""


def markdown_text(text: str) -> str:
    """Escape a text so that it cannot act as Markdown or HTML; it is put on one line and stays whole.

    GitHub makes links of addresses, `@names` and `#numbers` after all escapes are resolved. Only another character
    between the parts of one prevents it: `&#8203;`, which has no width, as other tools do that quote what is foreign.
    """
    text = inert(re.sub(r"\s+", " ", text).strip())
    text = _LINKED.sub(rf"{_APART}\g<0>", _LINKING.sub(rf"\g<0>{_APART}", text))
    text = _BLOCK.sub(r"\1\\\2", re.sub(r"([\\`*_{}\[\]<>|#~!&])", r"\\\1", text))
    # GitHub sets what stands between two of them as a formula, escaped or not, unless they are in an element.
    return text.replace("$", "<span>$</span>").replace(_APART, "&#8203;")


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


def size(text: str) -> int | None:
    """Bytes of a size as a person types it: `12GB`, `1.5 gb`, `800M`, `16GiB`; None for anything else."""
    found = re.fullmatch(r"([0-9]{1,9}(?:[.][0-9]{1,6})?) *([KMGT])(I?)B?", text.strip().upper())
    if found is None or not float(found[1]):
        return None
    unit: int = (1024 if found[3] else 1000) ** ("KMGT".index(found[2]) + 1)
    return round(float(found[1]) * unit)
