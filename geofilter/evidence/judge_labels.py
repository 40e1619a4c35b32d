"""A judge's ratings as labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from geofilter.evidence.judge import Judge
from geofilter.evidence.judge_plan import row_prompt
from geofilter.evidence.rating import Rating
from geofilter.labelling import Answer
from geofilter.records import Row


def by_judge(judge: Judge, max_chars: int, bad_below: float) -> Answer:
    """Ask a judge about rows with the prompt of `geofilter judge`; a row without a usable rating gets no label.

    Args:
        max_chars: of a row's prompt and of its response that are sent.
        bad_below: rating, 0 to 100, under which a row is bad.

    Raises, when called:
        TargetError: the endpoint refuses or fails; it has told of all answers that came.
    """

    def answer(rows: Sequence[Row], done: Callable[[int, bool | None], None]) -> None:
        def prompts() -> Iterator[tuple[int, str]]:
            return ((i, row_prompt(row, max_chars)) for i, row in enumerate(rows))

        def rated(i: int, rating: Rating) -> None:
            done(i, None if rating.value is None else rating.value < bad_below)

        judge.rate_all(prompts(), rated)

    return answer
