import io
import re
from pathlib import Path

import numpy as np
import pytest

from geofilter.errors import RunError
from geofilter.rows.keys import SHAPES
from geofilter.run.column import PIECE, Source, columns_of
from geofilter.run.score_arrays import PAIR_ARRAYS, SCORE_ARRAYS
from geofilter.run.tensors import GrowingTensors, outlined, packed, unpacked


@pytest.mark.parametrize("n", [0, 1, 7, 100])
def test_a_file_that_grows_is_the_one_written_at_once(n: int):
    rng = np.random.default_rng(0)
    rows = {
        "line": np.arange(n), "sha256": rng.integers(0, 255, (n, 32)).astype(np.uint8), "score": rng.random(n),
        "learnt": np.zeros((n, 2), bool), "style": rng.random((n, 9), np.float32), "bank": np.zeros(n, np.int32),
        "vectors": rng.random((n, 4)).astype(np.float16),
    }  # fmt: skip
    whole = {"centre": rng.random(5, np.float32), "basis": rng.random((5, 4)).astype(np.float16)}
    handle = io.BytesIO()
    growing = GrowingTensors(handle, {name: (of.dtype, of.shape[1:]) for name, of in rows.items()}, n, whole)
    for start in range(0, n, 3):
        growing.add({name: of[start : start + 3] for name, of in rows.items()})
    growing.finish()
    assert handle.getvalue() == packed({**rows, **whole}, {})


def test_an_outline_says_what_a_file_has_and_its_mark_is_another_for_other_arrays(tmp_path):
    path, marks = tmp_path / "a.safetensors", set()
    for array in (np.zeros((3, 2)), np.ones((3, 2))):
        path.write_bytes(packed({"a": array}, {"n": 3}))
        about, shapes, mark = outlined(path)
        assert (about, shapes) == ({"n": 3}, {"a": (3, 2)})
        marks.add(mark)
    assert len(marks) == 2
    path.write_bytes(path.read_bytes().replace(rb"{\\\"n\\\": 3}", rb"{\\\"n\\\": 4}"))
    with pytest.raises(ValueError, match="about is not what was written"):
        outlined(path)
    with pytest.raises(ValueError, match="about is not what was written"):
        unpacked(path)


def source_of(path: Path) -> Source:
    return Source(path, (path.stat().st_size, path.stat().st_mtime_ns), RunError)


def test_rows_of_a_column_are_read_where_they_are_needed(tmp_path):
    path, n = tmp_path / "a.safetensors", 2 * PIECE + 7
    whole = np.random.default_rng(0).integers(0, 255, (n, 3)).astype(np.uint8)
    path.write_bytes(packed({"a": whole, "b": np.zeros(n, np.float32)}, {}))
    found, sums = columns_of(source_of(path))
    column = found["a"]
    column.check(np.uint8, (n, 3), sums["a"])
    np.testing.assert_array_equal(column.whole(), whole)
    pieces = list(column.pieces(5, n - 1))
    assert [here.stop - here.start for here, _ in pieces] == [PIECE, PIECE, 1]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in pieces]), whole[5 : n - 1])
    for rows in ([], [n - 1], [3, 3, n - 1, 0, PIECE, PIECE - 1]):
        np.testing.assert_array_equal(column.take(np.array(rows, np.int64)), whole[np.array(rows, np.int64)])
    np.testing.assert_array_equal(column.where(lambda rows: rows[:, 1] > 100), whole[:, 1] > 100)
    with pytest.raises(ValueError, match="a is not what was written"):
        column.check(np.uint8, (n, 3), sums["b"])
    with pytest.raises(ValueError, match="a is uint8"):
        column.check(np.float32, (n, 3), sums["a"])


def test_a_column_of_a_file_that_changes_is_not_read_on(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed({"a": np.arange(9.0)}, {}))
    (column,) = columns_of(source_of(path))[0].values()
    assert column.read(2, 4).tolist() == [2.0, 3.0]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RunError, match="has changed while it was read"):
        column.read(2, 4)
    path.unlink()
    with pytest.raises(RunError, match="cannot be read"):
        column.whole()
    path.write_bytes(packed({"a": np.array([0.0, np.inf])}, {}))
    found, sums = columns_of(source_of(path), ["a"])
    with pytest.raises(ValueError, match=r"a\[1\] is not finite"):
        found["a"].check(np.float64, (2,), sums["a"])
    with pytest.raises(KeyError):
        columns_of(source_of(path), ["b"])


def test_the_page_names_the_arrays_of_the_scores_and_reads_them(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
    text = page.partition("### The scores of a run")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    told = {name.strip("`"): (kind, sizes) for name, kind, sizes, _ in rows}
    assert told == {
        name: (np.dtype(kind).name, ", ".join(["n", *("banks" if size is None else str(size) for size in sizes)]))
        for name, (kind, sizes) in (SCORE_ARRAYS | PAIR_ARRAYS).items()
    }
    assert re.findall(r"(\d) (\w+)", rows[list(told).index("shape")][3]) == [(str(i), s) for i, s in enumerate(SHAPES)]
    place = tmp_path / "runs" / "a" / "scores.safetensors"
    place.parent.mkdir(parents=True)
    place.write_bytes(packed({"score": np.arange(2000.0), "sha256": np.ones((2000, 32), np.uint8)}, {}))
    monkeypatch.chdir(tmp_path)
    names: dict[str, np.ndarray] = {}
    exec("\n".join(line[4:] for line in text.splitlines() if line[:4] == "    "), names)
    assert names["score"].tolist() == list(range(2000))
    assert names["first"].shape == (1000, 32)
