"""Runs whose every hash fits, and which are not what they say: numbers are held against what they are made of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command import write_rows
from helpers.runs import write_manifest
from helpers.verifying import doubts

from geofilter.run.tensors import packed, unpacked

SCORES, LINES, QUARANTINE = "run/scores.safetensors", "run/scores.jsonl", "run/quarantine.jsonl"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "manifest.json").read_bytes())


def arrays(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the scores' arrays."""

    def make(folder: Path) -> None:
        about, found = unpacked(folder / SCORES)
        found = {name: array.copy() for name, array in found.items()}
        change(found)
        (folder / SCORES).write_bytes(packed(found, about))

    return make


def records(name: str, change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    """Change the lines of a file."""

    def make(folder: Path) -> None:
        found = lines_of(folder / name)
        change(found)
        write_rows(folder / name, found)

    return make


def quarantined(**fields: Any) -> Callable[[list[dict[str, Any]]], object]:
    return lambda found: found.append({**found[0], **fields})


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (arrays(lambda a: a["score"].__setitem__(2, 9)), {(SCORES, "score of row 3"), (LINES, "line 3")}),
        (arrays(lambda a: a["percentile"].__setitem__(2, -1)), {(SCORES, "percentile of row 3")}),
        (arrays(lambda a: a["n_tokens"].__setitem__(65, 1)), {(SCORES, "n_tokens of row 66"), (LINES, "line 66")}),
        (arrays(lambda a: a["learnt"].__setitem__(0, ~a["learnt"][0])), {(SCORES, "learnt of row 1")}),
        (arrays(lambda a: a.update({k: v[:-1] for k, v in a.items()})), {(SCORES, "")}),
        (arrays(lambda a: a["line"].__setitem__(59, 99)), {(SCORES, "")}),
        (arrays(lambda a: a["sha256"].__setitem__(4, 0)), {(SCORES, "sha256 of row 5"), ("d.jsonl", "line 5")}),
        (records(LINES, lambda found: found.pop()), {(LINES, "line 68")}),
        (records(LINES, lambda found: found[7].update(bank="other")), {(LINES, "line 8")}),
        (records(QUARANTINE, lambda found: found[0].update(raw="x")), {(QUARANTINE, "line 1"), ("d.jsonl", "line 61")}),
        (records(QUARANTINE, lambda found: found.clear()), {(QUARANTINE, "line 1"), ("d.jsonl", "line 61")}),
        (records(QUARANTINE, quarantined(line=70)), {(QUARANTINE, "line 2"), ("d.jsonl", "")}),
        (records(QUARANTINE, lambda found: found.insert(0, {**found[0], "line": 1})), {("d.jsonl", "line 1")}),
        (lambda folder: (folder / "run/features/part-00002.safetensors").unlink(), {("run/features", "")}),
    ],
)  # fmt: skip
def test_a_run_that_contradicts_itself_is_named_with_the_place(copy: Path, change: Callable, wanted: set):
    change(copy)
    write_manifest(copy / "run", manifest_of(copy))
    found = set(doubts(copy))
    assert wanted <= found, found


def test_counts_that_do_not_add_up_and_labels_of_no_row_are_named(copy: Path):
    manifest = manifest_of(copy)
    manifest["counts"]["quarantined"] += 1
    write_manifest(copy / "run", manifest)
    labels = lines_of(copy / "run" / "labels.jsonl")
    write_rows(copy / "run" / "labels.jsonl", [*labels, {**labels[0], "sha256": "0" * 64}])
    found = doubts(copy)
    assert ("run", "counts") in found
    assert ("run/labels.jsonl", f"line {len(labels) + 1}") in found


def test_what_is_gone_is_named(copy: Path):
    (copy / "run" / "features" / "part-00002.safetensors").unlink()
    (copy / "d.jsonl").unlink()
    (copy / "run" / "labelled" / "bank.safetensors").unlink()
    found = doubts(copy)
    assert {("run/features/part-00002.safetensors", ""), ("d.jsonl", ""), ("run/labelled/bank.safetensors", "")} <= {
        *found
    }


def test_an_input_that_has_become_shorter_is_named_with_the_last_row_that_the_run_has(copy: Path):
    kept = (copy / "d.jsonl").read_bytes().splitlines(keepends=True)[:50]
    (copy / "d.jsonl").write_bytes(b"".join(kept))
    assert {("d.jsonl", "line 60"), ("d.jsonl", "")} <= set(doubts(copy))


def test_scores_whose_bank_is_gone_cannot_be_vouched_for(copy: Path):
    manifest = manifest_of(copy)
    for bank in manifest["banks"]:
        bank["path"] = str(copy / "gone")
    del manifest["scanned_banks"]
    write_manifest(copy / "run", manifest)
    assert {("gone/bank.json", ""), ("run", "")} <= set(doubts(copy))


def test_a_bank_that_cannot_be_read_is_told_by_why(copy: Path):
    about = copy / "run" / "labelled" / "bank.json"
    about.write_bytes(about.read_bytes()[:20])
    assert any(file == "run/labelled/bank.json" and "Unterminated" in place for file, place in doubts(copy))
