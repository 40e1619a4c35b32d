"""A row without what it answers, for how likely a model finds its response by itself.

What the loss does not fall on is taken out, and the chat template's own words stay: a response stands behind the same
header as in its row, in the place that it has after an empty question. System turns and descriptions of tools are left
out, so that a template puts there what it puts into a row that has none; other turns that are not scored are empty.
Earlier responses that are scored stay before later ones, as does thinking in a scored turn. Without a chat template a
response follows the first token (BOS), and plain text has no prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from geofilter.encode.tokens import Encoded, encode_rows
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def unprompted(row: Row) -> Row:
    """The row with nothing but what is scored of it."""
    if row.turns[0].role == "text":
        return row
    turns = tuple(turn if turn.scored else replace(turn, content="") for turn in row.turns if turn.role != "system")
    return replace(row, turns=turns, tools=())


def encode_unprompted(
    rows: Sequence[Row], encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[Encoded | None]:
    """Tokenise rows without their prompts; None for one that the chat template refuses so.

    Args:
        encoded: the rows with their prompts; one that has none is the same.
    """
    alone = [unprompted(row) for row in rows]
    other = [i for i, row in enumerate(rows) if alone[i].turns != row.turns or row.tools]
    found = dict(zip(other, encode_rows([alone[i] for i in other], tokenizer, max_tokens), strict=True))
    each = (found.get(i, encoded[i]) for i in range(len(rows)))
    return [None if isinstance(one, RowError) else one for one in each]
