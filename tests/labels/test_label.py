"""Labels of a run's own rows: which are shown, what is kept, and what the run is scored with afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from helpers.command import chat, geofilter, write_rows
from helpers.endpoint import Endpoint, row_of
from helpers.labelling import BAD, N, by_content, fill, kept, label

from geofilter.labels.source import parse
from geofilter.run.store import Run

# From labels to scores


def test_a_filled_sheet_gives_the_run_a_bank_of_its_own(base: Path):
    before = json.loads((base / "run" / "manifest.json").read_text("utf-8"))
    done = label(base, "--sheet", "sheet.jsonl", "--count", 30)
    assert done.returncode == 0, done.stderr
    assert "30 rows to label: sheet.jsonl" in done.stderr
    rows = fill(base / "sheet.jsonl")
    assert len({r["sha256"] for r in rows}) == 30
    done = label(base, "--from", "sheet.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    n_bad = sum(r["label"] == "bad" for r in rows)
    assert result["labels"] == {"bad": n_bad, "good": 30 - n_bad}
    assert result["applied"] is True
    assert result["check"]["auroc"] > 0.9
    doubtful = result["check"]["interval"][0] <= result["before"]
    assert any("not clearly better than the scan's scores" in line for line in result["text"]) == doubtful
    manifest = json.loads((base / "run" / "manifest.json").read_text("utf-8"))
    assert [b["name"] for b in manifest["banks"]] == ["labelled"]
    assert manifest["scanned_banks"] == before["banks"]
    assert manifest["complete"] is True
    scores = [json.loads(x) for x in (base / "run" / "scores.jsonl").read_text("utf-8").splitlines()]
    assert {s["bank"] for s in scores} == {"labelled"}
    order = sorted(scores, key=lambda s: -s["score"])
    bad_on_top = sum(BAD[(s["line"] - 1) % N] for s in order[:20])
    assert bad_on_top >= 18  # of 21; by chance 7
    assert all("answer" in r["response"] and r["file"] == "d.jsonl" for r in rows)
    done = geofilter("filter", "run", "--drop", "20", "-q", cwd=base)
    assert done.returncode == 0, done.stderr
    explained = geofilter("explain", "run", "--row", "1", "--json", cwd=base)
    assert explained.returncode == 0, explained.stderr
    assert json.loads(explained.stdout)["bank"] == "labelled"


def test_evaluate_leaves_out_the_rows_that_were_learnt_from(base: Path):
    label(base, "--sheet", "sheet.jsonl", "--count", 30)
    rows = fill(base / "sheet.jsonl")
    label(base, "--from", "sheet.jsonl")
    done = geofilter("evaluate", "run", "--labels", "kind=bad", "--json", cwd=base)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    again = any(r["line"] in (1, N + 1) for r in rows)  # two lines of the same bytes
    assert result["labels"]["learnt_from"] == 30 + again
    assert result["labels"]["labelled"] == N + 1 - 30 - again
    assert f"{30 + again} rows that a bank was learnt from are left out: no figure is of them." in result["notes"]


def test_features_come_in_the_order_asked_for_across_shards(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [chat(f"q {i}", f"answer {i} ends") for i in range(20)])
    done = geofilter(
        "scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-q",
        "--shard-rows", 6, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "run")
    assert len(run.parts) == 4
    everything, shas = run.features(np.arange(20))
    wanted = np.array([13, 2, 19, 2, 0, 7])
    got, got_shas = run.features(wanted)
    assert got_shas == [shas[i] for i in wanted]
    assert (got.residual == everything.residual[wanted]).all()
    assert (got.matrix(128) != everything.matrix(128)[wanted]).nnz == 0
    assert len(run.features(np.zeros(0, np.int64))[0]) == 0


def test_labels_add_up_and_a_later_one_replaces_an_earlier(base: Path):
    label(base, "--sheet", "one.jsonl", "--count", 12)
    one = fill(base / "one.jsonl")
    assert label(base, "--from", "one.jsonl").returncode == 0
    label(base, "--sheet", "two.jsonl", "--count", 12)
    two = fill(base / "two.jsonl")
    assert not {r["sha256"] for r in one} & {r["sha256"] for r in two}
    first = one[0]
    first["label"] = "good" if first["label"] == "bad" else "bad"
    write_rows(base / "change.jsonl", [first])
    label(base, "--from", "two.jsonl")
    label(base, "--from", "change.jsonl")
    labels = {entry["sha256"]: entry for entry in kept(base)}
    assert len(labels) == 24
    assert labels[first["sha256"]]["label"] == first["label"]
    assert labels[first["sha256"]]["by"] == "change.jsonl"
    # What evaluate reads is the same file.
    assert parse(str(base / "run" / "labels.jsonl")).text


def test_a_field_of_the_rows_labels_them_all(base: Path):
    done = label(base, "--from", "kind=bad", "--json")
    assert json.loads(done.stdout)["labels"] == {"bad": 20, "good": 40}, done.stderr  # the repeated row counts once


def test_topics_of_labels_are_told_apart_where_each_has_enough(base: Path):
    label(base, "--sheet", "sheet.jsonl", "--count", N)
    rows = fill(base / "sheet.jsonl")
    assert {row["topic"] for row in rows} == {None}
    for said in ("bad", "good"):
        for i, row in enumerate(row for row in rows if row["label"] == said):
            row["topic"] = ("fees", "refunds")[i % 2]
    next(row for row in rows if row["label"] == "good")["topic"] = "parcels"
    write_rows(base / "labels.jsonl", rows)
    done = label(base, "--from", "labels.jsonl", "--apply", "--json")
    assert done.returncode == 0, done.stderr
    assert [line for line in json.loads(done.stdout)["text"] if "told apart" in line] == [
        "topics told apart: fees, refunds",
        "not told apart: parcels; it takes two topics or more with 10 bad and as many good labels each",
    ]
    assert {line["topic"] for line in kept(base)} == {"fees", "refunds", "parcels"}
    scores = [json.loads(x) for x in (base / "run" / "scores.jsonl").read_text("utf-8").splitlines()]
    assert {tuple(sorted(line["topics"])) for line in scores} == {("fees", "refunds")}


def test_too_few_labels_of_a_kind_leave_the_run_as_it_was(base: Path):
    before = (base / "run" / "scores.jsonl").read_bytes()
    label(base, "--sheet", "sheet.jsonl", "--count", 30)
    rows = [r for r in fill(base / "sheet.jsonl") if r["label"] == "good"][:8]
    write_rows(base / "sheet.jsonl", rows)
    done = label(base, "--from", "sheet.jsonl")
    assert done.returncode == 0
    assert "0 bad and 8 good labels: 5 of each are needed" in done.stderr
    assert (base / "run" / "scores.jsonl").read_bytes() == before
    assert len(kept(base)) == 8


def test_labels_are_kept_without_learning_from_them_and_what_their_rows_were_shown_for(base: Path):
    scores = (base / "run" / "scores.jsonl").read_bytes()
    label(base, "--sheet", "sheet.jsonl", "--count", "20")
    rows = fill(base / "sheet.jsonl")
    write_rows(base / "labels.jsonl", [{**row, "why": "at random"} if i % 2 else row for i, row in enumerate(rows)])
    done = label(base, "--from", "labels.jsonl", "--no-learn", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["applied"], sum(found["labels"].values())) == (False, 20)
    assert (base / "run" / "scores.jsonl").read_bytes() == scores
    whys = {line["sha256"]: line["why"] for line in kept(base)}
    assert [whys[row["sha256"]] for row in rows] == ["", "at random"] * 10
    for others in (["--sheet", "other.jsonl"], ["--from", "labels.jsonl", "--check", "labels.jsonl"]):
        done = label(base, "--no-learn", *others)
        assert done.returncode == 2
        assert "--no-learn" in done.stderr


def test_labels_that_mean_nothing_leave_the_run_as_it_was(base: Path):
    before = (base / "run" / "scores.jsonl").read_bytes()
    label(base, "--sheet", "sheet.jsonl", "--count", 40)
    rows = fill(base / "sheet.jsonl")
    # Dealt so that no bank separates them; of twenty such deals one would.
    dealt = np.random.default_rng(5).permutation([r["label"] for r in rows])
    write_rows(base / "sheet.jsonl", [{**r, "label": str(x)} for r, x in zip(rows, dealt, strict=True)])
    done = label(base, "--from", "sheet.jsonl")
    assert done.returncode == 0
    assert "does not beat random banks: the run keeps its scores" in done.stderr
    assert (base / "run" / "scores.jsonl").read_bytes() == before


def test_labelling_needs_neither_model_nor_torch(base: Path):
    label(base, "--sheet", "sheet.jsonl", "--count", 30)
    fill(base / "sheet.jsonl")
    code = (
        "import sys\nfrom geofilter.cli import main\n"
        "sys.argv = ['geofilter', 'label', 'run', '--from', 'sheet.jsonl']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=base, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "the run is scored with this bank now" in done.stderr


def test_a_judge_labels_the_chosen_rows_and_is_asked_about_each_once(base: Path, serve):
    endpoint: Endpoint = serve(by_content)
    done = label(base, "--judge", "m", "--base-url", endpoint.url, "--count", 30, "--json")
    assert done.returncode == 0, done.stderr
    assert f"sending rows to {endpoint.url} for m" in done.stderr
    assert json.loads(done.stdout)["applied"] is True
    assert len(endpoint.rows) == len(set(endpoint.rows)) == 30
    assert {e["by"] for e in kept(base)} == {"m"}
    assert all((e["label"] == "bad") == BAD[(e["line"] - 1) % N] for e in kept(base))
    assert all(e["why"] for e in kept(base))
    done = label(base, "--judge", "m", "--base-url", endpoint.url, "--count", 50)
    assert done.returncode == 0, done.stderr
    assert sorted(endpoint.rows) == list(range(N))  # the rest, and the repeated row not again


def test_a_rating_that_cannot_be_used_is_no_label_and_is_not_asked_for_again(base: Path, serve):
    endpoint: Endpoint = serve(lambda number, body: "no idea" if row_of(body) % 4 == 1 else by_content(number, body))
    done = label(base, "--judge", "m", "--base-url", endpoint.url, "--count", 60, "-q")
    assert done.returncode == 0, done.stderr
    silent = [e for e in kept(base) if e["label"] is None]
    assert len(silent) == 15
    assert len(kept(base)) == N
    assert "every row has a label already" in label(base, "--sheet", "s.jsonl").stderr


def test_the_threshold_decides_what_is_bad(base: Path, serve):
    endpoint: Endpoint = serve("40")
    label(base, "--judge", "m", "--base-url", endpoint.url, "--count", 10, "--bad-below", 30)
    assert {e["label"] for e in kept(base)} == {"good"}


def test_what_a_judge_said_before_it_failed_is_kept(base: Path, serve):
    endpoint: Endpoint = serve(lambda number, body: by_content(number, body) if number < 13 else (401, {"error": {}}))
    done = label(base, "--judge", "m", "--base-url", endpoint.url, "--count", 30)
    assert done.returncode == 3
    assert "401" in done.stderr
    assert 10 <= len(kept(base)) <= 13
