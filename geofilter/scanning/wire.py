"""What goes between a scan and the process that makes its rows ready: JSON and arrays; unpickling would run code.

A message is two frames, each behind its length: what it says as JSON, and its arrays as a safetensors file has them.
"""

from __future__ import annotations

import json
import os
import traceback
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from geofilter import errors
from geofilter.encode.tokens import Encoded, Tokens, Window
from geofilter.errors import GeofilterError
from geofilter.rows.bounded import Extent
from geofilter.rows.reading import Reading
from geofilter.rows.records import Unusable
from geofilter.run.shard import Span
from geofilter.scanning.ready import Job, Ready

Arrays = dict[str, npt.NDArray[Any]]
_SIZE = 8
"""bytes that say how long what follows is"""
_COLUMN = "column."
"""begins the names of a shard's columns"""
_ALONE = "alone."
"""begins the names of the arrays of its rows without their prompts"""
_OTHER = "other."
"""and of those of their rejected answers"""
_BUILT_IN: dict[str, type[Exception]] = {"OSError": OSError, "MemoryError": MemoryError}
"""errors of Python's that stay what they are: the edge of the command line says what helps"""


def send(pipe: IO[bytes], said: Any, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
    """Write a message.

    Args:
        said: what JSON can hold.

    Raises:
        BrokenPipeError: nobody reads it.
    """
    tight = {name: np.ascontiguousarray(found) for name, found in (arrays or {}).items()}
    for frame in (json.dumps(said).encode(), save(tight)):
        pipe.write(len(frame).to_bytes(_SIZE, "big"))
        pipe.write(frame)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[Any, Arrays]:
    """Read what `send` has written.

    Raises:
        EOFError: the pipe ends before a message does, or holds none.
    """
    said, arrays = _frame(pipe), _frame(pipe)
    try:
        return json.loads(said), load(arrays)
    except (ValueError, SafetensorError) as error:
        raise EOFError(str(error)) from None


def _frame(pipe: IO[bytes]) -> bytes:
    return _exactly(pipe, int.from_bytes(_exactly(pipe, _SIZE), "big"))


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    found = pipe.read(size)
    if len(found) < size:
        raise EOFError(f"{len(found)} bytes of {size}")
    return found


def job_said(job: Job, folder: Path) -> dict[str, Any]:
    """A job and the folder of its model, for `send`."""
    reading = job.reading
    return {
        "reading": [dict(reading.fields), reading.train, reading.thinking, reading.only],
        "max_tokens": job.max_tokens,
        "system": job.system,
        "files": list(job.files),
        "plan": str(job.plan),
        "todo": list(job.todo),
        "fingerprint": job.fingerprint,
        "with_loss": job.with_loss,
        "both_sides": job.both_sides,
        "folder": str(folder),
    }


def job_of(said: Mapping[str, Any]) -> tuple[Job, Path]:
    """The other way round."""
    plain = dict(said)
    fields, train, thinking, only = plain.pop("reading")
    reading = Reading(fields, train, thinking, tuple((column, value) for column, value in only))
    folder, plan = Path(plain.pop("folder")), Path(plain.pop("plan"))
    todo = [(start, stop) for start, stop in plain.pop("todo")]
    return Job(reading=reading, plan=plan, todo=todo, **plain), folder


def ready_said(ready: Ready) -> tuple[dict[str, Any], Arrays]:
    """Rows made ready, for `send`."""
    said = {
        "span": asdict(ready.span),
        "n_bytes": ready.n_bytes,
        "left": ready.left,
        "source": ready.source,
        "remarks": ready.remarks,
        "unusable": [[r.file, r.line, r.error, len(r.raw), r.extent] for r in ready.unusable],
    }
    raw = np.frombuffer(b"".join(r.raw for r in ready.unusable), np.uint8)  # a line need not be text
    columns = {f"{_COLUMN}{name}": column for name, column in ready.columns.items()}
    besides = _some(ready.alone, _ALONE)
    if ready.rejected_sides is not None:
        besides |= _some(ready.rejected_sides, _OTHER)
    return said, {"raw": raw, **columns, **_arrays(ready.encoded), **besides}


def ready_of(said: Mapping[str, Any], arrays: Arrays) -> Ready:
    """The other way round."""
    unusable, at, raw = [], 0, arrays["raw"].tobytes()
    for file, line, error, size, extent in said["unusable"]:
        where = None if extent is None else Extent(*extent)
        unusable.append(Unusable(file, line, error, raw[at : at + size], where))
        at += size
    return Ready(
        span=Span(**said["span"]),
        n_bytes=said["n_bytes"],
        left=said["left"],
        encoded=_rows(arrays),
        columns={n.removeprefix(_COLUMN): found for n, found in arrays.items() if n.startswith(_COLUMN)},
        source=tuple(said["source"]),
        remarks=Counter(said["remarks"]),
        unusable=tuple(unusable),
        alone=_some_of(arrays, _ALONE) or [],
        rejected_sides=_some_of(arrays, _OTHER),
    )


def _some(rows: Sequence[Encoded | None], prefix: str) -> Arrays:
    """Rows of which some are not there; names begin with the prefix."""
    there = np.array([row is not None for row in rows], np.bool_)
    found = {"there": there, **_arrays([row for row in rows if row is not None])}
    return {f"{prefix}{name}": of for name, of in found.items()}


def _some_of(arrays: Arrays, prefix: str) -> list[Encoded | None] | None:
    """The other way round; None where nothing has the prefix."""
    found = {name.removeprefix(prefix): of for name, of in arrays.items() if name.startswith(prefix)}
    if not found:
        return None
    rows = iter(_rows(found))
    return [next(rows) if there else None for there in found["there"].tolist()]


def _arrays(rows: Sequence[Encoded]) -> Arrays:
    """Rows one behind the other, and behind them the windows of those that are not read whole."""
    own = [() if _whole(row) else row.windows for row in rows]
    windows = [window for row in own for window in row]
    pieces: list[Tokens] = [*rows, *windows]
    lengths = [len(piece.ids) for piece in pieces]
    return {
        "ids": np.frombuffer(b"".join(array("i", piece.ids) for piece in pieces), np.intc),
        "mask": np.frombuffer(b"".join(bytes(piece.mask) for piece in pieces), np.bool_),
        "lengths": np.array(lengths, np.int64),
        "windows": np.array([len(row) for row in own], np.int64),
        "starts": np.array([window.start for window in windows], np.int64),
        "marked": np.array([row.marked for row in rows], np.bool_),
        "spans": np.concatenate([np.zeros((0, 2), np.int32), *(row.spans for row in rows)]),
        "n_spans": np.array([len(row.spans) for row in rows], np.int64),
    }


def _whole(row: Encoded) -> bool:
    """Whether a row's only window is the row."""
    return row.windows == (Window(row.ids, row.mask),)


def _rows(arrays: Arrays) -> list[Encoded]:
    ids, mask = arrays["ids"], arrays["mask"]
    pieces = [
        (tuple(ids[start:end].tolist()), tuple(mask[start:end].tolist())) for start, end in _places(arrays["lengths"])
    ]
    counts = arrays["windows"].tolist()
    starts = arrays["starts"].tolist()
    own = (Window(*piece, start) for piece, start in zip(pieces[len(counts) :], starts, strict=True))
    spans = (arrays["spans"][start:end] for start, end in _places(arrays["n_spans"]))
    return [
        Encoded(*piece, tuple(islice(own, count)) if count else (Window(*piece),), marked, where)
        for piece, count, marked, where in zip(pieces, counts, arrays["marked"].tolist(), spans, strict=False)
    ]


def _places(lengths: npt.NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    """Start and end of each of some pieces that stand one behind the other."""
    return pairwise([0, *np.cumsum(lengths).tolist()])


def error_said(error: Exception) -> dict[str, Any]:
    """An error and where it came from, for `send`: one of this package's or an `OSError` as it is, others by name."""
    return {"error": _plain(error), "trace": "".join(traceback.format_exception(error))}


def _plain(error: Exception) -> tuple[str, list[Any]]:
    for kind in type(error).__mro__ if isinstance(error, GeofilterError) else ():
        if getattr(errors, kind.__name__, None) is kind:
            return kind.__name__, [str(error)]
    if isinstance(error, OSError):
        if not isinstance(error.errno, int):
            return "OSError", [str(error)]
        name = error.filename
        return "OSError", [error.errno, error.strerror, os.fsdecode(name) if _is_name(name) else None]
    if isinstance(error, MemoryError):
        return "MemoryError", [str(error)]
    return "RuntimeError", [str(error) if type(error) is RuntimeError else f"{type(error).__name__}: {error}"]


def _is_name(name: object) -> bool:
    return isinstance(name, str | bytes | os.PathLike)


def error_of(said: Mapping[str, Any]) -> Exception:
    """The error; nothing but this package's own classes, `OSError`, `MemoryError` and `RuntimeError` is made."""
    kind, args = said["error"]
    own = getattr(errors, kind, None)
    if isinstance(own, type) and issubclass(own, GeofilterError):
        return own(*args)
    return _BUILT_IN.get(kind, RuntimeError)(*args)
