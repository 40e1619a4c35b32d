"""The gate: what passes, what it says, and the exit codes that a CI job goes by."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.command import chat, geofilter, write_rows
from helpers.runs import write_manifest
from helpers.shell import shell

from geofilter.cut.cut import Cut
from geofilter.cut.gate import check, part_of
from geofilter.cut.gate_text import markdown, text
from geofilter.errors import InputError, RunError
from geofilter.run.store import Run

CI = Path(__file__).parents[2] / "examples" / "ci"


def passed(run: Run, *args: object, **options: object) -> bool:
    return bool(check(run, *args, max_quarantined=1, **options)["passed"])


def test_a_share_is_of_each_part_and_a_number_is_a_number(run: Run):
    verdict = check(run, 0.99, "20%", max_quarantined=1)
    assert [(p["name"], p["rows"], p["flagged"], p["passed"]) for p in verdict["parts"]] == [
        ("all rows", 40, 8, True),
        ("a.jsonl", 10, 1, True),
        ("b.jsonl", 30, 7, False),  # 7 of 30 are more than a fifth
    ]
    assert verdict["passed"] is False
    assert verdict["reasons"] == [
        "b.jsonl: 7 of 30 rows (23.3%) are at or above the 99.0% percentile of ordinary chat; 20% may be"
    ]
    assert passed(run, 0.99, "8")
    assert not passed(run, 0.99, "7")
    assert passed(run, 0.996, "0")
    assert not passed(run, 0.995, "0")  # at or above


def test_rows_that_were_not_read_whole_are_counted_and_may_be_no_more_than_said(
    tiny, tiny_bank: Path, tmp_path: Path, monkeypatch
):
    rows = [chat("q", "one two three " * n, n=n) for n in (1, 1, 20, 30)]
    write_rows(tmp_path / "d.jsonl", rows)
    done = geofilter(
        "scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-q",
        "--max-tokens", "64", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    gate = ("gate", "run", "--max-flagged", "100%")
    done = geofilter(*gate, "--json", cwd=tmp_path)
    verdict = json.loads(done.stdout)
    counts = {key: verdict[key] for key in ("windowed", "partly_read", "truncated", "max_truncated")}
    assert (done.returncode, counts) == (0, {"windowed": 2, "partly_read": 0, "truncated": 2, "max_truncated": None})
    assert "2 rows longer than --max-tokens, read in several windows" in done.stderr
    assert geofilter(*gate, "--max-truncated", "2", cwd=tmp_path).returncode == 0
    done = geofilter(*gate, "--max-truncated", "1", cwd=tmp_path)
    said = "2 rows are longer than --max-tokens, or have response tokens that were not read; --max-truncated allows 1"
    assert (done.returncode, done.stderr.count("--max-truncated")) == (1, 1)
    assert said in done.stderr
    # An outlier is a token that was not read, in a row of one window or of several.
    lines = (tmp_path / "run" / "scores.jsonl").read_text("utf-8").splitlines()
    scores = [json.loads(line) for line in lines]
    for i in (0, 1, 3):
        scores[i]["n_tokens"] -= 1
    write_rows(tmp_path / "run" / "scores.jsonl", scores)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    manifest["counts"]["tokens"] -= 3
    write_manifest(tmp_path / "run", manifest)
    monkeypatch.chdir(tmp_path)
    verdict = check(Run.open(Path("run")), 0.99, "100%", max_truncated=4)
    assert [verdict[key] for key in ("windowed", "partly_read", "truncated", "passed")] == [2, 3, 4, True]
    assert "3 rows with response tokens that were not read" in text(verdict)
    assert not check(Run.open(Path("run")), 0.99, "100%", max_truncated=3)["passed"]
    assert not check(Run.open(Path("run")), 0.99, "100%", max_truncated=0)["passed"]


def test_a_share_is_not_off_by_the_last_bit():
    for count, share in ((29, "29%"), (57, "57%"), (58, "58%")):
        flagged = np.arange(100) < count
        assert part_of("all", flagged, Cut.parse(share))["passed"]
        assert not part_of("all", np.arange(100) <= count, Cut.parse(share))["passed"]


def test_of_no_rows_none_is_flagged():
    none = {"name": "all", "rows": 0, "flagged": 0, "share": 0.0, "interval": [0.0, 1.0], "too_few": False,
            "passed": True}  # fmt: skip
    assert [part_of("all", np.zeros(0, bool), Cut.parse(most)) for most in ("0", "0%", "5")] == [none] * 3


def test_data_that_have_changed_since_the_scan_are_not_passed(run: Run, monkeypatch):
    data = [{**f, "sha256": "0" * 64} for f in run.manifest["data"]]
    monkeypatch.setattr(Run, "manifest", {**run.manifest, "data": data})
    with pytest.raises(RunError, match=r"a\.jsonl: has changed since the scan; scan it again"):
        check(run)


def test_each_value_of_a_field_is_checked_alone(run: Run):
    parts = {p["name"]: p for p in check(run, 0.99, "50%", by="source", min_rows=0, max_quarantined=1)["parts"]}
    assert [(name, p["rows"]) for name, p in parts.items()] == [
        ("all rows", 40), ("source = <b>|x", 10), ("source = web", 20), ("without source", 10),
    ]  # fmt: skip
    assert sum(p["flagged"] for name, p in parts.items() if name != "all rows") == 8


def test_values_with_few_rows_are_judged_together(run: Run):
    def parts(most: str, **options) -> dict:
        found = check(run, 0.99, most, by="source", max_quarantined=1, **options)
        return {p["name"]: (p["rows"], p["flagged"], p["too_few"], p["passed"]) for p in found["parts"]}

    wanted = {"all rows": (40, 8, False, True), "source = web": (20, 4, False, True),
              "source = <b>|x": (10, 2, True, True), "without source": (10, 2, True, True),
              "other small values": (20, 4, False, True)}  # fmt: skip
    assert parts("20%") == wanted  # 20 rows are enough
    assert parts("19%", min_rows=11) == {
        name: (*of[:3], of[2])
        for name, of in wanted.items()  # what has too few rows is the only one that passes
    }
    # All of them together may be too few; a number of rows needs none to be judged.
    few = parts("10%", min_rows=21)
    assert [name for name, of in few.items() if not of[3]] == ["all rows", "other small values"]
    assert parts("10%", min_rows=100)["other small values"] == (40, 8, True, True)
    assert not any(too_few for _, _, too_few, _ in parts("3").values())
    said = text(check(run, 0.99, "50%", by="source", max_quarantined=1))
    assert said.endswith("2 values of source with fewer than 20 rows, not judged alone")
    assert check(run)["parts"][0]["interval"] == pytest.approx([0.1050, 0.3476], abs=1e-4)  # Wilson's, of 8 in 40


def test_rows_that_were_not_scored_do_not_pass_unseen(run: Run):
    verdict = check(run, 0.99, "100%")
    assert verdict["reasons"] == ["1 rows could not be scored, so they were not checked; --max-quarantined allows 0"]
    assert check(run, 0.99, "100%", max_quarantined=1)["passed"]


def test_rows_left_out_by_a_limit_do_not_pass_unseen(run: Run, monkeypatch):
    data = [{**f, "lines": f["lines"] + 3} for f in run.manifest["data"]]
    monkeypatch.setattr(Run, "manifest", {**run.manifest, "data": data})
    verdict = check(run, 0.99, "100%", max_quarantined=1)
    assert verdict["reasons"] == ["6 rows were left out by --limit, so they were not checked; scan all of them"]


def test_a_run_of_an_earlier_version_is_named(run: Run, monkeypatch):
    monkeypatch.setattr(Run, "manifest", {**run.manifest, "power": [{"bank": "b", "demonstrated": True}]})
    with pytest.raises(RunError, match="run: scored by an earlier version; run the same geofilter scan again"):
        check(run)


def test_a_blind_bank_can_be_refused_and_so_can_too_few_rows(run: Run, monkeypatch):
    assert {v["verdict"] for v in run.manifest["power"]} == {"too few rows"}
    verdict = check(run, 0.99, "100%", max_quarantined=1, require_power=True)
    assert verdict["reasons"] == ["too few rows to say whether a bank reacts to them; at least 50 are needed"]
    power = [{**v, "verdict": "no power"} for v in run.manifest["power"]]
    monkeypatch.setattr(Run, "manifest", {**run.manifest, "power": power})
    verdict = check(run, 0.99, "100%", max_quarantined=1, require_power=True)
    assert verdict["reasons"] == ["no bank reacts to these rows, so that nothing is flagged says little"]


def test_text_and_markdown_say_the_same_and_nothing_in_them_acts(run: Run):
    verdict = check(run, 0.99, "10%", by="source", max_quarantined=1)
    assert text(verdict).startswith("gate NOT passed: all rows: 8 of 40 rows (20.0%)")
    page = markdown(verdict)
    assert page.startswith("### geofilter: NOT passed")
    assert page.count("source = ") >= 3  # in the table, and of those that do not pass in the reasons too
    assert not re.search(r"(?<!\\)(<b>|\|x)", page)
    good = check(run, 0.99, "60%", max_quarantined=1)
    assert text(good) == (
        "gate passed: 8 of 40 rows (20.0%) are at or above the 99.0% percentile of ordinary chat, 60% may be"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_flagged": "many"}, "--max-flagged many: not an amount"),
        ({"max_flagged": "101%"}, "--max-flagged 101%: more than everything"),
        ({"threshold": 99.0}, "--threshold 99.0: a percentile is between 0 and 1"),
        ({"max_quarantined": -1}, "--max-quarantined -1: give 0 or more rows"),
        ({"max_truncated": -1}, "--max-truncated -1: give 0 or more rows"),
        ({"min_rows": -1}, "--min-rows -1: give 0 or more rows"),
        ({"by": "nothing"}, "--by nothing: no row has this field"),
        ({"by": "messages"}, "a.jsonl, line 1: the field messages holds a list, not one value"),
    ],
)
def test_options_that_cannot_be_used(run: Run, options: dict, said: str):
    with pytest.raises(InputError, match=said):
        check(run, **options)


# The command, and the files for CI, in a shell


@pytest.fixture
def project(tiny, tiny_bank: Path, tmp_path: Path) -> Path:
    """A folder with a geofilter.toml of the tiny target, good.jsonl and bad.jsonl."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name, source in {"model": tiny[0], "sae": tiny[1], "bank": tiny_bank}.items():
        shutil.copytree(source, folder / name)
    settings = 'model = "model"\nsae = "sae"\nbank = "./bank"\nthreshold = 0.9\nmax_flagged = "50%"\n'
    (folder / "geofilter.toml").write_text(settings)
    write_rows(folder / "good.jsonl", [chat(f"question {i}?", f"the answer is that {i} works") for i in range(8)])
    write_rows(folder / "bad.jsonl", [chat(f"question {i}?", f"you fool, {i} times no") for i in range(8)])
    return folder


