"""Notes made of the text of score lines, by this process and by one of its own."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import write_manifest

import geofilter.apart
from geofilter.cut import noted
from geofilter.cut.noted import NotedRow, NotedRows, Wanted, packed, unpacked
from geofilter.cut.notes import Note, Notes, whole_note
from geofilter.errors import RunError
from geofilter.files import dumps
from geofilter.run.feature_sums import FeatureSums
from geofilter.run.names import LINES
from geofilter.run.store import FORMAT, Run

N = 40


def line(i: int) -> dict:
    rng = np.random.default_rng(i)
    features = [
        {
            "feature": int(f), "label": ("a · b", 'say "no"', "")[f % 3] if i % 5 else "never",
            "share": round(rng.random(), 6), "times": None if f % 4 == 0 else 12.5, "toxic": bool(f % 2),
            "near": {"feature": 7, "label": "fool", "cosine": 0.5} if f % 3 else None, "at": [0, 4],
        }
        for f in rng.permutation(9)[: i % 6]
    ]  # fmt: skip
    score = {"score": round(rng.normal(), 6), "percentile": round(rng.random(), 6)}
    found = {
        "file": "d.jsonl", "line": i + 1, "sha256": f"{i:064x}", **score, "bank": "one", "banks": {"one": score},
        "topic": None if i % 2 else "a", "topics": {} if i % 2 else {"a": 0.5}, "n_tokens": 3, "response_tokens": 3,
        "windows": 1, **({"rejected_score": -0.25} if i % 4 == 1 else {}), "top_features": features,
        "common": round(rng.normal(), 6), "explained": 0.5,
    }  # fmt: skip
    return {**found, "like": {"bad": {"row": 1, "similarity": 0.5}}} if i % 3 else found


LINES_OF = [line(i) for i in range(N)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / LINES).write_bytes(b"".join(map(dumps, LINES_OF)))
    write_manifest(tmp_path, {"format": FORMAT, "complete": True, "counts": {"scored": N}})
    return Run(tmp_path)


def noted_rows(run: Run) -> tuple[list[NotedRow], FeatureSums]:
    gone, watched = np.arange(N) % 3 != 0, np.arange(N) % 4 == 0
    rows = NotedRows(run, gone, watched, np.arange(N)[::-1])
    return list(rows.each()), rows.sums


def test_a_note_of_a_text_is_that_of_the_line_and_the_features_are_summed_up():
    notes, wanted = Notes(FeatureSums()), FeatureSums()
    for i, of in enumerate(LINES_OF):
        assert notes.of(dumps(of), i) == Note(of["line"], of["sha256"], whole_note(of, i))
        wanted.add(of)
    assert notes.sums.to_json() == wanted.to_json()
    assert FeatureSums.from_json(json.loads(json.dumps(wanted.to_json()))).to_json() == wanted.to_json()


@pytest.mark.parametrize("number", [b"1e999", b"NaN"])
def test_a_number_that_is_none_is_refused(number: bytes):
    with pytest.raises(ValueError, match="number"):
        Notes(FeatureSums()).of(dumps(LINES_OF[0]).replace(b'"explained": 0.5', b'"explained": ' + number), 1)


def test_a_process_of_its_own_says_the_same(run: Run, monkeypatch: pytest.MonkeyPatch):
    here, sums = noted_rows(run)
    assert [row.position for row in here] == [i for i in range(N) if i % 3 or i % 4 == 0]
    assert all(bool(row.note.text) == bool(row.position % 3) for row in here)
    assert all(row.text == (dumps(LINES_OF[row.position]) if row.position % 4 == 0 else b"") for row in here)
    monkeypatch.setattr(noted, "APART", 1)
    apart, sums_apart = noted_rows(Run(run.path))
    assert (apart, sums_apart.to_json()) == (here, sums.to_json())


def test_the_process_can_begin_ahead(run: Run, monkeypatch: pytest.MonkeyPatch):
    here = noted_rows(run)[0]
    monkeypatch.setattr(noted, "APART", 1)
    with noted.begun_ahead(run):
        assert [name for name, *_ in geofilter.apart._AHEAD] == [noted.MODULE]
        assert noted_rows(run)[0] == here
        assert not geofilter.apart._AHEAD
    with noted.begun_ahead(run):
        pass
    assert not geofilter.apart._AHEAD  # one that was not asked for is ended


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(path.read_bytes()[:-50]), lambda path: path.unlink(),
    lambda path: path.write_bytes(path.read_bytes().replace(b"never", b"nevvr")),
])  # fmt: skip
@pytest.mark.parametrize("least", [1, 10**6])
def test_lines_that_are_not_what_was_written_are_refused(run: Run, monkeypatch, least: int, damage):
    monkeypatch.setattr(noted, "APART", least)
    damage(run.path / LINES)
    with pytest.raises(RunError, match=r"scores\.jsonl: (is not what the scan wrote|cannot be read)"):
        noted_rows(run)


@pytest.mark.parametrize("least", [1, 10**6])
@pytest.mark.parametrize("text", [b'{"line": 1}\n', b"[]\n", b"\n", b"odd"])
def test_lines_of_which_every_hash_fits_but_that_are_none_are_refused(run: Run, monkeypatch, least: int, text: bytes):
    monkeypatch.setattr(noted, "APART", least)
    odd = b"".join(dumps({**of, "sha256": i, "line": str(i)}) for i, of in enumerate(LINES_OF))
    (run.path / LINES).write_bytes(odd if text == b"odd" else text * N)
    write_manifest(run.path, run.manifest)
    with pytest.raises(RunError, match=r"scores\.jsonl: is not what the scan wrote"):
        noted_rows(run)


def test_rows_are_sent_as_they_are():
    rows = [NotedRow(3, Note(4, "ab" * 32, b"note"), b""), NotedRow(5, Note(9, "cd" * 32, b""), b"text")]
    assert list(unpacked(packed(rows)[8:])) == rows
    assert packed([]) == bytes(8)
    wanted = Wanted(np.array([3, 5]), np.array([1, 0]), np.array([False, True]))
    for ours, theirs in zip(wanted, Wanted.read(io.BytesIO(b"".join(wanted.packed()))), strict=True):
        np.testing.assert_array_equal(ours, theirs)
