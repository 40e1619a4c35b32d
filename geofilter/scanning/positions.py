"""Rows of a run in the tokens of its target, exactly as the scan read them; no weights are loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from geofilter.encode.tokens import Encoded, encode_rows
from geofilter.errors import RunError, TargetError, first_line
from geofilter.files import Notify
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError
from geofilter.run.store import Run
from geofilter.scanning.reopen import target_of
from geofilter.target.hub import TOKENIZER
from geofilter.target.identity import hashes
from geofilter.target.tokenizer import tokenizer_of


def encoder(run: Run, notify: Notify) -> tuple[Callable[[Sequence[Row]], list[Encoded]], str]:
    """What tokenises rows of a run as its scan did, and the tokenizer's name: its model and a hash of its files.

    Raises:
        RunError: model or SAE has changed since the scan.
        TargetError: files that are gone, or a tokenizer that cannot be read.
    """
    target, _ = target_of(run, notify)
    encoding = run.manifest["encoding"]
    try:
        tokenizer = tokenizer_of(target.model_dir)
    except Exception as error:  # a damaged tokenizer.json raises whatever its parser does
        raise TargetError(f"{target.model_dir}: its tokenizer cannot be read ({first_line(error)})") from None

    def encode(rows: Sequence[Row]) -> list[Encoded]:
        out = []
        coded = encode_rows(rows, tokenizer, encoding["max_tokens"], encoding["system"])
        for row, found in zip(rows, coded, strict=True):
            if isinstance(found, RowError):
                raise RunError(f"{row.file}, line {row.line}: the scan read this row, but now: {found}; scan again")
            out.append(found)
        return out

    known = hashlib.sha256(hashes(target.model_dir, TOKENIZER).encode()).hexdigest()[:12]
    return encode, f"{target.model} {known}"
