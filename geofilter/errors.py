"""Every failure a user can cause or meet, with its exit code.

    GeofilterError          2
    ├── InputError          2   a file, a row or an option cannot be used
    ├── TargetError         3   the model, its SAE or the pair is not available or not right
    ├── BankError           3   the bank is missing, broken or made for another target
    ├── RunError            4   the run is incomplete, locked or from another configuration
    └── OutputError         2   standard output cannot be written
        └── ReaderGone    141   who reads standard output has gone; nothing is said

A message is one line: what, where, and the remedy. `EXIT_CODES` has all of them.
"""

from __future__ import annotations

GATE, UNEXPECTED, INTERRUPTED, PIPE = 1, 70, 130, 141
"""exit codes: a gate that is not passed and nothing else; an error that is a fault of the program; Ctrl-C; the reader
of a pipe has gone. Of other signals it is 128 and their number, as a shell has it."""
EXIT_CODES = {
    "0": "done",
    "1": "gate not passed",
    "2": "bad usage or input, or a place that cannot be read or written, standard output too",
    "3": "target or bank not available or not matching",
    "4": "run incomplete, locked or of another configuration",
    "70": "an error that is not foreseen; with GEOFILTER_TRACEBACK=1 its traceback is shown",
    "130": "interrupted (the run is kept); 143 by SIGTERM, 129 by SIGHUP, likewise",
    "141": "the reader of standard output has gone (`| head`)",
}
"""every exit code of the command line, and what it says"""


class GeofilterError(Exception):
    """Base of all expected failures; caught once, at the edge of the command line."""

    exit_code = 2


class InputError(GeofilterError):
    """A file, a row or an option that cannot be used."""


class TargetError(GeofilterError):
    """A model or SAE that is not available, or a pair that does not belong together."""

    exit_code = 3


class BankError(GeofilterError):
    """A bank that is missing, broken or made for another target."""

    exit_code = 3


class RunError(GeofilterError):
    """A run folder that is incomplete, in use or made from another configuration."""

    exit_code = 4


class OutputError(GeofilterError):
    """Standard output that cannot be written."""


class ReaderGone(OutputError):
    """A pipe at standard output whose reader has ended: no failure of anyone's, so that nothing is said of it."""

    exit_code = PIPE


def first_line(error: BaseException) -> str:
    """The first line of another library's message, or the error's kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def interrupted(error: BaseException | None) -> bool:
    """Whether an error is an interrupt, or came of one: Python wraps what is raised while a class is made."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