def test_exit_codes_in_a_shell(project: Path):
    gate = f"{CI / 'gate.sh'}"
    code, said = shell(f"{gate} bad.jsonl", project)
    assert (code, "gate NOT passed" in said) == (1, True), said
    alone = subprocess.run([sys.executable, "-m", "geofilter", "gate"], cwd=project, capture_output=True)
    assert alone.returncode == 1, alone.stderr
    # What is typed wins over the settings file.
    code, said = shell(f"{gate} bad.jsonl", project, MAX_FLAGGED="100%")
    assert (code, "gate passed" in said) == (0, True), said
    assert shell(f"{gate} absent.jsonl", project)[0] == 2
    assert shell("geofilter gate --max-flagged lots", project)[0] == 2
    assert shell(f"{gate} good.jsonl", project, MODEL="no-such-model")[0] == 3
    assert shell("geofilter gate nowhere", project)[0] == 4


def test_the_makefile_stops_at_a_bad_drop(project: Path):
    make = f"make -f {CI / 'geofilter.mk'} check-data"
    code, said = shell(f"{make} DATA=bad.jsonl", project)
    assert code == 2  # make's own code for a recipe that failed
    assert "gate NOT passed" in said


def test_the_pre_commit_hook_runs_the_script_on_the_files_it_names():
    (repository,) = yaml.safe_load((CI / "pre-commit-config.yaml").read_text("utf-8"))["repos"]
    (hook,) = repository["hooks"]
    assert (repository["repo"], hook["language"]) == ("local", "script")
    assert (CI.parent.parent / hook["entry"]).samefile(CI / "gate.sh")
    assert os.access(CI / "gate.sh", os.X_OK)
    names = ["data/a.jsonl", "data/b/a.jsonl.zst", "data/a.jsonl.gz", "data/a.parquet", "src/a.jsonl", "data/a.json"]
    assert [bool(re.search(hook["files"], name)) for name in names] == [True] * 4 + [False] * 2


