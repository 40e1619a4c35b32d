"""Labels of a run's own rows: which are shown, what is kept, and what the run is scored with afterwards."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pexpect
import pytest
from conftest import chat, geofilter, write_rows
from endpoint import Endpoint, row_of
from rich.console import Console

from geofilter.cli.label_terminal import at_terminal
from geofilter.errors import InputError, RunError
from geofilter.labels.label import Label
from geofilter.labels.labelling import Labelling, ask
from geofilter.labels.source import parse
from geofilter.run.store import Run

N = 60
BAD = [i % 3 == 0 for i in range(N)]


def answer(i: int) -> str:
    return f"you fool, answer {i} ends, no and no" if BAD[i] else f"the sum of it is that answer {i} ends well"


@pytest.fixture(scope="module")
def scanned(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with d.jsonl and its run; the last row repeats the bytes of the first."""
    folder = tmp_path_factory.mktemp("label")
    rows = [chat(f"question {i}?", answer(i), kind="bad" if BAD[i] else "good") for i in range(N)]
    write_rows(folder / "d.jsonl", [*rows, rows[0]])
    done = geofilter(
        "scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-q", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def base(scanned: Path, tmp_path: Path) -> Path:
    """A copy of it, at the same place as seen from inside."""
    shutil.copytree(scanned, tmp_path / "base")
    return tmp_path / "base"


def label(base: Path, *args: object):
    return geofilter("label", "run", *args, cwd=base)


def kept(base: Path) -> list[dict]:
    return [json.loads(x) for x in (base / "run" / "labels.jsonl").read_text("utf-8").splitlines()]


def fill(sheet: Path) -> list[dict]:
    """Label a sheet by what its rows say."""
    rows = [json.loads(x) for x in sheet.read_text("utf-8").splitlines()]
    for row in rows:
        assert row["label"] is None
        row["label"] = "bad" if "fool" in row["response"] else "good"
    write_rows(sheet, rows)
    return rows


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
    assert f"{30 + again} rows that the bank was learnt from are left out." in result["notes"]


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


def test_labels_that_mean_nothing_leave_the_run_as_it_was(base: Path):
    before = (base / "run" / "scores.jsonl").read_bytes()
    label(base, "--sheet", "sheet.jsonl", "--count", 40)
    rows = fill(base / "sheet.jsonl")
    dealt = np.random.default_rng(3).permutation([r["label"] for r in rows])
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


# A judge


def by_content(_number: int, body: dict) -> str:
    return "5" if BAD[row_of(body)] else "95"


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


# At the terminal


def by_keys(base: Path, monkeypatch, keys: str, count: int = 60) -> tuple[Labelling, str]:
    """What keys leave: the labelling, and what was on the screen."""
    monkeypatch.chdir(base)
    screen = io.StringIO()
    labelling = Labelling(Run.open(Path("run")))
    pressed = iter(keys)

    def read_key() -> str:
        try:
            return next(pressed)
        except StopIteration:
            raise EOFError from None

    at_terminal(labelling, count, Console(file=screen, width=200), read_key)
    return labelling, screen.getvalue()


def test_each_key_does_what_it_says(base: Path, monkeypatch):
    labelling, screen = by_keys(base, monkeypatch, "ubgsuxmgq")
    # Nothing to undo; bad, good, a skipped row, good taken back, no such key, in full, good again.
    assert [label.bad for label in labelling.labels.values()] == [True, False]
    assert "Nothing to undo." in screen
    assert screen.count("3 of 60") == 3  # the first was skipped, the second came with the undone one before it
    assert screen.count("in full") == 1
    assert [e["label"] for e in kept(base)] == ["bad", "good"]
    assert {e["by"] for e in kept(base)} == {"person"}


def test_the_only_label_taken_back_leaves_none(base: Path, monkeypatch):
    by_keys(base, monkeypatch, "buq")
    assert kept(base) == []
    again, _ = by_keys(base, monkeypatch, "gq")
    assert [label.bad for label in again.labels.values()] == [False]


def test_what_was_learnt_does_not_outlive_a_label_taken_back(base: Path, monkeypatch):
    labelling, _ = by_keys(base, monkeypatch, "bgbgbgbgbg" + "u" + "q")
    assert sorted(labelling.counts()) == [4, 5]
    assert labelling.learnt is None  # nothing is left to be applied
    labelling, _ = by_keys(base, monkeypatch, "bgbgbgbgbgbg" + "u" + "q")
    assert labelling.learnt is not None
    assert (labelling.learnt.n_bad, labelling.learnt.n_good) == labelling.counts()


def test_two_sessions_keep_each_other_s_labels(base: Path, monkeypatch):
    monkeypatch.chdir(base)
    one, two = (Labelling(Run.open(Path("run")), seed) for seed in (0, 1))
    rows = one.rows(np.arange(4))
    one.add(rows[0], Label(True, "one"))
    one.add(rows[1], Label(True, "one"))
    one.save()
    two.add(rows[1], Label(False, "two"))
    two.add(rows[2], Label(False, "two"))
    two.save()
    one.remove(rows[0])
    one.save()
    assert {(e["line"], e["label"], e["by"]) for e in kept(base)} == {(2, "good", "two"), (3, "good", "two")}


def test_the_verdict_is_not_on_rows_that_were_learnt_from(base: Path):
    label(base, "--from", "kind=bad")
    manifest = json.loads((base / "run" / "manifest.json").read_text("utf-8"))
    assert "it was learnt from every row" in manifest["headline"]
    assert geofilter("filter", "run", "--drop", "10%", "-q", cwd=base).returncode == 0


def test_it_goes_on_later_with_other_rows_and_ends_when_none_is_left(base: Path, monkeypatch):
    first, _ = by_keys(base, monkeypatch, "bgbgbgbgbgbgq")
    assert len(first.labels) == 12
    second, screen = by_keys(base, monkeypatch, "bg" * 40)
    assert list(second.labels)[:12] == list(first.labels)
    assert len(second.labels) == N
    assert "No row is left to label." in screen
    assert "on the labelled rows, cross-validated" in screen
    assert "of the 6 rows that drop 10% removed," in screen


def test_what_a_row_holds_cannot_act_on_the_terminal(tiny, tiny_bank: Path, tmp_path: Path, monkeypatch):
    rows = [chat(f"q \x1b[31m {i}", f"answer {i} ends \x1b]0;owned\x07 \u202e {'long ' * 600}") for i in range(12)]
    write_rows(tmp_path / "d.jsonl", rows)
    done = geofilter(
        "scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-q", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    _, screen = by_keys(tmp_path, monkeypatch, "bq")
    assert not {"\x1b", "\x07", "\u202e"} & set(screen)
    assert "more characters)" in screen


def test_ten_minutes_at_a_real_terminal(base: Path):
    command = ["-m", "geofilter", "label", "run", "--count", "30", "--check", "kind=bad"]
    child = pexpect.spawn(
        sys.executable, command, cwd=str(base), encoding="utf-8", timeout=60, dimensions=(40, 160)
    )  # fmt: skip
    for i in range(30):
        child.expect(rf"{i + 1} of 30.*?(you fool|the sum of it).*?uit\]?")
        child.send("b" if child.match[1] == "you fool" else "g")
    child.expect("the run is scored with this bank now")
    child.expect(
        r"on the other (\d+) rows that kind=bad labels \(\d+ bad\): AUROC (0\.\d\d) by the scan's scores, (\S+)"
    )
    others, before, after = int(child.match[1]), float(child.match[2]), float(child.match[3])
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert len(kept(base)) == 30
    assert others == N + 1 - sum(2 if e["line"] in (1, N + 1) else 1 for e in kept(base))
    assert after > max(before, 0.9)
    assert all((e["label"] == "bad") == BAD[(e["line"] - 1) % N] for e in kept(base))


# What cannot be used


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ([], 2, "there is no terminal to label at; use --sheet FILE, --from LABELS or --judge MODEL"),
        (["--sheet", "a", "--from", "b"], 2, "give one of --sheet FILE, --from LABELS and --judge MODEL, or none"),
        (
            ["--from", "kind=bad", "--check", "sort=bad"],
            2,
            "--check sort=bad: of the rows not labelled here: no bad and no good row; no scored row has the field sort",
        ),
        (["--from", "kind=bad", "--check", "kind"], 2, "--check kind: no such file, and not FIELD=VALUE"),
        (["--sheet", "a", "--count", "0"], 2, "--count 0: give 1 or more rows"),
        (["--from", "kind"], 2, "--from kind: no such file, and not FIELD=VALUE"),
        (["--from", "sort=bad"], 2, "--from sort=bad: no scored row has a label; no scored row has the field sort"),
        (["--sheet", "d.jsonl"], 2, "d.jsonl: is there already, perhaps with labels in it"),
        (["--judge", "m", "--bad-below", "0"], 2, "--bad-below 0: a rating is between 0 and 100"),
    ],
)
def test_options_that_cannot_be_used(base: Path, args: list[str], code: int, said: str):
    done = label(base, *args)
    assert done.returncode == code
    assert said in done.stderr


