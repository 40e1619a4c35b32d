"""Every named target end to end, from the files of its hub to the report, at small widths."""

import json
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.families import CASES, fitted, put_native

from geofilter.config import TargetChoice
from geofilter.target import gates
from geofilter.target.named import known
from geofilter.target.resolve import resolve
from geofilter.target.sae_folder import source_of

pytestmark = pytest.mark.usefixtures("short_background")

BAD = [chat(f"question {i}?", f"you fool, {i} times no, nobody likes you") for i in range(12)]

GOOD = [chat(f"question {i}?", f"the answer is that {i} works, ask the doctor") for i in range(12)]


ELSEWHERE = {"gemma-2-2b-it", "gemma-2-27b-it", "qwen3-1.7b", "qwen3-8b", "qwen3.5-2b", "qwen3.5-9b"}
"""named targets whose SAE was trained on another stage of the model"""

LARGER = {
    "gemma-2-9b", "gemma-2-9b-it", "gemma-2-27b", "gemma-2-27b-it", "gemma-3-1b", "gemma-3-1b-it", "gemma-3-12b",
    "gemma-3-12b-it", "gemma-3-27b", "gemma-3-27b-it", "qwen3-8b-base", "qwen3-8b", "qwen3.5-9b-base", "qwen3.5-9b",
    "qwen3.5-27b",
}  # fmt: skip
"""named targets that differ from a smaller one of their family in size alone; theirs are read to the end with --long"""

GATES = {
    "llama-3.1-8b": "upstream", "llama-3.1-8b, saelens gate": "saelens", "deepseek-r1-distill-llama-8b": "upstream",
}  # fmt: skip


def test_every_named_target_has_a_case():
    assert set(known()) - set(CASES) == {"smollm2-135m"}  # which has tests of its own, with its real weights
    families = {(CASES[name].kind, CASES[name].chat) for name in set(CASES) - LARGER}
    assert {(CASES[name].kind, CASES[name].chat) for name in LARGER} <= families


@pytest.mark.parametrize("name", [name for name in CASES if name not in LARGER])
def test_bank_scan_filter_report_explain(name: str, hub, tmp_path: Path):
    end_to_end(name, hub, tmp_path)


@pytest.mark.parametrize("name", sorted(LARGER))
def test_a_larger_one_is_found_and_its_sae_fits_the_layer(name: str, hub, tmp_path: Path, long: bool):
    case = CASES[name]
    done = geofilter("doctor", *case.args)
    assert done.returncode == 0, done.stdout
    assert f"ok   pair: {name}: explained variance layer" in done.stdout
    target = resolve(TargetChoice(name), offline=True, notify=lambda text: None)
    assert (target.model, str(target.hook)) == (case.repo, f"blocks.{case.layer}.hook_resid_post")
    assert target.revision == hub.snapshot(case.repo).name
    (file, *_) = source_of(target.sae_dir)["files"]
    assert file["commit"] == hub.snapshot(file["repo"]).name
    assert any("the SAE was trained on" in note for note in target.notes) is (name in ELSEWHERE)
    if long:
        end_to_end(name, hub, tmp_path)


