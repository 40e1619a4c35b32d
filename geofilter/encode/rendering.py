"""A row as the model sees it: rendered by its chat template, and where in that text what is scored of it stands.

What is scored is found in the rendered text by character spans. Templates' own assistant masks are not used: stock
templates return zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from geofilter.encode.template import RENDERER, TemplateRefusal
from geofilter.rows.records import Row, reason_of
from geofilter.rows.row_error import RowError
from geofilter.rows.turns import Scored, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Span = tuple[int, int]
PINNED_DATE = datetime(2024, 7, 26)
"""what templates are told is today: the date Llama 3.1's template has by default"""


class Placed(NamedTuple):
    """A scored part of a row in its rendered text, and in `Row.response`."""

    start: int
    end: int
    """in the rendered text"""
    shift: int
    """what added to a place in the rendered text gives that in the response"""
    low: int
    high: int
    """the part in the response; the template may have taken off white space around it, or put some there"""


def render(row: Row, tokenizer: PreTrainedTokenizerBase, system: str = "keep") -> tuple[str, list[Span]]:
    """The row as the model would see it, and the character spans of its responses, see `place`."""
    text, parts = place(row, tokenizer, system)
    return text, [(part.start, part.end) for part in parts]


def place(row: Row, tokenizer: PreTrainedTokenizerBase, system: str = "keep") -> tuple[str, list[Placed]]:
    """The row as the model would see it, and its scored parts in it.

    Chat rows go through the tokenizer's template; without a template, turns are joined by a blank line.
    Plain text is itself.

    Args:
        system: `keep`, or `fold` system turns into the user turn that follows.

    Raises:
        RowError: the template refuses the turns, or takes too long with them, or a response cannot be found in its
            rendering.
        TargetError: the template has taken too long with several rows.
    """
    turns = fold_system(row.turns) if system == "fold" else row.turns
    if turns[0].role == "text":
        return _render_plain(turns, "")
    if not tokenizer.chat_template:
        return _render_plain(turns, "\n\n")
    try:
        return _render_chat(turns, tokenizer, list(row.tools) or None)
    except TemplateRefusal as error:
        why = reason_of(error)
        hint = ""
        blamed = any(word in why.lower() for word in ("system", "role"))
        if blamed and system == "keep" and any(t.role == "system" for t in turns):
            hint = "; --system fold puts system turns before the user turn that follows"
        raise RowError(f"the chat template refuses the row: {why}{hint}") from None


def said_besides(row: Row, text: str) -> Iterator[Placed]:
    """Where what users, system prompts and tools say stands in a rendered row; what the template changes is left out.

    Found in their order, not exactly: a short question may be taken for a word of the template ahead of it.
    """
    at = 0
    for turn in row.turns:
        content = turn.content.strip()
        if turn.role not in ("assistant", "text") and content and (start := text.find(content, at)) >= 0:
            at = start + len(content)
            yield Placed(start, at, 0, 0, 0)


def _render_chat(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, tools: list[Any] | None
) -> tuple[str, list[Placed]]:
    """Rendered text and the places of what is scored in it.

    A response is located exactly: the conversation is rendered once more with a marker in its place, and what
    stands before and after the marker must stand before and after the response. An answer that repeats its
    question, its reasoning or an argument of a tool call is therefore never mistaken for them. Thinking that an
    answer begins with stays in its place, so that a template shows, moves or drops it as it would in training.
    """
    template = pinned_template(tokenizer, tools)

    def rendered(turns: Sequence[Turn]) -> str:
        messages = [{**t.extra, "role": t.role, "content": t.content} for t in turns]
        return RENDERER.render(tokenizer, template, messages, tools)

    full = rendered(turns)
    marker = "geofilterspan"
    while marker in full:
        marker += "x"
    placed = []
    for i, part, at in _in_response(turns):
        turn = turns[i]
        before, found, after = rendered([*turns[:i], _with(turn, part, marker), *turns[i + 1 :]]).partition(marker)
        if not found and (part != turn.answer or turn.extra.get("tool_calls")):
            continue  # thinking that the template drops, or words before a call to a tool
        if not found:
            raise RowError("the chat template leaves a response out, so it cannot be scored")
        start, end, text = len(before), len(full) - len(after), turn.text(part)
        shown = full[start:end]  # the text; less the white space around it where the template trims
        there = full.startswith(before) and full.endswith(after)
        if not there or shown.strip() != text.strip():
            raise RowError("the chat template changes the response, so it cannot be located in the text")
        shift = at - start + _blank_ahead(text) - _blank_ahead(shown)
        placed.append(Placed(start, end, shift, at, at + len(text)))
    if not placed:
        raise RowError("the chat template leaves out all there is to score")
    return full, placed


def _in_response(turns: Sequence[Turn]) -> Iterator[tuple[int, Scored, int]]:
    """The scored parts of turns, each with its turn's position and where it begins in `Row.response`."""
    at = 0
    for i, turn in enumerate(turns):
        for part in turn.scored:
            yield i, part, at
            at += part.end - part.start + 1  # and a line break


def _blank_ahead(text: str) -> int:
    """Characters of white space that a text begins with."""
    return len(text) - len(text.lstrip())


def _with(turn: Turn, part: Scored, marker: str) -> Turn:
    """The turn with a marker in the place of a part of it."""
    if part.where == "content":
        return replace(turn, content=turn.content[: part.start] + marker + turn.content[part.end :])
    return replace(turn, extra={**turn.extra, part.where: marker})


def pinned_template(tokenizer: PreTrainedTokenizerBase, tools: list[Any] | None) -> str:
    """The tokenizer's chat template, with `PINNED_DATE` for today where it asks for the date.

    A template that prints today's date would make every day's scan another one. transformers offers the date as
    the function `strftime_now` and passes nothing callable in its place, so a macro of that name stands before
    the template; the newline after it is the one that `trim_blocks` takes.
    """
    template = str(tokenizer.get_chat_template(tools=tools))
    if "strftime_now" not in template:
        return template
    directives = "".join(f" | replace('%{c}', '{PINNED_DATE.strftime('%' + c)}')" for c in "YmdbBHMSyaAjIpfcxX")
    return f"{{%- macro strftime_now(format) -%}}{{{{- format{directives} -}}}}{{%- endmacro %}}\n{template}"


def fold_system(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Every system turn put before the user turn that follows it, a blank line between.

    Raises:
        RowError: no user turn follows.
    """
    out: list[Turn] = []
    pending: list[str] = []
    for turn in turns:
        if turn.role == "system":
            pending.append(turn.content)
        elif turn.role == "user" and pending:
            out.append(replace(turn, content="\n\n".join([*pending, turn.content])))
            pending = []
        else:
            out.append(turn)
    if pending:
        raise RowError("--system fold: no user turn follows the system turn; add one or remove the system turn")
    return tuple(out)


def _render_plain(turns: Sequence[Turn], between: str) -> tuple[str, list[Placed]]:
    starts, text = [], ""
    for turn in turns:
        text += between if text else ""
        starts.append(len(text))
        text += turn.content
    placed = []
    for i, part, at in _in_response(turns):
        if part.where == "content":
            start, size = starts[i] + part.start, part.end - part.start
            placed.append(Placed(start, start + size, at - start, at, at + size))
    return text, placed