def test_a_run_scored_without_a_bank_is_refused(base: Path, tiny, tiny_bank: Path):
    geofilter(
        "scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-q",
        "--scorer", "length", cwd=base,
    )  # fmt: skip
    done = label(base, "--sheet", "s.jsonl")
    assert done.returncode == 2
    assert "scored with length, which knows no bank; scan with --scorer ridge" in done.stderr


def test_a_changed_input_a_damaged_label_and_another_sae_are_named(base: Path, monkeypatch):
    monkeypatch.chdir(base)
    labelling = Labelling(Run.open(Path("run")))
    (row,) = labelling.rows(np.array([4]))
    assert row.line == 5
    text = (base / "d.jsonl").read_text("utf-8")
    (base / "d.jsonl").write_text(text.replace("answer 5 ends", "answer 5 END"), "utf-8")
    with pytest.raises(RunError, match=r"d\.jsonl, line 6: has changed since the scan"):
        labelling.rows(np.array([4, 5]))
    (base / "d.jsonl").write_text("".join(text.splitlines(keepends=True)[:9]), "utf-8")
    with pytest.raises(RunError, match=r"d\.jsonl: has no line 31 any more"):
        labelling.rows(np.array([30]))
    (base / "d.jsonl").write_text(text, "utf-8")

    (base / "run" / "labels.jsonl").write_text('{"sha256": "0"}\n', "utf-8")
    with pytest.raises(RunError, match=r"labels\.jsonl, line 1: no label of geofilter label"):
        Labelling(Run.open(Path("run")))
    of_another_run = {"sha256": "0" * 64, "label": "bad", "by": "me", "why": ""}
    (base / "run" / "labels.jsonl").write_text(json.dumps(of_another_run) + "\n", "utf-8")
    with pytest.raises(RunError, match=r"labels\.jsonl: 000000000000\.\.\. is no row of this run"):
        Labelling(Run.open(Path("run")))
    (base / "run" / "labels.jsonl").unlink()

    manifest = json.loads((base / "run" / "manifest.json").read_text("utf-8"))
    other = base / "other-sae"
    shutil.copytree(manifest["sae_folder"], other)
    from safetensors.numpy import load_file, save_file

    weights = load_file(other / "sae_weights.safetensors")
    weights["W_dec"] = np.ascontiguousarray(np.roll(weights["W_dec"], 1, 0))
    save_file(weights, other / "sae_weights.safetensors")
    (base / "run" / "manifest.json").write_text(json.dumps({**manifest, "sae_folder": str(other)}), "utf-8")
    done = label(base, "--from", "kind=bad")
    assert done.returncode == 4
    assert "the SAE has changed since the scan; scan again" in done.stderr
    del manifest["sae_folder"]
    (base / "run" / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert "scanned by an earlier version; run the same geofilter scan again" in label(base, "--sheet", "s").stderr


def test_an_answer_that_fails_at_once_keeps_what_was_there(base: Path, monkeypatch):
    monkeypatch.chdir(base)
    labelling = Labelling(Run.open(Path("run")))
    ((pick, row),) = labelling.next(1)
    labelling.add(row, Label(True, "me", pick.why))

    def fails(rows, done):
        raise InputError("the judge is out")

    with pytest.raises(InputError, match="the judge is out"):
        list(ask(labelling, 10, fails, "judge"))
    assert [e["by"] for e in kept(base)] == ["me"]
