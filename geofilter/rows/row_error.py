"""Why a row cannot be scored."""

from __future__ import annotations


class RowError(ValueError):
    """Why one record cannot be used; becomes `Rejected.error`."""
