"""Tokens and the response mask: which tokens of a row a fine-tuning loss would fall on.

The row is rendered once as text, see `rendering`, and the text is tokenised with offsets.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from geofilter.arrays import I32, Bools
from geofilter.encode.rendering import Placed, place, said_besides
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


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
    spans: I32 = field(default_factory=lambda: np.zeros((0, 2), np.int32), compare=False)
    """(n_response, 2) start and end of each response token in the characters of `Row.response`; of tokens that only
    together make a character each has all of it"""

    @property
    def n_response(self) -> int:
        """Response tokens."""
        return sum(self.mask)

    def cut(self) -> Encoded:
        """The first window alone, as if the row ended there."""
        window = self.windows[0]
        return self if len(self.windows) == 1 and len(window.ids) == len(self.ids) else Encoded(
            window.ids, window.mask, (Window(window.ids, window.mask),), self.marked, self.spans[: sum(window.mask)]
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
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    system: str = "keep",
    besides: bool = False,
) -> list[Encoded | RowError]:
    """Tokenise rows and mark their response tokens; an error stands in the place of a row that cannot be encoded.

    A row over `max_tokens` is read in windows, see `windows_of`. `system`: see `render`.

    Args:
        besides: mark the tokens of the other turns too, see `said_besides`; `spans` then say nothing.
    """
    out: dict[int, Encoded | RowError] = {}
    texts, parts = {}, {}
    for i, row in enumerate(rows):
        try:
            text, parts[i] = place(row, tokenizer, system)
            if besides:
                parts[i] = [*parts[i], *said_besides(row, text)]
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
            at = np.fromiter(chain.from_iterable(offsets), np.int64, 2 * len(ids)).reshape(-1, 2)
            mask = _inside(at, parts[i]) & ~np.fromiter(map(special.__contains__, ids), bool, len(ids))
            marked = any(marks.search(turn.content) for turn in rows[i].turns)
            try:
                out[i] = _encoded(rows[i], ids, mask, (at, parts[i]), marked, tokenizer, max_tokens)
            except RowError as error:
                out[i] = error
    return [out[i] for i in range(len(rows))]


def _inside(at: npt.NDArray[np.int64], parts: Sequence[Placed]) -> Bools:
    """Which tokens (n,) share a character with a part of the text.

    Args:
        at: (n, 2) start and end of each token.
    """
    out = np.zeros(len(at), bool)
    for part in parts:
        out |= (at[:, 1] > part.start) & (at[:, 0] < part.end)
    return out


def _encoded(
    row: Row,
    ids: list[int],
    mask: Bools,
    placed: tuple[npt.NDArray[np.int64], Sequence[Placed]],
    marked: bool,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
) -> Encoded:
    """A row's tokens after BOS where no template has put it, and the windows they are read in.

    Args:
        placed: start and end (n, 2) of each token in the rendered text, and the row's scored parts in it.

    Raises:
        RowError: no response token is left.
    """
    templated = row.turns[0].role != "text" and bool(tokenizer.chat_template)
    bos = tokenizer.bos_token_id
    # The first position is an attention sink whose norm is far outside the rest; BOS takes it.
    front = () if templated or bos is None or ids[:1] == [bos] else (int(bos),)
    if not front:
        mask[:1] = False
    if not mask.any():
        raise RowError("no response token is left after masking special tokens; lengthen or remove the row")
    spans = spans_of(placed[0], mask, placed[1])
    tokens, scored = (*front, *ids), (*(False for _ in front), *mask.tolist())
    return Encoded(tokens, scored, tuple(windows_of(tokens, scored, max_tokens)), marked, spans)


def readable(
    rows: Sequence[Encoded | RowError], tokenizer: PreTrainedTokenizerBase, size: int
) -> list[Encoded | RowError]:
    """The same rows, an error in the place of one that holds a token the model has no embedding for.

    Args:
        size: tokens that the model has an embedding for.
    """
    return [row if isinstance(row, RowError) else unknown_token(row, tokenizer, size) or row for row in rows]


def unknown_token(row: Encoded, tokenizer: PreTrainedTokenizerBase, size: int) -> RowError | None:
    """What is wrong with a row that holds a token of no embedding among `size`; None when it holds none."""
    token = max(row.ids)
    if token < size:
        return None
    return RowError(
        f"token {token} ({tokenizer.convert_ids_to_tokens(token)!r}) is outside of the model's embedding of {size} "
        "rows; take the tokenizer that belongs to the model, or a model that was resized for it"
    )


def spans_of(
    offsets: Sequence[tuple[int, int]] | npt.NDArray[np.int64],
    mask: Sequence[bool] | Bools,
    parts: Sequence[Placed],
) -> I32:
    """Where response tokens stand in the response, see `Encoded.spans`.

    A token over the edge of a part is cut there; of one in two parts that touch, the larger piece counts.

    Args:
        offsets: (n, 2) start and end of every token in the rendered text.
        mask: (n,) which of them are response tokens.
        parts: the row's scored parts.
    """
    at = np.asarray(offsets, np.int64).reshape(-1, 2)[np.asarray(mask, bool)]
    start, end = at.T
    for i in range(len(at) - 2, -1, -1) if (start == end).any() else ():
        # Some tokenizers give the first bytes of a character its place without a width.
        if start[i] == end[i] == start[i + 1] == end[i + 1] - 1:
            end[i] += 1
    out = np.zeros((len(at), 2), np.int64)
    most = np.full(len(at), -1)
    for part in parts:
        shared = np.minimum(end, part.end) - np.maximum(start, part.start)
        here = shared > most
        most[here] = shared[here]
        out[here] = np.minimum(np.maximum(at[here] + part.shift, part.low), part.high)
    return out.astype(np.int32)


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
    import torch  # here alone: rows are tokenised without it, see `scanning.ahead`

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
