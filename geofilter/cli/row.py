"""The row that a command is about, as it is named on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geofilter.errors import InputError

if TYPE_CHECKING:
    from geofilter.run.store import Run


def position_of(run: Run, row: str, file: str | None) -> int:
    """The place among the scored rows (0-based) of the row that is meant.

    Raises:
        InputError: neither a line nor a rank, or no scored row is there.
    """
    from geofilter.cut.cut import by_score
    from geofilter.run.rows import find_row
    from geofilter.run.score_arrays import rank_array

    number = row.removeprefix("#")
    if not (number.isascii() and number.isdecimal() and len(number) < 16):
        raise InputError(f"--row {row}: no row; give its line, 17 for instance, or '#3' for the third highest score")
    if number == row:
        return find_row(run, int(row), file)
    by, rank = rank_array(run.manifest), int(number)
    score = run.arrays([by])[by]
    if file is not None:
        raise InputError(f"--row {row}: a rank is of the whole run; leave --file {file} out")
    if not 1 <= rank <= len(score):
        raise InputError(f"--row {row}: the run's rows have the ranks #1 to #{len(score)}")
    return int(by_score(score)[rank - 1])