def test_the_workflow_s_steps_run_and_leave_what_it_uploads(project: Path):
    workflow = yaml.safe_load((CI / "github-workflow.yml").read_text("utf-8"))
    steps = workflow["jobs"]["geofilter"]["steps"]
    (project / "data" / "new").mkdir(parents=True)
    (project / "bad.jsonl").rename(project / "data" / "new" / "bad.jsonl")
    # A file of the same name elsewhere: their reports must not meet.
    (project / "good.jsonl").rename(project / "data" / "bad.jsonl")
    # The tiny target stands in for the embedded one, which the workflow names.
    (project / "geofilter.toml").write_text((project / "geofilter.toml").read_text().replace("threshold = 0.9\n", ""))
    summary, codes = project / "summary.md", {}
    for step in steps:
        command = step.get("run", "").replace("--model smollm2-135m ", "").replace("0.99", "0.9")
        if "geofilter" in command and not command.startswith("pip"):
            code, said = shell(f"set -e\n{command}", project, GITHUB_STEP_SUMMARY=str(summary))
            codes[command.split()[1]] = code
            assert code in (0, 1), said
    assert codes == {"scan": 0, "gate": 1, "filter": 0}
    assert "### geofilter: NOT passed" in summary.read_text("utf-8")
    assert summary.read_text("utf-8").endswith((project / "report" / "report.md").read_text("utf-8"))
    uploads = [step["with"] for step in steps if "upload-artifact" in step.get("uses", "")]
    assert uploads
    for upload in uploads:
        for path in map(Path, upload["path"].split()):
            assert not any(part.startswith(".") for part in path.parts), f"{path}: upload-artifact leaves it out"
            assert any(f.is_file() for f in (project / path).rglob("*")), path
    assert sorted(f.name for f in (project / "report").iterdir()) == ["report.html", "report.json", "report.md"]


def test_a_summary_that_nobody_takes_is_an_error(project: Path):
    code, said = shell("geofilter gate --step-summary", project, GITHUB_STEP_SUMMARY="")
    assert code == 2
    assert "GITHUB_STEP_SUMMARY is not set" in said
