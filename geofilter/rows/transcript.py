"""A conversation in one string, as some data sets of preferences have it."""

from __future__ import annotations

import re

from geofilter.rows.turns import Turn

_TRANSCRIPT = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \t]?")


def read_transcript(text: str) -> list[Turn] | None:
    r"""Turns of a conversation in one string, `\n\nHuman: ...\n\nAssistant: ...`; None where it is none.

    A last `Assistant:` with nothing behind it is where an answer follows, and no turn.
    """
    parts = _TRANSCRIPT.split(f"\n\n{text.lstrip()}")
    if len(parts) < 3 or parts[0] or "Assistant" not in parts[1::2] or parts[1] != "Human":
        return None
    said = list(zip(parts[1::2], parts[2::2], strict=True))
    if said[-1][0] == "Assistant" and not said[-1][1].strip():
        said.pop()
    return [Turn("user" if who == "Human" else "assistant", words.strip()) for who, words in said]
