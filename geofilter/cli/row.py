"""The row that a command is about, as it is named on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geofilter.errors import InputError

if TYPE_CHECKING:
    from geofilter.run.store import Run


def place_of(run: Run, row: str, file: str | None) -> tuple[int, str | None]:
    """Line and file of the row that is meant.

    Raises:
        InputError: neither a line nor a rank, or no row has this rank.
    """
    from geofilter.cut.cut import by_score

    number = row.removeprefix("#")
    if not (number.isascii() and number.isdecimal() and len(number) < 16):
        raise InputError(f"--row {row}: no row; give its line, 17 for instance, or '#3' for the third highest score")
    if number == row:
        return int(row), file
    arrays, rank = run.arrays(), int(number)
    if file is not None:
        raise InputError(f"--row {row}: a rank is of the whole run; leave --file {file} out")
    if not 1 <= rank <= len(arrays["score"]):
        raise InputError(f"--row {row}: the run's rows have the ranks #1 to #{len(arrays['score'])}")
    position = int(by_score(arrays["score"])[rank - 1])
    return int(arrays["line"][position]), run.manifest["data"][arrays["file"][position]]["path"]
