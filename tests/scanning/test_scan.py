import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.faults import Child
from helpers.scanning import only_run, rows, scan_args
from helpers.tiny import CHATML, fit_sae, make_model, make_sae

from geofilter.run.store import Run


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
        "file", "line", "sha256", "score", "percentile", "bank", "banks", "topic", "topics", "n_tokens",
        "response_tokens", "windows", "top_features", "common", "explained", "like",
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
def test_other_architectures_and_models_without_a_template(
    kind: str, template: str | None, tmp_path: Path, short_background
):
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
    child = Child(lambda: geofilter(*args, cwd=tmp_path))
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob(".geofilter/*/features/part-*.safetensors"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    assert child.outcome().code == 137
    run = only_run(tmp_path)
    survived = {p.name: p.stat().st_mtime_ns for p in (run / "features").glob("part-*.safetensors")}
    assert 3 <= len(survived) < 40  # killed in the middle
    refused = geofilter("filter", "--drop", "10%", cwd=tmp_path)
    assert refused.returncode == 4
    said = refused.stderr.splitlines()[-1]
    assert "the scan is not complete; go on with: geofilter scan d.jsonl --model " in said
    assert said.endswith("--shard-rows 10")
    again = geofilter(*args, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert all((run / "features" / name).stat().st_mtime_ns == then for name, then in survived.items())
    whole = geofilter(*args, "--run", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert (run / "scores.jsonl").read_bytes() == (tmp_path / "whole" / "scores.jsonl").read_bytes()


def test_another_bank_scores_the_same_shards_without_a_model(tiny, tiny_bank: Path, tmp_path: Path):

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


def test_system_turns_are_folded_where_the_template_knows_none(hub, tmp_path: Path, short_background):
    plain, with_system = chat("q", "the answer"), chat("be brief\n\nq", "the answer")
    system = {"messages": [{"role": "system", "content": "be brief"}, *plain["messages"]]}
    write_rows(tmp_path / "d.jsonl", [plain, system, with_system])
    # A bank of its own, since the built-in ones would be made for this target: a thousand rows through 13 layers.
    target = ["--model", "gemma-2-2b-it", "--offline"]
    write_rows(tmp_path / "bad.jsonl", [chat(f"q {i}", f"you fool {i}") for i in range(10)])
    write_rows(tmp_path / "good.jsonl", rows(10))
    built = geofilter(
        "bank", "build", "--no-prior", "--bad", "bad.jsonl", "--good", "good.jsonl", "--out", "b", *target, cwd=tmp_path
    )
    assert built.returncode == 0, built.stderr
    args = [*target, "--bank", "b", "--scorer", "length", "--json"]
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
