"""Damaged files of every packed or binary format, read one after the other; run as a program it prints what became of
them, so that a crash is seen by whoever started it."""

import bz2
import gzip
import io
import json
import lzma
import random
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geofilter.errors import GeofilterError
from geofilter.rows.formats import Jsonl, format_of
from geofilter.rows.records import Row, Unusable, read_rows


def originals() -> dict[str, bytes]:
    """A whole file of each format, by name."""
    from geofilter.rows.packing import _zstd  # as geofilter packs

    rows = [{"prompt": f"q {i} \u00e9", "completion": f"answer {i} " * (i % 7 + 1), "n": i} for i in range(300)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    made = {
        "d.jsonl.gz": gzip.compress(lines),
        "d.jsonl.bz2": bz2.compress(lines),
        "d.jsonl.xz": lzma.compress(lines),
        "d.jsonl.zst": _zstd().compress(lines),
    }
    turns = [{"messages": [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": "a" * (i % 9 + 1)}],
              "tags": ["x", None, str(i % 3)], "at": i / 7} for i in range(300)]  # fmt: skip
    nested, flat = pa.Table.from_pylist(turns), pa.Table.from_pylist(rows)
    for name, table, options in (
        ("flat.parquet", flat, {"compression": "none"}),
        ("nested.parquet", nested, {"compression": "zstd", "row_group_size": 100}),
        ("v2.parquet", nested, {"compression": "snappy", "data_page_version": "2.0", "use_dictionary": False}),
    ):
        out = io.BytesIO()
        pq.write_table(table, out, **options)
        made[name] = out.getvalue()
    dictionary = flat.set_column(0, "prompt", flat["prompt"].dictionary_encode())
    for name, table, make, packed in (
        ("file.arrow", nested, pa.ipc.new_file, None),
        ("stream.arrow", dictionary, pa.ipc.new_stream, None),
        ("packed.arrow", nested, pa.ipc.new_stream, "zstd"),
    ):
        out = io.BytesIO()
        with make(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=packed)) as writer:
            writer.write_table(table, max_chunksize=100)
        made[name] = out.getvalue()
    return made


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The file with a few bytes changed, most often in its head or foot, cut off, or with a piece moved or left out."""
    found = bytearray(data)
    kind = chance.choice(("flip", "flip", "foot", "foot", "head", "number", "cut", "piece", "swap"))
    n = len(found)
    if kind in ("flip", "foot", "head"):
        start, stop = {"flip": (0, n), "foot": (max(0, n - 1500), n), "head": (4, min(n, 300))}[kind]
        for _ in range(chance.choice((1, 1, 2, 8))):
            found[chance.randrange(start, stop)] = chance.randrange(256)
    elif kind == "number":  # sizes and counts, as large as they can be
        at = chance.randrange(n)
        found[at : at + 8] = chance.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0" * 4, b"\xff" * 8, b"\x80" * 8))
    elif kind == "cut":
        del found[chance.randrange(n) :]
    elif kind == "piece":
        at = chance.randrange(n)
        del found[at : at + chance.randrange(1, 200)]
    else:
        at, other, size = chance.randrange(n), chance.randrange(n), chance.randrange(1, 64)
        found[at : at + size] = found[other : other + size]
    return bytes(found)


def main(folder: Path, each: int, seed: int) -> None:
    """Read `each` mutations of every file; print a line of JSON for each file, and for whatever is no expected end."""
    for name, data in originals().items():
        chance, ends = random.Random(f"{seed} {name}"), Counter[str]()
        (folder / name).write_bytes(data)
        assert all(isinstance(row, Row) for row in read_rows(folder / name))
        began, slowest = time.monotonic(), 0.0
        for i in range(each):
            path = folder / f"{i}-{name}"
            path.write_bytes(mutated(data, chance))
            once = time.monotonic()
            try:
                kinds = {type(row) for row in read_rows(path)}
                assert kinds <= {Row, Unusable}
                if not isinstance(found := format_of(path), Jsonl):
                    found.write(np.ones(100, bool), io.BytesIO())
                ends["read"] += 1
            except GeofilterError as error:
                ends["refused"] += 1
                assert "\n" not in str(error), str(error)
                assert str(path) in str(error), str(error)
            except Exception:
                ends["other"] += 1
                _say({"file": str(path), "error": traceback.format_exc()[-1500:]})
                (folder / f"bad-{seed}-{i}-{name}").write_bytes(path.read_bytes())
            slowest = max(slowest, time.monotonic() - once)
            path.unlink()
        peak = max(_own_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
        seconds = {"seconds": round(time.monotonic() - began, 1), "slowest": round(slowest, 1)}
        _say({"name": name, **ends, **seconds, "peak_mb": peak // 1024})


def _own_peak() -> int:
    """kB; the kernel's other figure of it counts what the process held that started this one."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))


def _say(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
