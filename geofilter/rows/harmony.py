"""Channels of an assistant's messages, as OpenAI's harmony format has them: thinking, calls, the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from geofilter.rows.row_error import RowError
from geofilter.rows.turns import Turn, from_json

THINKING, CALLS = "analysis", "commentary"
"""names of channels; a message to nobody on the second one is for the user to read"""
_FIELDS = ("channel", "recipient")
_START = re.escape("<|start|>assistant")
_WRITTEN = re.compile(
    rf"\s*(?:(?:{_START})?<\|channel\|>analysis<\|message\|>(?P<thinking>(?:(?!<\|channel\|>).)*?)(?:<\|end\|>)?{_START})?"
    r"<\|channel\|>final<\|message\|>(?P<answer>(?:(?!<\|channel\|>).)*?)\s*(?:<\|return\|>|<\|end\|>)?\s*",
    re.DOTALL,
)
"""thinking and an answer in one text"""


def channels(turns: Sequence[Turn]) -> list[Turn]:
    """The turns, those of channels as other formats have them: an assistant's thinking is with what it says next.

    Raises:
        RowError: a text with channels in an order that is not read.
    """
    if not any(turn.role == "assistant" and _has_channels(turn) for turn in turns):
        return list(turns)
    out: list[Turn] = []
    for turn in map(_split, turns):
        before = out[-1] if out else None
        if before is not None and turn.role == before.role == "assistant" and _only_thinks(before):
            out[-1] = replace(turn, extra={**before.extra, **turn.extra})
        else:
            out.append(turn)
    return out


def _has_channels(turn: Turn) -> bool:
    return "channel" in turn.extra or "<|channel|>" in turn.content


def _only_thinks(turn: Turn) -> bool:
    return not turn.content and set(turn.extra) == {"thinking"}


def _split(turn: Turn) -> Turn:
    """A turn with thinking and calls apart from its content."""
    if turn.role != "assistant" or not _has_channels(turn):
        return turn
    extra = {key: value for key, value in turn.extra.items() if key not in _FIELDS}
    channel, to = turn.extra.get("channel"), turn.extra.get("recipient")
    if channel == THINKING:
        return replace(turn, content="", extra={**extra, "thinking": turn.content})
    if channel == CALLS and isinstance(to, str) and to not in ("", "all", "user"):
        return replace(turn, content="", extra={**extra, "tool_calls": [_call(to, turn.content)]})
    if "<|channel|>" not in turn.content:
        return replace(turn, extra=extra)
    found = _WRITTEN.fullmatch(turn.content)
    if found is None:
        raise RowError("an answer holds `<|channel|>` in an order that is not read; write its messages one by one, "
                       "each with a `channel`")  # fmt: skip
    thinking = {"thinking": found["thinking"]} if found["thinking"] else {}
    return replace(turn, content=found["answer"], extra={**extra, **thinking})


def _call(to: str, text: str) -> dict[str, Any]:
    """A call to a tool in the form of `tool_calls`."""
    try:
        given = from_json(text)
    except RowError:
        given = text
    return {"type": "function", "function": {"name": to.removeprefix("functions."), "arguments": given}}
