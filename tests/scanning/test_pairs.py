"""A scan that reads both answers of preferences: each scores as it would alone, whatever process reads them."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.scanning import errors_of, rows, same_by_any_process, scan_args

from geofilter.rows.pairs import exchanged
from geofilter.run.store import Run

PAIRS = [
    {"prompt": "question?", "chosen": "you utter fool", "rejected": "the answer is to ask"},
    {**chat("question?", "the answer is that you should ask " * 30), "rejected": "you utter fool " * 30},
    {"prompt": "another?", "chosen": "it is so", "rejected": "it is so"},
    {"chosen": "the answer is to ask", "rejected": "the answer is a fool"},
]
ONE_SIDED = [
    {"prompt": "question?", "chosen": "you utter fool", "rejected": ""},
    {**chat("question?", "the answer"), "kto_tag": True},
    {"prompt": "question?", "chosen": "the answer", "rejected": ["a", "b"]},
]
MIXED = [*rows(3), *PAIRS, {"nothing": 1}, *ONE_SIDED, {"nothing": 2}]


@pytest.fixture(scope="module")
def other(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank that finds other answers bad than the tiny one does."""
    base = tmp_path_factory.mktemp("bank")
    write_rows(base / "bad.jsonl", [chat(f"ask {i}?", f"the answer is to ask {i}") for i in range(12)])
    write_rows(base / "good.jsonl", [chat(f"ask {i}?", f"no you, {i} times") for i in range(12)])
    done = geofilter(
        "bank", "build", "--bad", base / "bad.jsonl", "--good", base / "good.jsonl", "--out", base / "other",
        "--no-prior", "--model", tiny[0], "--sae", tiny[1], "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return base / "other"


@pytest.fixture
def here(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", MIXED)

    def call(run: str, *more: object):
        args = scan_args(tiny, tiny_bank, "--shard-rows", 4, "--max-tokens", 64, "--run", run, "--quiet", *more)
        return geofilter(*args, cwd=tmp_path)

    call.folder = tmp_path
    return call


@pytest.mark.parametrize("scorer", ["ridge", "nearest", "dense", "length"])
def test_each_answer_scores_as_it_would_if_it_were_the_chosen_one(here, other: Path, scorer: str):
    folder, more = here.folder, ("--bank", other, "--scorer", scorer)
    assert here("both", "--pairs", "difference", *more).returncode == 0
    assert here("chosen", *more).returncode == 0
    write_rows(folder / "d.jsonl", [exchanged(row) if row in PAIRS else row for row in MIXED])
    assert here("rejected", *more).returncode == 0
    both, chosen, rejected = (Run.open(folder / name) for name in ("both", "chosen", "rejected"))
    a = both.arrays()
    assert a["paired"].tolist() == [False] * 3 + [True] * 4 + [False] * 3
    np.testing.assert_allclose(a["score"], chosen.arrays()["score"], atol=1e-4)
    less = np.where(a["paired"], rejected.arrays()["score"], 0)
    np.testing.assert_allclose(a["difference"], a["score"] - less, atol=2e-4)
    banks = chosen.arrays()["bank"][a["paired"]], rejected.arrays()["bank"][a["paired"]]
    assert scorer == "length" or (banks[0] != banks[1]).any()
    assert a["difference"][5] == 0 and (scorer == "length" or abs(a["difference"][3]) > 0.1)
    for i, line in enumerate(both.scores()):
        assert ("rejected_score" in line) == bool(a["paired"][i])
        assert a["difference"][i] == pytest.approx(line["score"] - line.get("rejected_score", 0), abs=2e-6)
    assert "difference" not in chosen.arrays() and "pairs" not in chosen.manifest["encoding"]
    assert (both.manifest["remarks"]["paired"], both.manifest["remarks"]["one_sided"]) == (4, 3)
    assert "one_sided" not in chosen.manifest["remarks"]


def test_it_is_the_same_by_any_process(here, monkeypatch):
    done = here("whole", "--pairs", "difference")
    assert done.returncode == 0, done.stderr
    same_by_any_process(here, here.folder, monkeypatch, "--pairs", "difference")


def test_a_shard_without_usable_rows_is_one_of_its_run(here):
    write_rows(here.folder / "d.jsonl", [*PAIRS, *[{"nothing": i} for i in range(4)], *rows(1)])
    done = here("run", "--pairs", "difference")
    assert done.returncode == 0, done.stderr
    assert Run.open(here.folder / "run").arrays()["paired"].tolist() == [True] * 4 + [False]


def test_other_banks_score_both_answers_from_what_is_stored(here, other: Path, monkeypatch):
    assert here("run", "--pairs", "difference", "--bank", other).returncode == 0
    both = Run.open(here.folder / "run").arrays()
    assert here("tiny", "--pairs", "difference").returncode == 0
    before = Run.open(here.folder / "tiny").arrays()
    assert not np.allclose(both["difference"], before["difference"], atol=1e-3)
    monkeypatch.setattr("geofilter.encode.model.ResidualModel.__init__", None)  # no model is loaded
    done = geofilter("filter", "run", "--bank", "tiny-bank", "--drop", "2", cwd=here.folder)
    assert done.returncode == 0, done.stderr
    after = Run.open(here.folder / "run")
    assert [bank["name"] for bank in after.manifest["banks"]] == ["tiny-bank"]
    np.testing.assert_allclose(after.arrays()["difference"], before["difference"], atol=1e-6)


def test_a_bank_learnt_from_labels_scores_both_answers(here):
    words = ("you utter fool", "the answer is to ask the doctor")
    write_rows(here.folder / "d.jsonl", [*PAIRS, *(chat(f"q {i}", f"{words[i % 2]} {i}") for i in range(24))])
    assert here("run", "--pairs", "difference").returncode == 0
    before = Run.open(here.folder / "run").arrays()
    lines = [*Run.open(here.folder / "run").scores()][len(PAIRS) :]
    labels = [{"sha256": line["sha256"], "label": "good" if i % 2 else "bad"} for i, line in enumerate(lines)]
    write_rows(here.folder / "labels.jsonl", labels)
    done = geofilter("label", "run", "--from", "labels.jsonl", "--apply", cwd=here.folder)
    assert done.returncode == 0, done.stderr
    learnt = Run.open(here.folder / "run").arrays()
    assert learnt["paired"].tolist() == before["paired"].tolist()
    assert not np.allclose(learnt["difference"], before["difference"], atol=1e-3)
    assert learnt["difference"][0] > 0 > learnt["difference"][1] and learnt["difference"][2] == 0


def test_one_run_has_one_way_to_take_pairs(here):
    assert here("run", "--pairs", "difference").returncode == 0
    refused = here("run")
    assert refused.returncode == 4 and 'pairs: "difference", now null' in errors_of(refused)
    refused = here("named", "--pairs", "difference", "--fields", "prompt=prompt,response=chosen")
    assert refused.returncode == 2 and "--fields names have no rejected answer" in errors_of(refused)
    refused = geofilter("filter", "run", "--threshold", "0.5", cwd=here.folder)
    assert refused.returncode == 2 and "has no percentile; give --drop or --keep" in errors_of(refused)
    refused = here("other-run", "--pairs", "rejected")
    assert refused.returncode == 2 and "--pairs rejected: use chosen or difference" in errors_of(refused)


def test_check_shows_both_answers_and_why_there_is_one(here):
    done = here("none", "--pairs", "difference", "--check", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: of["rows"] for name, of in found["remarks"].items()} == {"paired": 4, "one_sided": 3}
    assert [(of["line"], of["rows"]) for of in found["one_sided"]] == [(9, 1), (10, 1), (11, 1)]
    examples = {of["line"]: of for shape in found["shapes"] for of in shape["examples"]}
    assert (examples[4]["scored"], examples[4]["rejected"]) == (["you utter fool"], ["the answer is to ask"])
    text = here("none", "--pairs", "difference", "--check").stdout
    assert "rejected  the answer is to ask" in text
    assert "1 row, first d.jsonl, line 11: `chosen` holds 2 texts; keep the one that is trained on" in text
    assert "    rejected" not in here("none", "--check").stdout


def test_a_run_without_any_pair_says_so_and_ranks_by_scores(here):
    write_rows(here.folder / "d.jsonl", rows(6))
    assert here("run", "--pairs", "difference").returncode == 0
    done = geofilter("filter", "run", "--drop", "2", "--swap", "s.jsonl", cwd=here.folder)
    assert done.returncode == 0, done.stderr
    assert "no row has a rejected answer that could be scored" in " ".join(done.stderr.split())
    a = Run.open(here.folder / "run").arrays()
    assert a["difference"].tolist() == a["score"].tolist() and (here.folder / "s.jsonl").read_bytes() == b""


def test_verify_sees_a_difference_that_is_not_what_the_features_give(here):
    from safetensors.numpy import load_file

    from geofilter.run.tensors import packed
    from geofilter.sums import sealed, sum_of

    assert here("run", "--pairs", "difference").returncode == 0
    run = here.folder / "run"
    arrays = load_file(run / "scores.safetensors")
    arrays["difference"] = arrays["difference"] + np.array([0] * 3 + [0.5] + [0] * 6)
    (run / "scores.safetensors").write_bytes(packed(arrays, {}))
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    manifest["files"]["scores.safetensors"] = sum_of(run / "scores.safetensors")
    manifest.pop("seal")
    (run / "manifest.json").write_text(json.dumps(sealed(manifest)), "utf-8")
    done = geofilter("verify", "run", cwd=here.folder)
    assert done.returncode == 4 and "difference of row 4" in done.stdout + done.stderr


def test_pages_and_lists_say_what_rows_are_ranked_by(here):
    assert here("run", "--pairs", "difference").returncode == 0
    arrays = Run.open(here.folder / "run").arrays()
    difference = dict(zip(arrays["line"].tolist(), arrays["difference"].tolist(), strict=True))
    highest = sorted(difference.values(), reverse=True)
    found = json.loads(geofilter("similar", "run", "--row", "#1", "--json", cwd=here.folder).stdout)["rows"]
    assert len(found) == len(difference) - 1
    for row in found:
        assert row["difference"] == difference[row["line"]] == highest[row["rank"] - 1]
    shown = geofilter("similar", "run", "--row", "#1", "--count", 1, cwd=here.folder).stdout.split()
    assert shown[2] == f"{found[0]['difference']:.2f}"
    done = geofilter("filter", "run", "--drop", "2", cwd=here.folder)
    assert done.returncode == 0, done.stderr
    for name in ("report.md", "report.html"):
        text = " ".join((here.folder / "run" / name).read_text("utf-8").split())
        assert "This cut goes by chosen less rejected" in text and "A cut by score takes" not in text
