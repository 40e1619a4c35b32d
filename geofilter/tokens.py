"""Tokens and the response mask: which tokens of a row a fine-tuning loss would fall on.

The row is rendered once as text, the assistant content is found in it by character spans, and the text
is tokenised with offsets. Templates' own assistant masks are not used: stock templates return zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from geofilter.records import Row, RowError, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]


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


def render(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[Span]]:
    """The row as the model would see it, and the character spans of its responses.

    Chat rows go through the tokenizer's template; without a template, turns are joined by a blank line.
    Plain text is itself.

    Raises:
        RowError: the template refuses the turns, or a response cannot be found in its rendering.
    """
    if turns[0].role == "text":
        return turns[0].content, [(0, len(turns[0].content))]
    if not tokenizer.chat_template:
        return _render_plain(turns)
    messages = [{"role": t.role, "content": t.content} for t in turns]

    def template(upto: int, prompt: bool) -> str:
        text = tokenizer.apply_chat_template(messages[:upto], tokenize=False, add_generation_prompt=prompt)
        return str(text)

    try:
        full = template(len(messages), prompt=False)
        spans, cursor = [], 0
        for i, turn in enumerate(turns):
            if turn.role != "assistant" or not turn.content.strip():
                continue
            start, end = cursor, len(full)
            # Rendering the turns before this one bounds the search, so that an answer which repeats the
            # question is not found inside the question. Templates that rewrite earlier turns fall back
            # to searching on from the last response.
            before = template(i, prompt=True) if i else ""
            upto = template(i + 1, prompt=False)
            if full.startswith(before) and full.startswith(upto):
                start, end = len(before), len(upto)
            content = turn.content.strip()
            # Before a first turn there may be words of the template's own, but nothing of it follows the content.
            at = full.find(content, start, end) if i else full.rfind(content, start, end)
            if at < 0:
                raise RowError("the chat template changes the response, so it cannot be located in the text")
            spans.append((at, at + len(content)))
            cursor = at + len(content)
    except RowError:
        raise
    except Exception as error:  # Jinja templates raise whatever they like, TemplateError most often
        raise RowError(f"the chat template refuses the row: {str(error).splitlines()[0]}") from None
    return full, spans


def _render_plain(turns: Sequence[Turn]) -> tuple[str, list[Span]]:
    text, spans = "", []
    for turn in turns:
        if text:
            text += "\n\n"
        if turn.role == "assistant":
            spans.append((len(text), len(text) + len(turn.content)))
        text += turn.content
    return text, spans


def encode_row(row: Row, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Encoded:
    """Tokenise a row and mark its response tokens.

    A row over `max_tokens` keeps its response: at most half of the window goes to the prompt tokens just
    before the first response token, and the tail is cut.

    Raises:
        RowError: the row cannot be rendered, or no response token is left.
    """
    text, spans = render(row.turns, tokenizer)
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = list(coded["input_ids"])
    special = set(tokenizer.all_special_ids)
    mask = [
        token not in special and any(a < end and start < b for a, b in spans)
        for token, (start, end) in zip(ids, coded["offset_mapping"], strict=True)
    ]
    templated = row.turns[0].role != "text" and bool(tokenizer.chat_template)
    if not templated and tokenizer.bos_token_id is not None:
        # The first position is an attention sink whose norm is far outside the rest; BOS takes it.
        ids, mask = [int(tokenizer.bos_token_id), *ids], [False, *mask]
    truncated = len(ids) > max_tokens
    if truncated:
        first = mask.index(True) if True in mask else 0
        start = max(0, min(first - max_tokens // 2, len(ids) - max_tokens))
        ids, mask = ids[start : start + max_tokens], mask[start : start + max_tokens]
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
            yield _pad(rows, group, pad_id)
            group = []
        group.append(i)
    if group:
        yield _pad(rows, group, pad_id)


def _pad(rows: Sequence[Encoded], group: list[int], pad_id: int) -> Batch:
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
