"""Questions that a model answers when a bank is built from a sentence: the package's own, or a file's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geofilter.bank.about import Source
from geofilter.errors import InputError
from geofilter.files import file_sha256, own_bytes, package_data
from geofilter.rows.keys import QUESTIONS
from geofilter.rows.records import Unusable, parse_line
from geofilter.rows.row_error import RE_ENCODE
from geofilter.rows.strict_json import loads

LEAST = 10
"""different questions in a file; a bank is checked on questions that it was not learnt from"""
MOST_CHARS = 4000
"""of a question"""
_KEYS = ("prompt", "instruction", *QUESTIONS)
"""keys of a question that stands without an answer"""


@dataclass(frozen=True, slots=True)
class Questions:
    """Different questions, and the file they are from."""

    texts: tuple[str, ...]
    path: Path
    lines: tuple[int, ...]
    """1-based, of each question"""
    built_in: bool = False
    """they are the package's own"""

    def place(self, question: str) -> str:
        """Where a question stands, for errors."""
        return f"{self.path}, line {self.lines[self.texts.index(question)]}"

    def source(self) -> Source:
        """For the record."""
        return {"file": self.path.name, "sha256": file_sha256(self.path), "rows": len(self.texts)}


def built_in_questions() -> Questions:
    """Forty questions of ordinary users over many subjects."""
    return replace(read_questions(package_data("trait", "questions.txt")), built_in=True)


def read_questions(path: Path) -> Questions:
    """The questions of a file: one a line, or JSON objects with a prompt; blank lines and repetitions are passed over.

    Raises:
        InputError: it cannot be read, a line of it holds no question, or there are too few.
    """
    try:
        data = own_bytes(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"--questions {path}: cannot be read ({why}); give a file of one question a line") from None
    found: dict[str, int] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            found.setdefault(_question(line, path, number), number)
    if len(found) < LEAST:
        raise InputError(
            f"--questions {path}: {len(found)} different questions; {LEAST} are needed at least, 40 are good"
        )
    return Questions(tuple(found), path, tuple(found.values()))


def _question(line: bytes, path: Path, number: int) -> str:
    where = f"--questions {path}, line {number}"
    try:
        text = line.decode("utf-8").lstrip("\ufeff").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start}; {RE_ENCODE}") from None
    if text.startswith("{"):
        text = _of_record(text, where, number)
    if len(text) > MOST_CHARS:
        raise InputError(f"{where}: the question has {len(text):,} characters; {MOST_CHARS:,} are allowed, shorten it")
    return text


def _of_record(text: str, where: str, number: int) -> str:
    """The question of a JSON object: its prompt, or, of a row with turns, what the user says first."""
    try:
        record = loads(text)
    except (ValueError, RecursionError):
        record = {}
    for key in _KEYS:
        if isinstance(asked := record.get(key), str) and asked.strip():
            return asked.strip()
    row = parse_line(text.encode(), where, number)
    said: Sequence[str] = ()
    if row is not None and not isinstance(row, Unusable):
        said = [turn.content.strip() for turn in row.turns if turn.role == "user" and turn.content.strip()]
    if not said:
        raise InputError(f'{where}: no question in it; write {{"prompt": "..."}}, or the question alone')
    return said[0]
