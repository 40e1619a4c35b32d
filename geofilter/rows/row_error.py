"""Why a row cannot be scored."""

from __future__ import annotations


class RowError(ValueError):
    """Why one record cannot be used; becomes `Unusable.error`."""


RE_ENCODE = "re-encode the file as UTF-8, for instance with: iconv -f WINDOWS-1252 -t UTF-8"
