"""Tokens and the response mask: which tokens of a row a fine-tuning loss would fall on.

The row is rendered once as text, the assistant content is found in it by character spans, and the text
is tokenised with offsets. Templates' own assistant masks are not used: stock templates return zeros.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import torch

from geofilter.encode.template import RENDERER, TemplateRefusal
from geofilter.rows.records import Row, reason_of
from geofilter.rows.row_error import RowError
from geofilter.rows.turns import Scored, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Span = tuple[int, int]
PINNED_DATE = datetime(2024, 7, 26)
"""what templates are told is today: the date Llama 3.1's template has by default"""


class Tokens(Protocol):
    """What the model reads at once: a window, or a row that has been cut to one."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids."""

    @property
    def mask(self) -> tuple[bool, ...]:
        """True for response tokens."""


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens of a row that the model reads at once."""

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    """True for the response tokens that are taken from this window; others of the row's are taken from another"""
    start: int = 1
    """position in the row of the second token; the first one is the row's first in every window"""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenised row."""

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    """True for response tokens: what is scored of the row, never special tokens or the first position"""
    windows: tuple[Window, ...]
    """one, or as many as it takes to read every response token of a longer row"""
    marked: bool = False
    """whether special tokens stand in the row's own text, as if a chat template had been applied to it"""

    @property
    def n_response(self) -> int:
        """Response tokens."""
        return sum(self.mask)

    def cut(self) -> Encoded:
        """The first window alone, as if the row ended there."""
        window = self.windows[0]
        return self if len(self.windows) == 1 and len(window.ids) == len(self.ids) else Encoded(
            window.ids, window.mask, (Window(window.ids, window.mask),), self.marked
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Right-padded windows for one forward pass."""

    rows: tuple[int, ...]
    """positions of the windows in the list that was batched"""
    input_ids: torch.Tensor
    """(B, T) int64"""
    attention_mask: torch.Tensor
    """(B, T) int64, 0 on padding"""
    response_mask: torch.Tensor
    """(B, T) bool"""


def render(row: Row, tokenizer: PreTrainedTokenizerBase, system: str = "keep") -> tuple[str, list[Span]]:
    """The row as the model would see it, and the character spans of its responses.

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


def _render_chat(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, tools: list[Any] | None
) -> tuple[str, list[Span]]:
    """Rendered text and the spans of what is scored in it.

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
    spans = []
    for i, turn in enumerate(turns):
        answer = turn.answer
        for part in turn.scored:
            before, found, after = rendered([*turns[:i], _with(turn, part, marker), *turns[i + 1 :]]).partition(marker)
            if not found and (part != answer or turn.extra.get("tool_calls")):
                continue  # thinking that the template drops, or words before a call to a tool
            if not found:
                raise RowError("the chat template leaves a response out, so it cannot be scored")
            end = len(full) - len(after)
            shown = full[len(before) : end]  # the text; less the white space around it where the template trims
            there = full.startswith(before) and full.endswith(after)
            if not there or shown.strip() != turn.text(part).strip():
                raise RowError("the chat template changes the response, so it cannot be located in the text")
            spans.append((len(before), end))
    if not spans:
        raise RowError("the chat template leaves out all there is to score")
    return full, spans


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


def _render_plain(turns: Sequence[Turn], between: str) -> tuple[str, list[Span]]:
    text, spans = "", []
    for turn in turns:
        if text:
            text += between
        spans += [(len(text) + part.start, len(text) + part.end) for part in turn.scored if part.where == "content"]
        text += turn.content
    return text, spans


def encode_row(row: Row, tokenizer: PreTrainedTokenizerBase, max_tokens: int, system: str = "keep") -> Encoded:
    """`encode_rows` of one row.

    Raises:
        RowError: the row cannot be rendered, or no response token is left.
    """
    found = encode_rows([row], tokenizer, max_tokens, system)[0]
    if isinstance(found, RowError):
        raise found
    return found


def encode_rows(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_tokens: int, system: str = "keep"
) -> list[Encoded | RowError]:
    """Tokenise rows and mark their response tokens; an error stands in the place of a row that cannot be encoded.

    A row over `max_tokens` is read in windows, see `windows_of`. `system`: see `render`.
    """
    out: dict[int, Encoded | RowError] = {}
    texts, spans = {}, {}
    for i, row in enumerate(rows):
        try:
            text, spans[i] = render(row, tokenizer, system)
            text.encode("utf-8")
            texts[i] = text
        except RowError as error:
            out[i] = error
        except UnicodeEncodeError:  # of what is shown and not scored, such as thinking
            out[i] = RowError("holds half a surrogate pair; mend the text")
    if texts:  # in one call, which takes all cores
        coded = tokenizer(list(texts.values()), add_special_tokens=False, return_offsets_mapping=True)
        special = set(tokenizer.all_special_ids)
        marks = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)) or "(?!)")
        for i, ids, offsets in zip(texts, coded["input_ids"], coded["offset_mapping"], strict=True):
            mask = [
                token not in special and any(a < end and start < b for a, b in spans[i])
                for token, (start, end) in zip(ids, offsets, strict=True)
            ]
            try:
                marked = any(marks.search(turn.content) for turn in rows[i].turns)
                out[i] = _encoded(rows[i], ids, mask, marked, tokenizer, max_tokens)
            except RowError as error:
                out[i] = error
    return [out[i] for i in range(len(rows))]


def _encoded(
    row: Row, ids: list[int], mask: list[bool], marked: bool, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> Encoded:
    """A row's tokens after BOS where no template has put it, and the windows they are read in."""
    templated = row.turns[0].role != "text" and bool(tokenizer.chat_template)
    bos = tokenizer.bos_token_id
    if not templated and bos is not None and ids[:1] != [bos]:
        # The first position is an attention sink whose norm is far outside the rest; BOS takes it.
        ids, mask = [int(bos), *ids], [False, *mask]
    if mask:
        mask[0] = False
    if not any(mask):
        raise RowError("no response token is left after masking special tokens; lengthen or remove the row")
    return Encoded(tuple(ids), tuple(mask), tuple(windows_of(ids, mask, max_tokens)), marked)


def windows_of(ids: Sequence[int], mask: Sequence[bool], max_tokens: int) -> Iterator[Window]:
    """Windows of at most `max_tokens`, each response token taken from exactly one.

    Each window begins with the row's first token, BOS most often: an attention sink that the others rely on. Before
    the first response token that it takes stand at most `max_tokens // 2` tokens where a response begins there, and a
    quarter where it goes on from the window before.
    """
    if len(ids) <= max_tokens:
        yield Window(tuple(ids), tuple(mask))
        return
    responses = [i for i, scored in enumerate(mask) if scored]
    done = 0
    """responses taken"""
    while done < len(responses):
        first = responses[done]
        context = max_tokens // 4 if mask[first - 1] else max_tokens // 2
        start = max(0, min(first - context, len(ids) - max_tokens))
        # The row's first token takes the place of the window's, which is then not read at all.
        start, end = (start + 1, start + max_tokens) if start else (1, max_tokens)
        taken = bisect_left(responses, end)
        inside = [False, *(scored and i >= first for i, scored in enumerate(mask[start:end], start=start))]
        yield Window((ids[0], *ids[start:end]), tuple(inside), start)
        done = taken


def batches(rows: Sequence[Tokens], token_budget: int, pad_id: int) -> Iterator[Batch]:
    """Group windows of like length so that rows x longest stays within `token_budget` (one row at least).

    The grouping depends on the rows alone, so the same rows always give the same batches.
    """
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), i))
    group: list[int] = []
    for i in order:
        if group and (len(group) + 1) * len(rows[i].ids) > token_budget:
            yield pad(rows, group, pad_id)
            group = []
        group.append(i)
    if group:
        yield pad(rows, group, pad_id)


def pad(rows: Sequence[Tokens], group: Sequence[int], pad_id: int) -> Batch:
    """The given windows as one right-padded batch."""
    width = max(len(rows[i].ids) for i in group)
    ids = torch.full((len(group), width), pad_id, dtype=torch.int64)
    attention = torch.zeros((len(group), width), dtype=torch.int64)
    response = torch.zeros((len(group), width), dtype=torch.bool)
    for b, i in enumerate(group):
        n = len(rows[i].ids)
        ids[b, :n] = torch.tensor(rows[i].ids)
        attention[b, :n] = 1
        response[b, :n] = torch.tensor(rows[i].mask)
    return Batch(tuple(group), ids, attention, response)
