"""Every failure a user can cause or meet, with its exit code.

    GeofilterError          2
    ├── InputError          2   a file, a row or an option cannot be used
    ├── TargetError         3   the model, its SAE or the pair is not available or not right
    ├── BankError           3   the bank is missing, broken or made for another target
    └── RunError            4   the run is incomplete, locked or from another configuration

A message is one line: what, where, and the remedy. 0 is success, 1 is kept for a gate that is not
passed, 130 for an interrupt.
"""

from __future__ import annotations


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


def first_line(error: Exception) -> str:
    """The first line of another library's message, or the error's kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
