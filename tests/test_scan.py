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
from conftest import CHATML, Done, chat, fit_sae, geofilter, make_model, make_sae, write_rows

from geofilter.bank.bank import Bank
from geofilter.config import TargetChoice
from geofilter.errors import InputError
from geofilter.run.store import Run
from geofilter.scanning.shards import _Ahead, _Ready
from geofilter.target.named import known
from geofilter.target.resolve import resolve


def rows(n: int) -> list[dict]:
    return [chat(f"question {i}?", f"the answer is {i} " * (1 + i % 9)) for i in range(n)]


def scan_args(tiny, bank: Path, *extra: object) -> list[object]:
    return ["scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", bank, *extra]


def only_run(folder: Path) -> Path:
    (run,) = (folder / ".geofilter").iterdir()
    return run


def test_scan_writes_every_row_once_and_says_what_it_found(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [*rows(30), {"nothing": 1}])
    done = geofilter(*scan_args(tiny, tiny_bank, "--shard-rows", 8, "--json"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert manifest["counts"]["rows"] == 31
    assert manifest["counts"]["scored"] == 30
    assert manifest["counts"]["quarantined"] == 1
    assert manifest["complete"] is True
    assert len(manifest["power"][0]["random_tails"]) == 20
    run = only_run(tmp_path)
    assert len(list((run / "features").iterdir())) == 4
    scores = [json.loads(x) for x in (run / "scores.jsonl").read_text("utf-8").splitlines()]
    assert [s["line"] for s in scores] == list(range(1, 31))
    assert set(scores[0]) == {
        "file", "line", "sha256", "score", "percentile", "bank", "banks", "topic", "topics", "n_tokens", "truncated",
        "top_features",
    }  # fmt: skip
    (quarantined,) = [json.loads(x) for x in (run / "quarantine.jsonl").read_text("utf-8").splitlines()]
    assert quarantined["line"] == 31
    assert quarantined["raw"] == '{"nothing": 1}'


def test_shards_of_any_size_give_the_same_scores(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(30))
    found = []
    for size in (4, 1000):
        done = geofilter(*scan_args(tiny, tiny_bank, "--shard-rows", size, "--run", f"run{size}"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / f"run{size}" / "scores.jsonl").read_text("utf-8").splitlines()
        found.append([json.loads(x)["score"] for x in lines])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


@pytest.mark.parametrize(("kind", "template"), [("gemma2", CHATML), ("llama", None)])
def test_other_architectures_and_models_without_a_template(kind: str, template: str | None, tmp_path: Path):
    model = make_model(tmp_path / "m", kind, template)
    pair = ["--model", model, "--sae", fit_sae(model, tmp_path / "sae")]
    write_rows(tmp_path / "bad.jsonl", [chat(f"q {i}", f"you fool {i}") for i in range(10)])
    write_rows(tmp_path / "d.jsonl", rows(12))
    built = geofilter(
        "bank", "build", "--no-prior", "--bad", "bad.jsonl", "--good", "d.jsonl", "--out", "b", *pair, cwd=tmp_path
    )
    assert built.returncode == 0, built.stderr
    done = geofilter("scan", "d.jsonl", *pair, "--bank", "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = geofilter("filter", "--drop", "3", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["counts"]["kept"] == 9


def test_an_sae_of_another_model_is_refused_before_anything_is_encoded(tiny, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(4))
    done = geofilter("scan", "d.jsonl", "--model", tiny[0], "--sae", make_sae(tmp_path / "sae"), cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].endswith("model and SAE do not belong together")
    assert not list((only_run(tmp_path) / "features").iterdir())


def test_a_killed_scan_goes_on_and_gives_identical_bytes(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(400))
    args = scan_args(tiny, tiny_bank, "--shard-rows", 10, "--quiet")
    process = subprocess.Popen([sys.executable, "-m", "geofilter", *map(str, args)], cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            parts = list(tmp_path.glob(".geofilter/*/features/part-*.safetensors"))
            if len(parts) >= 3 or process.poll() is not None:
                break
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    run = only_run(tmp_path)
    survived = {p.name: p.stat().st_mtime_ns for p in (run / "features").glob("part-*.safetensors")}
    assert 3 <= len(survived) < 40  # killed in the middle
    refused = geofilter("filter", "--drop", "10%", cwd=tmp_path)
    assert refused.returncode == 4
    assert refused.stderr.splitlines()[-1].endswith(
        "the scan is not complete; run the same geofilter scan command again to finish it"
    )
    again = geofilter(*args, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert all((run / "features" / name).stat().st_mtime_ns == then for name, then in survived.items())
    whole = geofilter(*args, "--run", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert (run / "scores.jsonl").read_bytes() == (tmp_path / "whole" / "scores.jsonl").read_bytes()


def test_another_bank_scores_the_same_shards_without_a_model(tiny, tiny_bank: Path, tmp_path: Path):
    import shutil

    write_rows(tmp_path / "d.jsonl", rows(20))
    assert geofilter(*scan_args(tiny, tiny_bank), cwd=tmp_path).returncode == 0
    run = only_run(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (run / "features").iterdir()}
    shutil.copytree(tiny_bank, tmp_path / "copy")
    text = json.loads((tmp_path / "copy" / "bank.json").read_text("utf-8"))
    (tmp_path / "copy" / "bank.json").write_text(json.dumps({**text, "name": "copy"}))
    done = geofilter(*scan_args(tiny, tiny_bank, "--bank", "copy", "--json"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens_encoded_now"] == 0
    assert {p: p.stat().st_mtime_ns for p in (run / "features").iterdir()} == before
    first = json.loads((run / "scores.jsonl").read_text("utf-8").splitlines()[0])
    assert set(first["banks"]) == {"tiny-bank", "copy"}
    assert first["banks"]["copy"] == first["banks"]["tiny-bank"]


@pytest.mark.parametrize("scorer", ["nearest", "activation", "dense", "length", "random"])
def test_every_scorer_runs_from_scan_to_report(tiny, tiny_bank: Path, tmp_path: Path, scorer: str):
    write_rows(tmp_path / "d.jsonl", rows(12))
    done = geofilter(*scan_args(tiny, tiny_bank, "--scorer", scorer), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = geofilter("filter", "--drop", "3", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["made_with"]["scorer"] == scorer


def test_settings_file_and_command_line(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(9))
    (tmp_path / "geofilter.toml").write_text(
        f'model = "{tiny[0]}"\nsae = "{tiny[1]}"\nbank = "{tiny_bank}"\nlimit = 4\nshard-rows = 2\n'
    )
    done = geofilter("scan", "d.jsonl", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["rows"] == 4
    done = geofilter("scan", "d.jsonl", "--json", "--limit", 6, cwd=tmp_path)
    assert json.loads(done.stdout)["counts"]["rows"] == 6
    done = geofilter("filter", "--drop", "1", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["counts"]["not_scanned"] == 3
    (tmp_path / "geofilter.toml").write_text("modle = 'x'\n")
    done = geofilter("scan", "d.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "geofilter: error: settings file: unknown key 'modle'; known: across, allow_other_model, "
    )
    scan, trial = ["scan", "d.jsonl"], ["trial", "--good", "d.jsonl"]
    for command, text, named in [
        (scan, "max-tokens = '9'", "max_tokens = '9' must be an integer"),
        (scan, "offline = 1", "offline = 1 must be true or false"),
        (scan, "model = 3", "model = 3 must be a string"),
        (scan, "layer = true", "layer = True must be an integer"),
        (scan, "bank = ['a', 2]", "bank = ['a', 2] must be a string"),
        (trial, "pairs = 3", "pairs = 3 must be a string"),
        (trial, "epochs = 'one'", "epochs = 'one' must be a number"),
    ]:
        (tmp_path / "geofilter.toml").write_text(text + "\n")
        done = geofilter(*command, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, f"geofilter: error: settings file: {named}\n")


def test_every_command_that_opens_a_target_reads_the_settings(tiny, tiny_bank: Path, tmp_path: Path):
    data = write_rows(tmp_path / "d.jsonl", rows(9))
    folder = tmp_path / "made"
    (tmp_path / "geofilter.toml").write_text(
        f'model = "{tiny[0]}"\nsae = "{tiny[1]}"\nrun = "{folder}"\nlimit = 3\nbank = "{tiny_bank}"\noffline = true\n'
    )
    assert geofilter("scan", "d.jsonl", "-q", cwd=tmp_path).returncode == 0
    assert (folder / "manifest.json").is_file()
    assert geofilter("bank", "check", tiny_bank, cwd=tmp_path).returncode in (0, 3)
    assert "ok   pair: " in geofilter("doctor", cwd=tmp_path).stdout
    done = geofilter(
        "bank", "build", "--no-prior", "--bad", data, "--good", data, "--out", tmp_path / "b", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "at least" in done.stderr  # three rows of each file are too few
    (tmp_path / "geofilter.toml").write_text("oflfine = true\n")
    for args in (["bank", "check", tiny_bank], ["bank", "show", tiny_bank], ["doctor"],
                 ["bank", "build", "--no-prior", "--bad", data, "--good", data, "--out", tmp_path / "b"]):  # fmt: skip
        done = geofilter(*args, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("geofilter: error: settings file: unknown key 'oflfine'; known: ")


def test_explain_reads_the_bank_of_the_scan_s_dtype(tiny, tmp_path: Path, monkeypatch):
    """`auto` may be another dtype where the run is explained: the cache must not get a bank under a wrong name."""
    from geofilter.encode import model

    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    write_rows(tmp_path / "d.jsonl", rows(3))
    args = ("--model", tiny[0], "--sae", tiny[1], "--bank", "toxic-text", "--run", tmp_path / "run", "-q")
    with monkeypatch.context() as gpu:  # what `auto` is on a GPU
        choose = model.choose_dtype
        gpu.setattr(model, "choose_dtype", lambda name, device: choose("bfloat16" if name == "auto" else name, device))
        assert geofilter("scan", "d.jsonl", *args, cwd=tmp_path).returncode == 0
    banks = tmp_path / "cache" / "banks"
    assert [folder.name.rpartition("-")[2] for folder in banks.iterdir()] == ["bfloat16"]
    before = {path: path.read_bytes() for path in banks.rglob("*.safetensors")}
    shutil.rmtree(banks)
    done = geofilter("explain", tmp_path / "run", "--row", 2, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in banks.rglob("*.safetensors")} == before


def test_explain_sums_to_the_stored_score(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [*rows(5), {"x": 1}])
    assert geofilter(*scan_args(tiny, tiny_bank), cwd=tmp_path).returncode == 0
    done = geofilter("explain", "--row", 3, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["line"] == 3
    total = sum(f["share"] for f in found["features"]) + found["other_active_features"] + found["silent_features"]
    assert total == pytest.approx(found["score"], abs=1e-4)
    for f in found["features"]:
        assert f["score_without"] == pytest.approx(found["score"] - f["share"], abs=1e-4)
    tokens = sum(t["share"] for t in found["tokens"])
    assert tokens == pytest.approx(found["score"] - found["silent_features"], abs=1e-4)
    assert geofilter("explain", "--row", 3, cwd=tmp_path).returncode == 0
    for row, error in [(6, "d.jsonl, line 6: not scored: no known fields;"), (99, "--row 99: no such row in the run")]:
        done = geofilter("explain", "--row", row, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"geofilter: error: {error}")


def test_explain_does_not_explain_another_bank(tiny, tiny_bank: Path, tmp_path: Path):
    shutil.copytree(tiny_bank, tmp_path / "b")
    write_rows(tmp_path / "d.jsonl", rows(5))
    assert geofilter(*scan_args(tiny, tmp_path / "b"), cwd=tmp_path).returncode == 0
    again = Bank.load(tmp_path / "b")
    Bank.save(replace(again, toxic=again.toxic[:-1]), tmp_path / "b")  # built again since
    done = geofilter("explain", "--row", 3, cwd=tmp_path)
    assert (done.returncode, errors_of(done)) == (4, f"{tmp_path}/b: the bank has changed since the scan; scan again")


def test_system_turns_are_folded_where_the_template_knows_none(hub, tmp_path: Path):
    plain, with_system = chat("q", "the answer"), chat("be brief\n\nq", "the answer")
    system = {"messages": [{"role": "system", "content": "be brief"}, *plain["messages"]]}
    write_rows(tmp_path / "d.jsonl", [plain, system, with_system])
    args = ["--model", "gemma-2-2b-it", "--offline", "--scorer", "length", "--json"]
    kept = json.loads(geofilter("scan", "d.jsonl", *args, cwd=tmp_path).stdout)
    assert (kept["counts"]["scored"], kept["counts"]["quarantined"]) == (2, 1)
    (quarantined,) = (tmp_path / kept["run"] / "quarantine.jsonl").read_text().splitlines()
    assert "--system fold puts system turns before the user turn that follows" in json.loads(quarantined)["error"]
    folded = json.loads(geofilter("scan", "d.jsonl", *args, "--system", "fold", cwd=tmp_path).stdout)
    assert folded["run"] != kept["run"]  # other features, another run
    assert folded["counts"]["scored"] == 3
    (shard,) = Run.open(tmp_path / folded["run"]).shards()
    same = [shard.pooled.take(np.array([i])).values for i in (1, 2)]
    np.testing.assert_allclose(*same, rtol=1e-5)


def errors_of(done: Done) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1].removeprefix("geofilter: error: ")


def test_input_errors_in_full(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(3))
    (tmp_path / "empty.jsonl").touch()
    write_rows(tmp_path / "bad.jsonl", [{"messages": [{"role": "user", "content": "x"}]}])
    (tmp_path / "file").write_text("x")
    pair = ["--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank]
    names = ", ".join(known())
    cases = [
        (
            ["no.jsonl", *pair],
            2,
            "no.jsonl: no such file; give the path of a data file (.jsonl, .jsonl.gz, .jsonl.zst or .parquet)",
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
        ([".", *pair], 2, ".: is a folder; give a data file (.jsonl, .jsonl.gz, .jsonl.zst or .parquet)"),
        (["x*.jsonl", *pair], 2, "x*.jsonl: matches no file; check the pattern and the folder"),
        (["d.jsonl", *pair, "--split", "test"], 2, "--split test: no input is a data set of the hub; leave it out"),
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
            "file/run: the run folder cannot be made (Not a directory); give a writable one with --run",
        ),
        (
            ["d.jsonl"],
            3,
            f'no model chosen; pass --model NAME (known: {names}) or put model = "NAME" into geofilter.toml',
        ),
        (
            ["d.jsonl", "--model", "gpt-9"],
            3,
            f"--model gpt-9: neither a named target ({names}), nor a folder, nor a hub id",
        ),
        (
            ["d.jsonl", "--model", tiny[0]],
            3,
            f"--model {tiny[0]}: not one of the named targets ({names}), so it needs an SAE: "
            "--sae RELEASE/SAE_ID of sae-lens, or --sae DIR",
        ),
        (
            ["d.jsonl", "--model", tiny[0], "--sae", tmp_path],
            3,
            f"{tmp_path}/cfg.json: no such file; --sae needs a SAELens folder (cfg.json, sae_weights.safetensors)",
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
        f"{run.relative_to(tmp_path)}: another scan is writing this run; wait for it or give another --run"
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
    _, stderr = process.communicate(timeout=60)
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


def test_a_huge_broken_line_is_quarantined_whole_and_a_damaged_shard_is_named(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(2))
    with (tmp_path / "d.jsonl").open("ab") as handle:
        handle.write(b'["' + b'\\"' * (30 << 20) + b'"]\n')  # over 60 MB of what JSON must escape again
    done = geofilter(*scan_args(tiny, tiny_bank), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    (quarantined,) = [json.loads(x) for x in (run / "quarantine.jsonl").read_text("utf-8").splitlines()]
    assert quarantined["raw"].encode() + b"\n" == (tmp_path / "d.jsonl").read_bytes().splitlines(keepends=True)[2]
    part = next((run / "features").iterdir())
    part.write_bytes(part.read_bytes()[:100])
    done = geofilter(*scan_args(tiny, tiny_bank), cwd=tmp_path)
    assert done.returncode == 4
    assert errors_of(done).startswith(f"{part.relative_to(tmp_path)}: damaged (")


def test_an_error_in_the_next_shard_leaves_this_one():
    made = _Ready(Path("part"), 1)

    def prepared():
        yield made
        yield None
        raise InputError("d.jsonl: cannot be read to its end")

    ahead = _Ahead(prepared())
    assert ahead.take() is made
    ahead.step()
    ahead.step()  # while the first is encoded
    with pytest.raises(InputError):
        ahead.take()
