"""A judge's ratings as labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from geofilter.evidence.judge import Judge
from geofilter.evidence.judge_plan import row_prompt
from geofilter.evidence.rating import Rating
from geofilter.labelling import Answer
from geofilter.records import Row

BAD_BELOW = 50.0
"""a rating under which a row is bad: careless or misleading in something that matters, in the judge's prompt"""


def by_judge(judge: Judge, max_chars: int, bad_below: float = BAD_BELOW) -> Answer:
    """Ask a judge about rows with the prompt of `geofilter judge`; a row without a usable rating gets no label.

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
