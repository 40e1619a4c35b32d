"""Scoring by processes of their own: the same bytes as by this one, however many there are and if it is stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.scanning import rows, scan_args

from geofilter.bank.bank import Bank
from geofilter.bank.topics import Topics
from geofilter.errors import BankError, InputError, RunError
from geofilter.files import dumps, from_json
from geofilter.run import score as scoring_here
from geofilter.run import scoring
from geofilter.run.banks import find_banks
from geofilter.run.names import SCORING
from geofilter.run.part import PartMaker
from geofilter.run.score import score
from geofilter.run.score_apart import _scored as answer_of
from geofilter.run.scoring import Job, Task
from geofilter.run.scoring import _key as key_of
from geofilter.run.store import Run

FILES = ("scores.jsonl", "scores.safetensors", "vectors.safetensors", "quarantine.jsonl")
ALONE = """
import sys
from pathlib import Path
from geofilter.run import score as here
from geofilter.run.banks import find_banks
from geofilter.run.store import Run

here.APART = 1
run = Run(Path(sys.argv[1]))
banks = find_banks(Run(Path(sys.argv[2])))[0]
here.score(run, banks, "ridge", ["d.jsonl"])
"""


@pytest.fixture(scope="module")
def scanned(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of six shards under two banks, one of which leaves a feature out, of sources of their own."""
    folder = tmp_path_factory.mktemp("scoring")
    found = [{**row, "source": ("web", "a · b")[i % 2]} for i, row in enumerate(rows(24))]
    write_rows(folder / "d.jsonl", [*found[:7], {"nothing": 1}, *found[7:], chat("odd?", " 漢字, you fool\n ")])
    bank = Bank.load(tiny_bank)
    replace(bank, name="other", weights=np.roll(bank.weights, 3)).save(folder / "other")
    done = geofilter(
        *scan_args(tiny, tiny_bank, "--bank", folder / "other", "--run", "run", "--shard-rows", 5),
        "--exclude-feature", "tiny-bank:7", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Run.open(folder / "run")


@pytest.fixture
def run(scanned: Run, tmp_path: Path) -> Run:
    """The same, about to be scored."""
    shutil.copytree(scanned.path, tmp_path / "run")
    run = Run(tmp_path / "run")
    run.write_manifest({**run.manifest, "complete": False})
    for name in FILES:
        (run.path / name).unlink()
    return run


def banks_of(scanned: Run) -> list[Bank]:
    return find_banks(scanned)[0]


def apart(monkeypatch: pytest.MonkeyPatch, cores: int = 2) -> None:
    monkeypatch.setattr(scoring_here, "APART", 1)
    monkeypatch.setattr(scoring, "_cores", lambda: cores)


def written(run: Run) -> dict[str, bytes]:
    return {name: (run.path / name).read_bytes() for name in FILES}


def parts(run: Run) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (run.path / SCORING).glob("part-*.safetensors")}


def test_processes_write_what_one_writes(scanned: Run, run: Run, monkeypatch):
    said = score(run, banks_of(scanned), "ridge", ["d.jsonl"])
    assert not (run.path / SCORING).exists()
    assert written(run) == written(scanned)
    for cores in (1, 3):
        apart(monkeypatch, cores)
        assert score(run, banks_of(scanned), "ridge", ["d.jsonl"]) == said
        assert written(run) == written(scanned)
        assert len(parts(run)) == 6
        run.write_manifest({**run.manifest, "complete": True})
        assert not (run.path / SCORING).exists()
        run.write_manifest({**run.manifest, "complete": False})


def test_what_is_there_is_not_scored_again_but_where_it_is_damaged_or_of_something_else(
    scanned: Run, run: Run, monkeypatch
):
    apart(monkeypatch)
    score(run, banks_of(scanned), "ridge", ["d.jsonl"])
    before, wanted = parts(run), written(run)
    first, second, third, *others = sorted(before)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-9])
    third.write_bytes(b"")
    score(run, banks_of(scanned), "ridge", ["d.jsonl"])
    after = parts(run)
    assert written(run) == wanted
    assert all(after[path] != before[path] for path in (first, second, third))
    assert all(after[path] == before[path] for path in others)
    score(run, [banks_of(scanned)[0].excluding([3])], "contrast", ["d.jsonl"])
    assert all(made != after[path] for path, made in parts(run).items())