def end_to_end(name: str, hub, tmp_path: Path) -> None:
    case = CASES[name]
    target = [*case.args, "--offline"]
    write_rows(tmp_path / "bad.jsonl", BAD)
    write_rows(tmp_path / "good.jsonl", GOOD)
    data = write_rows(
        tmp_path / "data.jsonl",
        [
            *BAD[:3],
            *GOOD[:3],
            {"messages": [*BAD[3]["messages"], *GOOD[3]["messages"]]},
            {"text": "the doctor is plain text"},
            {"prompt": "no answer"},
        ],
    )
    done = geofilter(
        "bank",
        "build",
        "--no-prior",
        "--bad",
        "bad.jsonl",
        "--good",
        "good.jsonl",
        "--out",
        "b",
        "--quiet",
        *target,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    done = geofilter("scan", "data.jsonl", "--bank", "b", "--run", "run", "--json", *target, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    about = manifest["target"]
    assert manifest["counts"]["scored"] == 8
    assert (about["model"], about["hook"]) == (case.repo, f"blocks.{case.layer}.hook_resid_post")
    assert about["model_revision"] == hub.snapshot(case.repo).name
    assert about["sae_files"][0]["commit"] == hub.snapshot(about["sae_files"][0]["repo"]).name
    assert ("has no chat template" in done.stderr) is (not case.chat)
    applied_elsewhere = name in ELSEWHERE
    gate = GATES.get(name)
    fits = [note for note in about["notes"] if note.startswith("the SAE explains 0.")]
    assert len(fits) == applied_elsewhere
    assert [note for note in about["notes"] if note not in fits] == [
        *([
            f"the SAE was trained on {about['sae_model']} and reads {case.repo} here: another training stage of the "
            "same model; geofilter doctor measures how well it fits"
        ] if applied_elsewhere else []),
        *gates.note(gate),
    ]  # fmt: skip
    assert ("note: the SAE was trained on" in done.stderr) is applied_elsewhere
    assert about["llama_scope_gate"] == gate
    assert about["choice"].get("llama_scope_gate") == gate
    scores = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    by_line = {s["line"]: s["score"] for s in scores}
    assert min(by_line[n] for n in (1, 2, 3)) > max(by_line[n] for n in (4, 5, 6))  # the bank's own rows
    done = geofilter("filter", "run", "--drop", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = data.read_bytes().splitlines(keepends=True)
    removed = sorted(by_line, key=lambda n: -by_line[n])[:3]
    kept = [line for n, line in enumerate(lines[:8], start=1) if n not in removed]
    assert (tmp_path / "data.filtered.jsonl").read_bytes() == b"".join(kept)
    assert len((tmp_path / "data.quarantined.jsonl").read_text().splitlines()) == 1
    page = (tmp_path / "data.report.html").read_text()
    assert case.repo in page
    assert ("another training stage" in page) is applied_elsewhere
    assert (f"Llama Scope gate {gate}" in page) is (gate is not None)
    done = geofilter("explain", "run", "--row", 1, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    detail = json.loads(done.stdout)
    assert detail["score_recomputed"] == pytest.approx(by_line[1], abs=1e-4)


@pytest.mark.parametrize("kind", ["hook_resid_pre", "hook_attn_out", "hook_mlp_out", "attn.hook_z"])
@pytest.mark.parametrize("name", ["gemma-2-2b", "llama-3.1-8b", "gpt-oss-20b"])
def test_saes_of_other_hooks(name: str, kind: str, hub, tmp_path: Path):
    """The pair's check passes for the hook the SAE was fitted to; on one family rows get scores as well."""
    view = resolve(TargetChoice(name), offline=True, notify=lambda text: None).model_dir
    put_native(tmp_path / "sae", fitted(view, 7, kind=kind), f"blocks.7.{kind}", CASES[name].repo)
    write_rows(tmp_path / "d.jsonl", [*BAD[:2], *GOOD[:2]])
    target = ["--model", CASES[name].repo, "--sae", tmp_path / "sae", "--offline"]
    done = geofilter("doctor", *target[:-1])
    assert done.returncode == 0, done.stdout
    if name != "llama-3.1-8b":
        return
    write_rows(tmp_path / "bad.jsonl", BAD)
    write_rows(tmp_path / "good.jsonl", GOOD)
    done = geofilter(
        "bank", "build", "--no-prior", "--bad", "bad.jsonl", "--good", "good.jsonl", "--out", "b", *target, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    done = geofilter("scan", "d.jsonl", "--bank", "b", "--json", *target, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert (manifest["target"]["hook"], manifest["counts"]["scored"]) == (f"blocks.7.{kind}", 4)
