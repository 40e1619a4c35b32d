import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pexpect
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.labelling import BAD, N, kept, label
from helpers.runs import write_manifest
from rich.console import Console

from geofilter.cli.label_terminal import at_terminal
from geofilter.errors import InputError, RunError
from geofilter.labels.asking import ask
from geofilter.labels.labelling import Labelling
from geofilter.run.labelled import Label
from geofilter.run.store import Run

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
    assert screen.count("prompt ─") == 8  # m shows a row once more
    assert "needs 5 bad and 5 good rows at least" in screen
    assert "1 of 60 · 0 bad, 0 good (5 bad and 5 good more needed)   [b]ad" in screen
    assert "3 of 60 · 1 bad, 1 good (4 bad and 4 good more needed)" in screen
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
    learnt_from = labelling.learnt.bank.meta["sources"]["labels"]
    assert (learnt_from["bad"], learnt_from["good"]) == labelling.counts()


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
        sys.executable, command, cwd=str(base), encoding="utf-8", timeout=300, dimensions=(40, 160)
    )  # fmt: skip
    for i in range(30):
        child.expect(rf"(you fool|the sum of it).*?(?<!\d){i + 1} of 30 .*?uit\]?")
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
        (["--sheet", "d.jsonl"], 2, "--sheet d.jsonl: is the input d.jsonl"),
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
    write_manifest(base / "run", {**manifest, "sae_folder": str(other)})
    done = label(base, "--from", "kind=bad")
    assert done.returncode == 4
    assert "the SAE has changed since the scan; scan again" in done.stderr
    del manifest["sae_folder"]
    write_manifest(base / "run", manifest)
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


def test_a_learnt_bank_keeps_the_names_of_features(base: Path, monkeypatch):
    monkeypatch.chdir(base)
    labelling = Labelling(Run.open(Path("run")))
    names = {"by": "me", "features": [{"feature": 3, "name": "threes"}]}
    labelling.priors = [replace(p, meta={**p.meta, "names": names}) for p in labelling.priors]
    for pick, row in labelling.next(30):
        labelling.add(row, Label("fool" in row.response, "me", pick.why))
    learnt = labelling.learn()
    assert learnt is not None
    assert learnt.bank.called(3) == "threes"
