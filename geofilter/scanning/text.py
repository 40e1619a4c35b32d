"""What a text is about, in the space of a run's rows."""

from __future__ import annotations

import hashlib

from geofilter.arrays import F32
from geofilter.bank.features import Pooled
from geofilter.encode.reader import FeatureReader, refuse_infinite
from geofilter.encode.tokens import encode_rows
from geofilter.errors import InputError
from geofilter.files import Notify
from geofilter.rows.keys import SHAPES
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError
from geofilter.rows.turns import Turn
from geofilter.run.store import Run
from geofilter.run.vectors import Vectors
from geofilter.scanning.reopen import target_of

OPTION = "--text"


def text_vector(run: Run, vectors: Vectors, text: str, notify: Notify) -> F32:
    """Run the model on a text as if it were the response of a row; (d,) what it is about.

    Raises:
        InputError: the text cannot be read.
        RunError: model or SAE has changed since the scan.
        TargetError: files that are gone.
    """
    target, loading = target_of(run, notify)
    reader, encoding = FeatureReader(target, loading), run.manifest["encoding"]
    shapes = run.arrays()["shape"]
    # As most rows of the run are: what stands before a response leaves its mark on it.
    plain = len(shapes) > 0 and (shapes == SHAPES.index("text")).mean() > 0.5
    turns = (Turn("text", text),) if plain else (Turn("user", ""), Turn("assistant", text))
    row = Row(OPTION, 1, hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(), "messages", turns, {})
    (found,) = reader.readable(encode_rows([row], reader.tokenizer, encoding["max_tokens"], encoding["system"]))
    if isinstance(found, RowError):
        raise InputError(f"{OPTION}: {found}")
    features = reader.read([found])
    refuse_infinite(features, [(row.file, row.line)])
    vector: F32 = vectors.content.of(Pooled.of(features, reader.encoder.d_in))[0]
    return vector
