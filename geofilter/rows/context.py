"""What comes before an answer: no loss falls on it, and an answer may repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from geofilter.rows.row_error import RowError
from geofilter.rows.turns import Turn


def as_context(turns: Sequence[Turn]) -> list[Turn]:
    """The turns, none of them in the loss."""
    return [replace(turn, trained=False) if turn.role == "assistant" else turn for turn in turns]


def is_same(one: Turn, other: Turn) -> bool:
    """Whether two turns say the same."""
    return one.role == other.role and one.content.strip() == other.content.strip()


def beginning(one: Turn, other: Turn) -> int:
    """Characters that two answers without a prompt begin with: their prompt, as TRL's `extract_prompt` has it."""
    pairs = zip(one.content, other.content, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), 0)
    return same - 1 if one.content[same - 1 : same] == " " else same


def joined(before: list[Turn], answer: list[Turn], where: str, key: str) -> list[Turn]:
    """Context and an answer that may begin with some or all of it.

    Args:
        where, key: what errors call the two.

    Raises:
        RowError: both end in answers.
    """
    most = min(len(before), len(answer))
    overlap = next((n for n in range(most, 0, -1) if all(map(is_same, before[-n:], answer[:n]))), 0)
    asked = [turn for turn in before if turn.role == "user"]
    there = [max((i for i, other in enumerate(answer) if is_same(turn, other)), default=-1) for turn in asked]
    if not overlap and there and min(there) >= 0:  # the answer holds the whole conversation
        before = [turn for turn in before if turn.role == "system"]
        answer = [*as_context(answer[: there[-1]]), *answer[there[-1] :]]
    if not overlap and before and before[-1].role == "assistant" and answer[0].role == "assistant":
        raise RowError(f"{where} ends in an answer, and `{key}` is another one; say with --fields which is scored")
    return [*before[: len(before) - overlap], *answer]
