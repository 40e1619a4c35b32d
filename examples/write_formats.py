"""Write the tables of docs/formats.md: shapes of rows from the code, examples from tests/cases.

    python examples/write_formats.py

What stands under "scored" is what the tests compare the response mask with, to the character.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from geofilter.rows.keys import SHAPE_TABLE

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "formats.md"
CASES = ROOT / "tests" / "cases"
BLOCKS = ("shapes", "examples")
"""what is written, each between marks of its name"""
ORDER = ("completion", "preference", "alpaca", "keys-and-roles", "turn-weights", "train-last", "kto", "tools",
         "tools-dropped", "content-parts", "thinking", "thinking-dropped", "thinking-kept", "thinking-scored",
         "thinking-columns", "harmony", "window", "turn-lists", "beside", "text")  # fmt: skip
"""of the examples"""
CHARS = 200
"""characters shown of a row"""


def shapes() -> Iterator[str]:
    yield "| shape | keys | scored |"
    yield "|---|---|---|"
    for row in SHAPE_TABLE:
        yield f"| {row.name} | {row.keys} | {row.scored} |"


def examples() -> Iterator[str]:
    for name in ORDER:
        about = json.loads((CASES / f"{name}.expected.json").read_text("utf-8"))
        yield f"**{about['title']}**"
        yield ""
        yield "| row | scored |"
        yield "|---|---|"
        for line, outcome in zip((CASES / f"{name}.jsonl").read_text("utf-8").splitlines(), about["rows"], strict=True):
            yield f"| {_code(line)} | {_outcome(outcome)} |"
        yield ""
    about = json.loads((CASES / "files.expected.json").read_text("utf-8"))
    files = sorted(path.name for path in (CASES / "files").iterdir())
    yield f"**{about['title']}** {', '.join(map(_code, files))}:"
    yield ""
    yield "| row | scored |"
    yield "|---|---|"
    for number, outcome in enumerate(about["rows"], start=1):
        yield f"| {number} | {_outcome(outcome)} |"


def _outcome(outcome: dict) -> str:
    if "error" in outcome:
        return f"set aside: {outcome['error']}".replace("|", "\\|")
    if outcome.get("passed_over"):
        return "passed over: not scored, kept"
    return " and ".join(map(_code, outcome["scored"]))


def _code(text: str) -> str:
    """A text as code in a cell of a table; the middle of a long one is left out."""
    shown = text if len(text) <= CHARS else f"{text[: CHARS // 2]} … {text[-CHARS // 2 :]}"
    return "`" + shown.replace("\n", "\\n").replace("|", "\\|").replace("`", "'") + "`"


def page() -> str:
    """The page with its tables made anew."""
    text = PAGE.read_text("utf-8")
    for name, lines in zip(BLOCKS, (shapes(), examples()), strict=True):
        start, end = f"<!-- {name}: python examples/write_formats.py -->\n", f"<!-- end of {name} -->\n"
        before, _, rest = text.partition(start)
        text = before + start + "".join(f"{line}\n" for line in lines) + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
