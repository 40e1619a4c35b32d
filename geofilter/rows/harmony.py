"""Channels of an assistant's messages, as OpenAI's harmony format has them: thinking, calls, the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from geofilter.rows.row_error import RowError
from geofilter.rows.turns import Turn, from_json

THINKING, CALLS = "analysis", "commentary"
"""channels of an assistant's thinking, and of what it says or calls meanwhile"""
_USER = (None, "", "all", "user")
"""recipients for whom a message is no call to a tool"""
_FIELDS = ("channel", "recipient")
_START, _END, _CHANNEL, _MESSAGE = "<|start|>assistant", "<|end|>", "<|channel|>", "<|message|>"
_THINKS, _ANSWERS = (f"{_CHANNEL}{name}{_MESSAGE}" for name in (THINKING, "final"))
_TOKENS = ("<|start|>", _END, "<|return|>", "<|call|>", _CHANNEL, _MESSAGE)


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
        if before is None or turn.role != before.role or not _only_thinks(before) or turn.trained != before.trained:
            out.append(turn)
            continue
        thinking = "\n".join(str(one.extra["thinking"]) for one in (before, turn) if "thinking" in one.extra)
        out[-1] = replace(turn, extra={**before.extra, **turn.extra, "thinking": thinking})
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
    if channel in (THINKING, CALLS) and to not in _USER:
        return replace(turn, content="", extra={**extra, "tool_calls": [_call(str(to), turn.content)]})
    if channel == THINKING:
        return replace(turn, content="", extra={**extra, "thinking": turn.content})
    if _CHANNEL not in turn.content:
        return replace(turn, extra=extra)
    thinking, answer = _written(turn.content)
    return replace(turn, content=answer, extra={**extra, **({"thinking": thinking} if thinking else {})})


def _written(text: str) -> tuple[str, str]:
    """Thinking and answer of a text that is made of them.

    Raises:
        RowError: it is made of anything else.
    """
    before, _, answer = text.strip().removeprefix(_START).partition(_ANSWERS)
    thinking = before.removeprefix(_THINKS)
    if before.startswith(_THINKS):
        thinking = thinking.removesuffix(_START).removesuffix(_END)
    for end in (_END, "<|return|>"):
        answer = answer.removesuffix(end)
    if not answer or (before and not before.startswith(_THINKS)) or any(t in thinking + answer for t in _TOKENS):
        raise RowError("an answer holds `<|channel|>` in an order that is not read; write its messages one by one, "
                       "each with a `channel`")  # fmt: skip
    return thinking, answer.strip()


def _call(to: str, text: str) -> dict[str, Any]:
    """A call to a tool in the form of `tool_calls`."""
    try:
        given = from_json(text)
    except RowError:
        given = text
    return {"type": "function", "function": {"name": to.removeprefix("functions."), "arguments": given}}
