"""Where each row of the inputs goes, byte by byte, and records of a run that do not fit its inputs. No model."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command import write_rows
from helpers.runs import write_manifest

from geofilter.cut.cut import Cut, Selection
from geofilter.cut.notes import Notes, whole_note
from geofilter.cut.places import planned
from geofilter.errors import RunError
from geofilter.files import dumps
from geofilter.rows.records import Row
from geofilter.rows.style import STYLE
from geofilter.run.feature_sums import FeatureSums
from geofilter.run.store import FORMAT, Run
from geofilter.run.tensors import packed
from geofilter.together import Together

LINES = {
    "a.jsonl": [b'{"text": "%d"}\n' % i for i in range(6)],
    "b.jsonl": [b'{"text": "%d"}\n' % i for i in range(10, 14)],
}
SCANNED = {"a.jsonl": 5, "b.jsonl": 4}
"""--limit left out the last line of the first"""
ASIDE = {("a.jsonl", 2), ("a.jsonl", 5), ("b.jsonl", 1)}
SCORES = {("a.jsonl", 1): 3.0, ("a.jsonl", 3): 1.0, ("a.jsonl", 4): 3.0, ("b.jsonl", 2): 5.0, ("b.jsonl", 3): -1.0,
          ("b.jsonl", 4): 2.0}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Run:
    """A run of two inputs with rows that could not be scored, and lines that were not scanned."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    for name, lines in LINES.items():
        (tmp_path / name).write_bytes(b"".join(lines))
    names, n = list(LINES), len(SCORES)
    write_rows(folder / "scores.jsonl", [
        {"file": name, "line": line, "sha256": hashlib.sha256(LINES[name][line - 1].rstrip()).hexdigest(),
         "score": score, "percentile": 0.5, "bank": "b",
         "banks": {"b": {"score": score, "percentile": 0.5}}, "topic": None, "topics": {},
         "top_features": [], "common": 0.0, "explained": 0.0}
        for (name, line), score in SCORES.items()
    ])  # fmt: skip
    write_rows(folder / "quarantine.jsonl", [{"file": name, "line": line} for name, line in sorted(ASIDE)])
    kinds = {"sha256": (np.uint8, 32), "style": (np.float32, len(STYLE)), "learnt": (bool, 1)}
    arrays = {name: np.zeros((n, columns), kind) for name, (kind, columns) in kinds.items()}
    arrays |= {name: np.zeros(n, np.int32) for name in ("bank", "topic", "n_tokens", "n_turns", "shape", "source")}
    arrays |= {"file": np.array([names.index(name) for name, _ in SCORES], np.int32)}
    arrays |= {"line": np.array([line for _, line in SCORES]), "score": np.array(list(SCORES.values()))}
    (folder / "scores.safetensors").write_bytes(packed({**arrays, "percentile": np.full(n, 0.5)}, {}))
    data = [
        {
            "path": name,
            "rows": SCANNED[name],
            "lines": len(lines),
            "sha256": hashlib.sha256(b"".join(lines)).hexdigest(),
        }
        for name, lines in LINES.items()
    ]
    write_manifest(folder, {
        "format": FORMAT, "complete": True, "fingerprint": "f", "data": data, "banks": [{}], "counts": {"scored": n},
        "encoding": {"train": "all", "score_thinking": False},
    })  # fmt: skip
    return Run.open(Path("run"))


def rewritten(run: Run, name: str, rows: list[dict]) -> None:
    write_rows(run.path / name, rows)
    write_manifest(run.path, run.manifest)


@pytest.mark.parametrize("n", range(len(SCORES) + 1))
def test_every_scanned_line_goes_to_one_place(run: Run, n: int):
    highest = sorted(SCORES, key=lambda row: -SCORES[row])[:n]  # the earlier first among equals
    selection = Selection.of(run, Cut.parse(str(n)))
    written = selection.write()
    for index, (name, of) in enumerate(zip(LINES, written, strict=True)):
        stays = [i for i in range(SCANNED[name]) if (name, i + 1) not in {*highest, *ASIDE}]
        assert of.kept.read_bytes() == b"".join(LINES[name][i] for i in stays)
        assert selection.kept(index).tolist() == stays
        removed = [json.loads(line) for line in of.removed.read_bytes().splitlines()]
        gone = [row for row in SCORES if row[0] == name and row in highest]
        assert [row["text"] for row in removed] == [json.loads(LINES[name][line - 1])["text"] for _, line in gone]
        assert [row["geofilter"]["rank"] for row in removed] == [highest.index(row) + 1 for row in gone]
        aside = [json.loads(line) for line in of.quarantined.read_bytes().splitlines()]
        assert {(row["file"], row["line"]) for row in aside} == {row for row in ASIDE if row[0] == name}
        assert (of.n_kept, of.n_removed, of.n_quarantined) == (len(stays), len(gone), len(aside))
    assert selection.cutoff == (SCORES[highest[-1]] if highest else None)
    assert selection.rank().tolist() == [sorted(SCORES, key=lambda row: -SCORES[row]).index(row) + 1 for row in SCORES]