def test_lines_are_what_json_makes_of_them(scanned: Run, run: Run):
    """Of banks, topics, labels and files with whatever is in their names, half a surrogate pair too."""
    first, second = banks_of(scanned)
    rng = np.random.default_rng(0)
    labels = ['say "no"', "100 % \\", "\ud83d", "\n é"]
    topics = Topics(("50%", 'a "%s"', "\u2028"), rng.normal(size=(first.d_sae, 3)).astype(np.float32), 0 * first.rate)
    odd = replace(first, name="%r é", labels=[labels[i % 4] for i in range(first.d_sae)], topics=topics, rows=None)
    score(run, [odd, second], "ridge", ["d\ud83d%.jsonl"])
    lines = (run.path / "scores.jsonl").read_bytes().splitlines(keepends=True)
    found = [from_json(line) for line in lines]
    assert len(found) == 25
    assert [dumps(line) for line in found] == lines
    assert {line["file"] for line in found} == {"d\ud83d%.jsonl"}
    assert {line["bank"] for line in found} == {"%r é", "other"}
    assert {line["topic"] for line in found} <= {*topics.names, None}
    for line in found:
        assert line["topic"] is None or line["topics"][line["topic"]] == max(line["topics"].values())
        assert (
            line["score"] == line["banks"][line["bank"]]["score"] == max(of["score"] for of in line["banks"].values())
        )


def test_the_key_is_another_for_all_that_scores_depend_on(tmp_path: Path, monkeypatch):
    (tmp_path / "bank.json").write_text("{}")
    (tmp_path / "bank.safetensors").write_bytes(b"a")
    job: Job = {
        "banks": [{"folder": str(tmp_path), "excluded": []}], "scorer": "ridge", "paths": ["d.jsonl"], "stride": 1
    }  # fmt: skip
    keys = [key_of(job)]
    for change in (
        {"banks": [{"folder": str(tmp_path), "excluded": [3]}]}, {"scorer": "dense"}, {"paths": ["e"]}, {"stride": 2}
    ):  # fmt: skip
        keys.append(key_of({**job, **change}))
    (tmp_path / "bank.safetensors").write_bytes(b"b")
    keys.append(key_of(job))
    monkeypatch.setattr(scoring, "__version__", "0.0.0")
    keys.append(key_of(job))
    assert len({*keys}) == len(keys) == 7


def test_scoring_that_is_killed_goes_on(scanned: Run, run: Run, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", ALONE, run.path, scanned.path], start_new_session=True)
    until = time.monotonic() + 60
    while process.poll() is None and not parts(run) and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run.path / "scores.jsonl").exists() or process.returncode == 0
    apart(monkeypatch)
    score(run, banks_of(scanned), "ridge", ["d.jsonl"])
    assert written(run) == written(scanned)


def test_what_goes_wrong_in_a_process_is_told_as_ever(scanned: Run, run: Run, monkeypatch):
    apart(monkeypatch)
    shard = run.part(2)
    whole = shard.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    at = 8 + size + json.loads(whole[8 : 8 + size])["sha256"]["data_offsets"][0]
    shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(RunError, match=r"part-00002\.safetensors: damaged \(.* is not what was written\); make it"):
        score(run, banks_of(scanned), "ridge", ["d.jsonl"])
    shard.write_bytes(whole)
    assert not (run.path / "scores.jsonl").exists()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_score_that_is_no_number_is_told(scanned: Run, run: Run):
    bank = banks_of(scanned)[0]
    bad = replace(bank, weights=np.full_like(bank.weights, np.inf))
    with pytest.raises(BankError, match="gives a row a score that is no number; build it again"):
        score(run, [bad], "ridge", ["d.jsonl"])
    task: Task = {"shard": str(run.part(0)), "before": 0, "part": str(run.path / "part"), "key": ""}
    answer = answer_of(PartMaker([bad], "ridge", ["d.jsonl"], 1), task)
    assert answer["bank"] == f"bank {bank.name}: gives a row a score that is no number; build it again"


def test_a_process_that_is_ended_is_told(scanned: Run, run: Run, monkeypatch):
    apart(monkeypatch)
    monkeypatch.setattr(scoring, "start", lambda *_, **__: subprocess.Popen(
        [sys.executable, "-c", "raise SystemExit(9)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ))  # fmt: skip
    with pytest.raises(RunError, match="was ended, with code 9; run the same command again, which goes on"):
        score(run, banks_of(scanned), "ridge", ["d.jsonl"])


def test_a_folder_that_cannot_be_written_is_told(scanned: Run, run: Run, monkeypatch):
    apart(monkeypatch)
    (run.path / SCORING).write_bytes(b"")
    with pytest.raises(InputError, match="scoring"):
        score(run, banks_of(scanned), "ridge", ["d.jsonl"])
    (run.path / SCORING).unlink()
    (run.path / SCORING / "part-00001.safetensors").mkdir(parents=True)
    with pytest.raises(InputError, match=r"part-00001\.safetensors: cannot be written \(Is a directory\)"):
        score(run, banks_of(scanned), "ridge", ["d.jsonl"])
    assert json.loads((run.path / "manifest.json").read_text("utf-8"))["complete"] is False
