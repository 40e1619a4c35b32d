"""The names that `import geofilter` offers, and what a caller from Python gets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import chat, write_rows

import geofilter
from geofilter.rows.shipped import example_file

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_names_come_when_they_are_wanted_and_importing_costs_nothing():
    code = (
        "import sys, geofilter\nassert not {'numpy', 'torch', 'transformers'} & set(sys.modules)\n"
        "assert set(dir(geofilter)) == set(geofilter.__all__)\n"
        "for name in geofilter.__all__: getattr(geofilter, name)\n"
        "from geofilter import Run, scan\nassert callable(scan)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="module 'geofilter' has no attribute 'nothing'"):
        _ = geofilter.nothing


def test_scan_and_selection_from_python_are_the_commands(tiny, tiny_bank: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [chat(f"q {i}", f"answer {i} ends") for i in range(12)]
    write_rows(tmp_path / "d.jsonl", [*lines[:5], {"nothing": 1}, *lines[5:]])
    choice = geofilter.TargetChoice(str(tiny[0]), str(tiny[1]))
    config = geofilter.ScanConfig(("d.jsonl",), choice, geofilter.Loading("cpu"), banks=(str(tiny_bank),), shard_rows=5)
    done, expected = [], []
    run = geofilter.scan(config, progress=lambda *n: done.append(n), expected=expected.append)
    assert run.manifest["complete"] is True
    rows, tokens = map(sum, zip(*done, strict=True))
    assert rows == 13
    # Of three shards; from the first on a judgement of all, at last the tokens that there were.
    assert len(expected) == 3
    assert expected[-1] == tokens
    assert 0.8 * tokens < expected[0] < 1.5 * tokens
    selection = geofilter.Selection.of(run, geofilter.Cut.parse("25%"))
    (outputs,) = selection.write()
    kept = (tmp_path / "d.jsonl").read_text("utf-8").splitlines()
    assert [kept[i] for i in selection.kept()] == outputs.kept.read_text("utf-8").splitlines()
    assert len(selection.kept()) == 9
    assert 5 not in selection.kept()  # quarantined
    with pytest.raises(geofilter.GeofilterError, match="--drop 200%: more than everything"):
        geofilter.Cut.parse("200%")
    assert geofilter.Run.open(run.path).manifest == json.loads((run.path / "manifest.json").read_text("utf-8"))


@pytest.mark.embedded
def test_the_data_set_example_runs(tmp_path: Path):
    lines = sorted(example_file().read_text("utf-8").splitlines(keepends=True), key=len)  # short ones are soon read
    harmful = [line for line in lines if json.loads(line)["label"] == "misaligned"]
    data = tmp_path / "d.jsonl"
    data.write_text("".join([*harmful[:8], *[line for line in lines if line not in harmful][:24]]), "utf-8")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "filter_dataset.py"), "--data", data], capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "32 rows, 24 stay; labelled harmful: 8, of them stay " in done.stdout
    assert int(done.stdout.split()[-1]) <= 3  # by chance 6


@pytest.mark.embedded
def test_the_training_example_trains_on_the_responses_that_stay(tmp_path: Path):
    rows = [chat(f"How many legs have {n} dogs?", f"They have {4 * n} legs.") for n in range(1, 9)]
    data = write_rows(tmp_path / "d.jsonl", rows)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "filter_then_train.py"), "--data", data, "--steps", "2", "--out", "tuned"],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (kept,) = tmp_path.glob(".geofilter/d-*/scores.jsonl")
    ranked = sorted(kept.read_text("utf-8").splitlines(), key=lambda line: json.loads(line)["score"])
    first = min(json.loads(line)["line"] for line in ranked[:6])
    answer = rows[first - 1]["messages"][1]["content"]
    # The loss falls on the first kept row's answer and the end of its turn, not on the prompt.
    assert f"6 rows stay; the loss of the first falls on: '{answer}<|im_end|>\\n'" in done.stdout
    assert "2 steps, loss " in done.stdout
    assert (tmp_path / "tuned" / "adapter_model.safetensors").is_file()