class Watcher:
    def __init__(self, wanted: list[int]) -> None:
        self.wanted, self.explained, self.rows = np.array(wanted, np.int64), [], []

    def named(self, sums: FeatureSums) -> None:
        self.explained += sums.explained

    def row(self, position: int, line, row: Row) -> None:
        self.rows.append((position, line["file"], line["line"], row.turns[-1].content))


@pytest.mark.parametrize("wanted", [[], [1], [0, 3, 5]])
def test_a_watcher_is_shown_the_rows_it_wants_and_what_the_removed_ones_name(run: Run, wanted: list[int]):
    selection, watcher, rows = Selection.of(run, Cut.parse("2")), Watcher(wanted), list(SCORES)
    plans = planned([Path(name) for name in LINES], None, None, run.path)
    with Together([]) as files:
        selection.write_rows(files, plans, watcher)
    assert watcher.explained == [0.0, 0.0]
    texts = [json.loads(LINES[name][line - 1])["text"] for name, line in rows]
    assert watcher.rows == [(i, *rows[i], texts[i]) for i in wanted]


@pytest.mark.parametrize("change", [
    lambda rows: rows[3].update(sha256="0" * 64),
    lambda rows: rows[3].update(line=3),
    lambda rows: rows.insert(0, rows.pop(3)),
    lambda rows: rows.pop(),
    lambda rows: rows.pop(0),
])  # fmt: skip
def test_score_lines_that_are_not_of_the_rows_are_refused(run: Run, change):
    """Though every hash fits."""
    rows = list(run.scores())
    change(rows)
    rewritten(run, "scores.jsonl", rows)
    with pytest.raises(RunError, match=r"scores\.jsonl: is not what the scan wrote"):
        Selection.of(run, Cut.parse("6")).write()
    assert not list(Path().glob("*.filtered.jsonl"))


@pytest.mark.parametrize(("change", "said"), [
    (lambda rows: rows.append({"file": "b.jsonl", "line": 5}), r"quarantine\.jsonl: is not what the scan wrote"),
    (lambda rows: rows.insert(2, {"file": "a.jsonl", "line": 6}), r"quarantine\.jsonl: is not what the scan wrote"),
    (lambda rows: rows.reverse(), r"a\.jsonl: .* does not match the run's"),
    (lambda rows: rows.pop(), r"b\.jsonl: .* does not match the run's"),
    (lambda rows: rows.pop(0), r"a\.jsonl: .* does not match the run's"),
    (lambda rows: rows[0].update(line=1), r"quarantine\.jsonl: is not what the scan wrote"),
])  # fmt: skip
def test_quarantined_rows_that_are_not_of_the_inputs_are_refused(run: Run, change, said: str):
    rows = list(run.quarantine())
    change(rows)
    rewritten(run, "quarantine.jsonl", rows)
    with pytest.raises(RunError, match=said):
        Selection.of(run, Cut.parse("1")).write()
    assert not list(Path().glob("*.filtered.jsonl"))


def test_an_input_that_has_grown_past_its_limit_has_changed(run: Run):
    with Path("a.jsonl").open("ab") as handle:
        handle.write(LINES["a.jsonl"][0])
    with pytest.raises(RunError, match=r"a\.jsonl: has changed since the scan; scan it again, then filter"):
        Selection.of(run, Cut.parse("1")).write()


def test_a_note_is_the_same_made_of_the_text_of_a_score_line():
    near = {"feature": 1, "label": "a · b", "cosine": 0.5}
    for name, said in (("b", 'c · "d"'), ("n_tokens", "é"), ("top_features", "\ud800"), ("a}, b", "like"), ("b", "\\")):
        feature = {
            "feature": 3,
            "label": said,
            "share": 1e-06,
            "times": None,
            "toxic": True,
            "near": near,
            "at": [0, 4],
        }
        detail: Any = {
            "file": "d.jsonl", "line": 7, "sha256": "0" * 64, "score": -0.0, "percentile": 1.0, "bank": name,
            "banks": {name: {"score": -0.0, "percentile": 1.0}, "n_tokens": {"score": 1e16, "percentile": 0.0}},
            "topic": name, "topics": {name: 0.1, "windows": 1e-05}, "n_tokens": 3, "response_tokens": 3, "windows": 1,
            "top_features": [feature, feature], "common": 0.25, "explained": 0.5,
        }  # fmt: skip
        for more in ({}, {"like": {"bad": None, "n_tokens": {"explained": 1}}}):
            text = dumps({**detail, **more})
            assert Notes(FeatureSums()).of(text, 2).text == whole_note(detail, 2)
            with pytest.raises(ValueError, match=r"delimiter|Expecting"):
                Notes(FeatureSums()).of(text[:-3], 2)
