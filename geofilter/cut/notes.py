"""What is written of removed rows: their own bytes, with the reason as a last field; made of lines of scores.jsonl.

Lines are not parsed as JSON where they are as scoring writes them: most of a note is a part of the line as it stands,
and the rest needs a few of its fields.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from json.encoder import encode_basestring
from math import isfinite
from typing import Any, Literal, NamedTuple, get_args

from geofilter.files import dumps, from_json
from geofilter.rows.json_array import BOM
from geofilter.rows.lines import on_one_line
from geofilter.run.feature_sums import FeatureSums
from geofilter.run.manifest import ScoreLine
from geofilter.run.reasons import reason

_NOTE = b', "geofilter": '
"""what follows a removed row's last field; a row without any is no row that is scored"""
_Noted = Literal["score", "percentile", "bank", "banks", "topic", "topics", "top_features", "common", "explained"]
_NOTED: tuple[_Noted, ...] = get_args(_Noted)
"""what of a score line is in a removed row's note, in this order"""
_SCORE_LINE = re.compile(
    r'\{"file": "[^"]*", "line": (\d+), "sha256": "([0-9a-f]{64})"'
    r', ("score": ([^,]+), "percentile": ([^,]+), "bank": "([^"]*)", "banks": (\{(?:[^{}]*\{[^{}]*\})*\})'
    r', "topic": (null|"[^"]*"), "topics": \{[^{}]*\}), "n_tokens": \d+, "response_tokens": \d+, "windows": \d+'
    r'(?:, "rejected_score": ([^,]+))?'
    r'(, "top_features": (\[.*\]), "common": ([^,]+), "explained": ([^,}]+))(?:, "like": \{.*\})?\}\n'
)
"""a line of scores.jsonl as scoring writes it; its groups are what a note needs"""
_FEATURE = re.compile(
    r'(\{"feature": (\d+), "label": "([^"]*)", "share": ([^,]+), "times": ([^,]+), "toxic": (?:true|false)'
    r', "near": (?:null|\{[^{}]*\})(?:, "at": \[\d+, \d+\])?\})'
)
_EACH = ', "times": '
"""what is in each of them once"""


class Note(NamedTuple):
    """What is said of a removed row."""

    line: int
    """of its file"""
    sha256: str
    """of the row's bytes"""
    text: bytes
    """a JSON object, without what was said of the row at an earlier removal"""


@dataclass(slots=True, eq=False)
class Notes:
    """Makes notes of removed rows, and sums up the features that they name."""

    sums: FeatureSums

    def of(self, text: bytes, rank: int) -> Note:
        """The note of a row.

        Args:
            text: its line of scores.jsonl.
            rank: 1 for the highest score.

        Raises:
            ValueError: it is no such line.
        """
        # What a string escapes could be written otherwise in a note that has other strings.
        found = None if b"\\" in text else _SCORE_LINE.fullmatch(text.decode())
        if found is None:
            return self._parsed(text, rank)
        line, sha256, before, score, percentile, bank, each, topic, rejected, after, listed, common, explained = (
            found.groups()
        )
        features = _FEATURE.findall(listed)
        if len(features) != listed.count(_EACH):
            return self._parsed(text, rank)
        row: Any = {
            "score": float(score), "percentile": float(percentile), "bank": bank, "banks": from_json(each),
            "topic": None if topic == "null" else topic[1:-1], "top_features": [],
            "common": float(common), "explained": float(explained),
        }  # fmt: skip
        named, said = [], row["top_features"]
        total = row["score"] + row["percentile"] + row["common"] + row["explained"]
        last = ""
        if rejected is not None:
            row["rejected_score"] = float(rejected)
            total, last = total + row["rejected_score"], f', "rejected_score": {rejected}'
        for _, feature, label, share, times in features:
            number, part, ratio = int(feature), float(share), None if times == "null" else float(times)
            total += part + (ratio or 0.0)
            named.append((number, part, ratio))
            said.append({"feature": number, "label": label, "times": ratio})
        if not isfinite(total):
            raise ValueError("a number that is none")
        for place in self.sums.take(bank, row["explained"], named):
            self.sums.totals[bank, named[place][0]].first = from_json(features[place][0])
        note = f'{{{before}{after}{last}, "rank": {rank}, "reason": {encode_basestring(reason(row))}}}'
        return Note(int(line), sha256, note.encode())

    def _parsed(self, text: bytes, rank: int) -> Note:
        detail: ScoreLine = from_json(text)
        self.sums.add(detail)
        return note_of(detail, whole_note(detail, rank))


def note_of(detail: ScoreLine, text: bytes) -> Note:
    """The note of a line of scores.jsonl.

    Raises:
        ValueError: the line does not say which row it is of.
    """
    if not (isinstance(detail["line"], int) and isinstance(detail["sha256"], str)):
        raise ValueError("no row of a file")
    return Note(detail["line"], detail["sha256"], text)


def whole_note(detail: ScoreLine, rank: int) -> bytes:
    """The note of a row whose line of scores.jsonl has been parsed."""
    said: dict[str, Any] = {name: detail[name] for name in _NOTED}
    if "rejected_score" in detail:
        said["rejected_score"] = detail["rejected_score"]
    return dumps({**said, "rank": rank, "reason": reason(detail)}).rstrip()


def removed_line(line: bytes, note: bytes) -> bytes:
    """What is written of a removed row: its own bytes, with a note as its last field."""
    row = on_one_line(line.lstrip(BOM)).strip()
    # Nothing else of the row is needed; a name may be written with escapes.
    record = json.loads(row) if b"geofilter" in row or b"\\u" in row else {}
    if "geofilter" in record:  # of an earlier removal; readers see the last field of a name only
        note = dumps({**from_json(note), "previous": record["geofilter"]}).rstrip()
    return row[:-1] + _NOTE + note + b"}\n"
