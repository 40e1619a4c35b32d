"""The plan: any shard is read alone, from any kind of file, as it is read in its turn."""

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command import write_rows
from helpers.scanning import rows

from geofilter.config import ScanConfig
from geofilter.errors import RunError
from geofilter.files import from_json
from geofilter.rows import bounded
from geofilter.rows.lines import Entry, entries_of, read_lines
from geofilter.run.names import PLAN
from geofilter.scanning import plan as planning
from geofilter.scanning.plan import COLUMNS, WIDTH, Lines, Plan, Work, drafted

N = 57


def parquet(path: Path, found: list[dict], group: int) -> Path:
    pq.write_table(pa.Table.from_pylist(found), path, row_group_size=group)
    return path


def made(folder: Path, kind: str) -> Path:
    """A file of `N` rows."""
    found = [{**row, "n": i} for i, row in enumerate(rows(N))]
    path = folder / f"d{kind}"
    if kind == ".parquet":
        return parquet(path, found, 10)
    if kind == ".json":
        path.write_text(json.dumps(found))
    elif kind == ".csv":
        path.write_text("prompt,response\n" + "".join(f'q{i},"an ""answer""\n{i}"\n' for i in range(N)))
    else:
        text = "".join(json.dumps(row) + "\r\n" * (row["n"] % 2) + "\n" * (1 - row["n"] % 2) for row in found)
        data = ("\ufeff" + text).encode()
        path.write_bytes(gzip.compress(data[:999]) + gzip.compress(data[999:]) if kind.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("near", [0, 10_000])
def test_shards_in_any_order_hold_the_lines_they_hold_in_turn(kind: str, near: int, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(planning, "NEAR", near)
    first = made(tmp_path, kind)
    other = write_rows(tmp_path / "other.jsonl", rows(9))
    config = ScanConfig((str(first), str(other), str(made(tmp_path, ".jsonl"))), shard_rows=7)
    draft = drafted(config)
    plan = draft.write(tmp_path)
    every = [(f, n, line) for f, path in enumerate(config.data) for n, line in enumerate(read_lines(Path(path)), 1)]
    assert [info["lines"] for info in draft.files] == [N, 9, N]
    assert plan.n_shards == -(-len(every) // 7)
    works = list(plan.read([(0, plan.n_shards)]))
    assert [work.first for work in works] == list(range(0, len(every), 7))
    random.Random(0).shuffle(works)
    lines = Lines(draft.files)
    for work in [*works, *sorted(works, key=lambda w: w.number)]:
        assert lines.of(work) == every[work.first : work.first + work.n_lines]
    ranges = [(0, 2), (5, plan.n_shards)]
    assert plan.n_lines(ranges) == sum(w.n_lines for w in plan.read(ranges)) == len(every) - 21
    assert plan.n_bytes(ranges) == sum(w.n_bytes for w in plan.read(ranges))


def test_files_are_entered_where_they_can_be(tmp_path: Path):
    lines = made(tmp_path, ".jsonl")
    at = len(b"".join(list(read_lines(lines))[:5]))
    assert entries_of(lines)(5, at) == Entry(5, at)
    assert [entries_of(made(tmp_path, ".parquet"))(row, 0) for row in (0, 9, 10, 56)] == [
        Entry(0, 0), Entry(0, 0), Entry(10, 1), Entry(50, 5)
    ]  # fmt: skip
    assert entries_of(made(tmp_path, ".jsonl.gz"))(5, at) == Entry()
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "none.parquet")


def test_a_line_that_is_too_long_to_keep_does_not_move_what_follows(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(bounded, "MOST_BYTES", 400)
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"x" * 5000 + b'\r\n{"text": "b"}\n' + b"y" * 900 + b'\n{"text": "c"}')
    draft = drafted(ScanConfig((str(path),), shard_rows=1))
    plan, every = draft.write(tmp_path), list(read_lines(path))
    extents = {}
    for work in reversed(list(plan.read([(0, 5)]))):
        ((_, number, line),) = Lines(draft.files).of(work)
        assert line == every[number - 1]
        extents[number] = getattr(line, "extent", None)
    assert extents == {n: getattr(line, "extent", None) for n, line in enumerate(every, 1)}
    assert extents[2].offset == 14 and extents[4].offset == 14 + 5002 + 14


def test_a_limit_and_long_rows_end_shards(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(planning, "SHARD_BYTES", 300)
    data = tuple(str(write_rows(tmp_path / f"{name}.jsonl", rows(30))) for name in "ab")
    draft = drafted(ScanConfig(data, limit=11, shard_rows=5))
    plan = draft.write(tmp_path)
    works = list(plan.read([(0, plan.n_shards)]))
    assert sum(work.n_lines for work in works) == 22
    assert [info["rows"] for info in draft.files] == [11, 11]
    assert any(work.n_lines < 5 for work in works[:-1])
    found = [line for work in works for line in Lines(draft.files).of(work)]
    assert [(f, n) for f, n, _ in found] == [(f, n) for f in (0, 1) for n in range(1, 12)]


def test_what_has_changed_is_told_with_its_line(tmp_path: Path):
    path = write_rows(tmp_path / "d.jsonl", rows(20))
    draft = drafted(ScanConfig((str(path),), shard_rows=5))
    plan = draft.write(tmp_path)
    text = path.read_text()
    for changed in (text.replace("question 12", "question 21"), text[: len(text) // 2], "\n" + text):
        path.write_text(changed)
        with pytest.raises(RunError, match=r"d\.jsonl: has changed since the scan began, at line 11 or behind it"):
            Lines(draft.files).of(plan[2])


def test_a_plan_that_is_not_as_it_was_written_is_refused(tmp_path: Path):
    path = write_rows(tmp_path / "d.jsonl", rows(20))
    plan = drafted(ScanConfig((str(path),), shard_rows=5)).write(tmp_path)
    whole = (tmp_path / PLAN).read_bytes()
    assert len(whole) == 5 * WIDTH
    assert from_json(whole[:WIDTH]) == list(COLUMNS)
    assert Work(*from_json(whole[WIDTH : 2 * WIDTH])) == plan[0]
    for damaged in (b"", whole[:-1], whole[WIDTH:]):
        (tmp_path / PLAN).write_bytes(damaged)
        with pytest.raises(RunError, match=r"plan\.jsonl: damaged"):
            Plan(tmp_path / PLAN)
    for damaged in (
        whole.replace(b"[1, 5", b"[2, 5"),
        whole.replace(b"[1, 5", b"[1, x"),
        whole.replace(b"[1, 5,", b"[1,"),
    ):
        (tmp_path / PLAN).write_bytes(damaged.ljust(len(whole)))
        with pytest.raises(RunError, match=r"plan\.jsonl: damaged \(line 3"):
            Plan(tmp_path / PLAN)[1]
    (tmp_path / PLAN).unlink()
    with pytest.raises(RunError, match=r"plan\.jsonl: damaged \(No such file"):
        Plan(tmp_path / PLAN)
