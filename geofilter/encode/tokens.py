"""Tokens and the response mask: which tokens of a row a fine-tuning loss would fall on.

The row is rendered once as text, the assistant content is found in it by character spans, and the text
is tokenised with offsets. Templates' own assistant masks are not used: stock templates return zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import torch

from geofilter.errors import first_line
from geofilter.rows.records import Row
from geofilter.rows.shapes import RowError, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Span = tuple[int, int]
PINNED_DATE = datetime(2024, 7, 26)
"""what templates are told is today: the date Llama 3.1's template has by default"""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenised row."""

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    """True for response tokens: assistant content only, never special tokens or the first position"""
    truncated: bool


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Right-padded rows for one forward pass."""

    rows: tuple[int, ...]
    """positions of the rows in the list that was batched"""
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
        RowError: the template refuses the turns, or a response cannot be found in its rendering.
    """
    turns = fold_system(row.turns) if system == "fold" else row.turns
    if turns[0].role == "text":
        return turns[0].content, [(0, len(turns[0].content))]
    if not tokenizer.chat_template:
        return _render_plain(turns)
    tools = row.record.get("tools")
    try:
        return _render_chat(turns, tokenizer, tools if isinstance(tools, list) and tools else None)
    except RowError:
        raise
    except Exception as error:  # Jinja templates raise whatever they like, TemplateError most often
        why = first_line(error)
        hint = ""
        if system == "keep" and any(t.role == "system" for t in turns):
            hint = "; --system fold puts system turns before the user turn that follows"
        raise RowError(f"the chat template refuses the row: {why}{hint}") from None


def _render_chat(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, tools: list[Any] | None
) -> tuple[str, list[Span]]:
    """Rendered text and response spans.

    A response is located exactly: the conversation is rendered once more with a marker in its place, and what
    stands before and after the marker must stand before and after the response. An answer that repeats its
    question, its reasoning or an argument of a tool call is therefore never mistaken for them.
    """

    template = pinned_template(tokenizer, tools)

    def rendered(contents: Sequence[str]) -> str:
        messages = [{**t.extra, "role": t.role, "content": c} for t, c in zip(turns, contents, strict=True)]
        return str(tokenizer.apply_chat_template(messages, tools=tools, chat_template=template, tokenize=False))

    contents = [t.content for t in turns]
    full = rendered(contents)
    marker = "geofilterspan"
    while marker in full:
        marker += "x"
    spans = []
    for i, turn in enumerate(turns):
        if turn.role != "assistant" or not turn.content.strip():
            continue
        before, found, after = rendered([*contents[:i], marker, *contents[i + 1 :]]).partition(marker)
        end = len(full) - len(after)
        if not found:
            raise RowError("the chat template leaves a response out, so it cannot be scored")
        shown = full[len(before) : end]  # the content; less the white space around it where the template trims
        if not full.startswith(before) or not full.endswith(after) or shown.strip() != turn.content.strip():
            raise RowError("the chat template changes the response, so it cannot be located in the text")
        spans.append((len(before), end))
    return full, spans


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


def _render_plain(turns: Sequence[Turn]) -> tuple[str, list[Span]]:
    text, spans = "", []
    for turn in turns:
        if text:
            text += "\n\n"
        if turn.role == "assistant":
            spans.append((len(text), len(text) + len(turn.content)))
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

    A row over `max_tokens` keeps its response: at most half of the window goes to the first token and the prompt
    tokens just before the first response token, and the tail is cut. `system`: see `render`.
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
        for i, ids, offsets in zip(texts, coded["input_ids"], coded["offset_mapping"], strict=True):
            mask = [
                token not in special and any(a < end and start < b for a, b in spans[i])
                for token, (start, end) in zip(ids, offsets, strict=True)
            ]
            try:
                out[i] = _windowed(rows[i], ids, mask, tokenizer, max_tokens)
            except RowError as error:
                out[i] = error
    return [out[i] for i in range(len(rows))]


def _windowed(
    row: Row, ids: list[int], mask: list[bool], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> Encoded:
    """A row's tokens after BOS where there is no template, cut to `max_tokens`."""
    templated = row.turns[0].role != "text" and bool(tokenizer.chat_template)
    if not templated and tokenizer.bos_token_id is not None:
        # The first position is an attention sink whose norm is far outside the rest; BOS takes it.
        ids, mask = [int(tokenizer.bos_token_id), *ids], [False, *mask]
    truncated = len(ids) > max_tokens
    if truncated:
        first = mask.index(True) if True in mask else 0
        start = max(0, min(first - max_tokens // 2, len(ids) - max_tokens))
        if start:  # the first position, BOS most often, is an attention sink that the others rely on
            start += 1
            ids, mask = [ids[0], *ids[start : start + max_tokens - 1]], [False, *mask[start : start + max_tokens - 1]]
        else:
            ids, mask = ids[:max_tokens], mask[:max_tokens]
    if mask:
        mask[0] = False
    if not any(mask):
        raise RowError("no response token is left after masking special tokens; lengthen or remove the row")
    return Encoded(tuple(ids), tuple(mask), truncated)


def batches(rows: Sequence[Encoded], token_budget: int, pad_id: int) -> Iterator[Batch]:
    """Group rows of like length so that rows x longest stays within `token_budget` (one row at least).

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


def pad(rows: Sequence[Encoded], group: Sequence[int], pad_id: int) -> Batch:
    """The given rows as one right-padded batch."""
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
