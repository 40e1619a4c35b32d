import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from helpers.command import geofilter, write_rows
from helpers.scanning import errors_of, only_run, rows, scan_args
from helpers.tiny import make_sae

from geofilter.config import TargetChoice
from geofilter.target.plan import NEEDS_SAE
from geofilter.target.resolve import resolve


def test_input_errors_in_full(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(3))
    (tmp_path / "empty.jsonl").touch()
    write_rows(tmp_path / "bad.jsonl", [{"messages": [{"role": "user", "content": "x"}]}])
    (tmp_path / "file").write_text("x")
    pair = ["--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank]
    cases = [
        (
            ["no.jsonl", *pair],
            2,
            "no.jsonl: no such file; give the path of a data file (.jsonl, .json, .csv, .tsv, .parquet or .arrow)",
        ),
        (["empty.jsonl", *pair], 2, "empty.jsonl: the file is empty; nothing to read"),
        (
            ["d.jsonl", "d.jsonl", *pair],
            2,
            "d.jsonl: is given twice, by name or through a pattern; give each file once",
        ),
        (
            ["./d.jsonl", "d.*", *pair],
            2,
            "d.jsonl: is given twice (also as ./d.jsonl), by name or through a pattern; give each file once",
        ),
        (["-", "-", *pair], 2, "-: standard input is given twice; it can be read once"),
        ([".", *pair], 2, ".: is a folder; give its files: '*.jsonl'"),
        (["x*.jsonl", *pair], 2, "x*.jsonl: matches no file; check the pattern and the folder"),
        (
            ["d.jsonl", *pair, "--split", "test"],
            2,
            "--split test: no input is a data set that has splits; leave it out",
        ),
        (
            ["bad.jsonl", *pair, "--on-error", "fail"],
            2,
            "bad.jsonl, line 1: no assistant turn; there is nothing a fine-tuning loss would fall on "
            "(--on-error quarantine sets such rows aside)",
        ),
        (["d.jsonl", *pair, "--max-tokens", 2], 2, "--max-tokens 2: too small; use at least 8"),
        (["d.jsonl", *pair, "--on-error", "x"], 2, "--on-error x: use quarantine or fail"),
        (["d.jsonl", *pair, "--limit", 0], 2, "--limit 0: must be at least 1"),
        (
            ["d.jsonl", *pair, "--run", "file/run"],
            2,
            "--run file/run: cannot be written (Not a directory); give another place",
        ),
        (
            ["d.jsonl"],
            3,
            'no model chosen; pass --model NAME (geofilter targets lists them) or put model = "NAME" into '
            "geofilter.toml",
        ),
        (
            ["d.jsonl", "--model", "gpt-9"],
            3,
            "--model gpt-9: neither a named target (geofilter targets lists them), nor a folder, nor a GGUF file, nor "
            "a hub id",
        ),
        (
            ["d.jsonl", "--model", tiny[0]],
            3,
            f"--model {tiny[0]}: {NEEDS_SAE}",
        ),
        (
            ["d.jsonl", "--model", tiny[0], "--sae", tmp_path],
            3,
            f"{tmp_path}/cfg.json: no such file; --sae needs a folder of SAELens (cfg.json, sae_weights.safetensors), "
            "of dictionary_learning (config.json, ae.pt) or of sparsify (cfg.json, sae.safetensors)",
        ),
        (
            ["d.jsonl", *pair[:4], "--bank", "nothing"],
            3,
            "--bank nothing: neither a built-in bank (toxic-text, harmful-answers) nor a folder",
        ),
    ]
    for args, code, text in cases:
        done = geofilter("scan", *args, cwd=tmp_path)
        assert (errors_of(done), done.returncode) == (text, code)
    done = geofilter("scan", "bad.jsonl", *pair, cwd=tmp_path)
    assert done.returncode == 2
    assert errors_of(done).startswith("bad.jsonl: no row can be scored; line 1: no assistant turn;")


def test_a_bank_made_for_another_target(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(3))
    other = make_sae(tmp_path / "sae")
    done = geofilter("scan", "d.jsonl", "--model", tiny[0], "--sae", other, "--bank", tiny_bank, cwd=tmp_path)
    assert done.returncode == 3
    made_for, this = (resolve(TargetChoice(str(tiny[0]), str(sae))).fingerprint[:8] for sae in (tiny[1], other))
    assert errors_of(done) == (
        f"{tiny_bank}: made for target model ({made_for}), not for this one ({this}); build a bank for this target"
    )


def test_a_run_of_another_configuration_and_a_missing_run(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(3))
    done = geofilter("filter", "--drop", "10%", cwd=tmp_path)
    assert done.returncode == 4
    assert errors_of(done) == f"{tmp_path}/.geofilter: no run here; make one with geofilter scan DATA --model NAME"
    assert geofilter(*scan_args(tiny, tiny_bank, "--run", "r"), cwd=tmp_path).returncode == 0
    done = geofilter(*scan_args(tiny, tiny_bank, "--run", "r", "--max-tokens", 64), cwd=tmp_path)
    assert done.returncode == 4
    assert errors_of(done) == ("r: holds a run of another configuration (max_tokens: 1024, now 64); give another --run")


def test_a_run_that_is_being_written_is_left_alone(tiny, tiny_bank: Path, tmp_path: Path):
    from filelock import FileLock

    write_rows(tmp_path / "d.jsonl", rows(3))
    assert geofilter(*scan_args(tiny, tiny_bank), cwd=tmp_path).returncode == 0
    run = only_run(tmp_path)
    with FileLock(run / "lock"):
        done = geofilter(*scan_args(tiny, tiny_bank), cwd=tmp_path)
    assert done.returncode == 4
    assert errors_of(done) == (
        f"{run.relative_to(tmp_path)}: another geofilter command is writing this run; wait for it, or scan into "
        "another --run"
    )


def test_an_interrupt_keeps_the_run(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(400))
    args = scan_args(tiny, tiny_bank, "--shard-rows", 10, "--quiet")
    process = subprocess.Popen(
        [sys.executable, "-m", "geofilter", *map(str, args)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(tmp_path.glob(".geofilter/*/features/part-*.safetensors")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "geofilter: interrupted; the same command goes on where it stopped"
    assert geofilter(*args, cwd=tmp_path).returncode == 0


def test_fail_holds_for_shards_that_are_there_already(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [*rows(4), {"x": 1}])
    assert geofilter(*scan_args(tiny, tiny_bank), cwd=tmp_path).returncode == 0
    done = geofilter(*scan_args(tiny, tiny_bank, "--on-error", "fail"), cwd=tmp_path)
    assert done.returncode == 2
    assert errors_of(done).startswith("d.jsonl, line 5: no known fields;")


def test_a_row_that_fails_a_later_shard_leaves_the_earlier_ones(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [*rows(4), {"x": 1}])
    args = scan_args(tiny, tiny_bank, "--run", "run", "--shard-rows", 2)
    done = geofilter(*args, "--on-error", "fail", cwd=tmp_path)
    assert done.returncode == 2
    assert errors_of(done).startswith("d.jsonl, line 5: no known fields;")
    assert [p.name for p in sorted(tmp_path.glob("run/features/*"))] == [
        "part-00000.safetensors",
        "part-00001.safetensors",
    ]


def test_an_unknown_scorer_is_refused_at_once(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(2))
    done = geofilter(*scan_args(tiny, tiny_bank, "--scorer", "magic"), cwd=tmp_path)
    assert done.returncode == 2
    assert errors_of(done) == (
        "--scorer magic: unknown; use ridge, contrast, nearest, activation, dense, length, random"
    )
    assert not (tmp_path / ".geofilter").exists()


def test_a_huge_line_is_quarantined_by_its_place_and_a_damaged_shard_is_named(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(2))
    with (tmp_path / "d.jsonl").open("ab") as handle:
        handle.write(b'["' + b'\\"' * (30 << 20) + b'"]\n')  # over 60 MB of what JSON must escape again
    done = geofilter(*scan_args(tiny, tiny_bank), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    (quarantined,) = [json.loads(x) for x in (run / "quarantine.jsonl").read_text("utf-8").splitlines()]
    there = (tmp_path / "d.jsonl").read_bytes()[quarantined["offset"] :][: quarantined["bytes"]]
    assert there.startswith(b'["') and there.endswith(b'"]')
    assert quarantined["sha256"] == hashlib.sha256(there).hexdigest()
    part = next((run / "features").iterdir())
    before, scores = part.read_bytes(), (run / "scores.jsonl").read_bytes()
    part.write_bytes(before[:100])
    done = geofilter("label", run.relative_to(tmp_path), "--sheet", "s.jsonl", cwd=tmp_path)
    named = part.relative_to(tmp_path)
    assert (done.returncode, errors_of(done).partition(";")[0]) == (4, f"{named}: is not what the scan wrote")
    done = geofilter(*scan_args(tiny, tiny_bank), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"note: {named}: damaged (" in done.stderr
    assert (part.read_bytes(), (run / "scores.jsonl").read_bytes()) == (before, scores)
