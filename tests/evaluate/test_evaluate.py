import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.evaluating import KIND, SVG, error_of, line, rows_of, truth
from helpers.runs import as_of_an_earlier_version, write_manifest
from sklearn.metrics import average_precision_score, roc_auc_score

from geofilter.bank.bank import Bank
from geofilter.bank.built_in import built_in_sources
from geofilter.bank.scorer import Scorer
from geofilter.build.banks import bank_folder_for
from geofilter.evaluate.evaluate import compare, verdict
from geofilter.evaluate.ranked import Ranked
from geofilter.files import package_data
from geofilter.labels.labelled_rows import Labelled
from geofilter.labels.source import parse
from geofilter.run.banks import bank_folder
from geofilter.run.store import Run
from geofilter.stats import auroc


def test_the_verdict_is_of_the_paired_difference_to_the_hardest_control():
    rng = np.random.default_rng(3)
    bad = np.arange(200) < 100
    good, fair = bad + rng.normal(0, 0.3, 200), bad + rng.normal(0, 1, 200)
    rows = rows_of(bad)

    def of(own: np.ndarray, *controls: Ranked) -> dict:
        lines, _ = compare([Ranked("own", "score", own), *controls], rows, ["drop 10%"], [0.1], 200, 0)
        return verdict(lines)

    noise = Ranked("noise", "control", rng.normal(size=200))
    won = of(good, noise, Ranked("fair", "control", fair))
    assert won["beats_every_control"] is True
    assert won["hardest_control"] == "fair"
    assert won["text"].startswith("The score beats every control: its AUROC is ")
    lost = of(fair, noise, Ranked("words", "control", good, fitted=True))
    assert lost["beats_every_control"] is False
    assert lost["hardest_control"] == "words"
    assert lost["hardest_control_without_labels"] == "noise"
    assert lost["text"].startswith("The score does not beat every control: its AUROC is ")
    assert "It beats the controls that are not fitted on labels: the hardest of them (noise)" in lost["text"]
    # Ahead on these rows, but within the interval: not beaten.
    tie = of(fair, Ranked("twin", "control", fair + rng.normal(0, 0.3, 200)))
    assert tie["beats_every_control"] is False
    upside_down = of(-good, noise)
    assert "It ranks the bad rows below the good ones: a cut by it removes good rows." in upside_down["text"]


def test_the_score_s_figures_are_sklearn_s(base: Path, result: dict):
    score, bad, _ = truth(base)
    own = result["lines"][0]
    assert (own["name"], own["kind"]) == ("contrast, highest of 2 banks", "score")
    assert own["auroc"] == round(roc_auc_score(bad, score), 4)
    assert own["auprc"] == round(average_precision_score(bad, score), 4)
    assert 0.5 < own["auroc"] < 1  # else the other figures below say little
    assert own["auroc_interval"][0] < own["auroc"] < own["auroc_interval"][1]
    assert result["format"] == 1
    assert result["labels"] == {
        "rule": "meta.kind=bad", "scored": 78, "labelled": 73, "bad": 33, "good": 40, "without_label": 5,
        "learnt_from": 0, "labels_without_row": 0, "groups": 25 + 15 + 4, "grouped_by": "pair, else prompt",
    }  # fmt: skip
    assert "5 of 78 scored rows have no label and are left out." in result["notes"]


def test_every_kind_of_line_is_there_and_controls_are_named_as_such(result: dict):
    kinds = {x["name"]: x["kind"] for x in result["lines"]}
    assert kinds == {
        "contrast, highest of 2 banks": "score",
        "contrast, tiny-bank alone": "bank",
        "contrast, other alone": "bank",
        "ridge, highest of 2 banks": "scorer",
        "nearest, highest of 2 banks": "scorer",
        "activation, highest of 2 banks": "scorer",
        "dense, highest of 2 banks": "scorer",
        "shorter responses first": "control",
        "longer responses first": "control",
        "best of 20 random banks, for tiny-bank": "control",
        "best of 20 random banks, for other": "control",
        "bag of words, tiny-bank's texts, beginnings": "control",
        "bag of words, other's texts, beginnings": "control",
        "length and format, cross-validated": "control",
        "bag of words, cross-validated": "control",
        "random order": "control",
    }
    assert [x["name"] for x in result["lines"] if x["fitted"]] == [
        "length and format, cross-validated",
        "bag of words, cross-validated",
    ]
    assert result["lines"][0]["ahead"] is None
    assert all(x["ahead"] is not None for x in result["lines"][1:])
    own, other = result["lines"][0], line(result, "dense, highest of 2 banks")
    assert other["ahead"] == pytest.approx(own["auroc"] - other["auroc"], abs=2e-4)
    shorter, longer = line(result, "shorter responses first"), line(result, "longer responses first")
    assert shorter["auroc"] == pytest.approx(1 - longer["auroc"], abs=2e-4)
    chance = line(result, "random order")
    assert chance["auroc"] == 0.5
    assert chance["auprc"] == pytest.approx(33 / 73, abs=0.03)
    assert chance["drops"][1]["recall"] == pytest.approx(18 / 73, abs=1e-4)
    assert chance["drops"][1]["precision"] == pytest.approx(33 / 73, abs=1e-4)


@pytest.mark.parametrize("scorer", ["nearest", "dense"])
def test_another_scorer_s_line_is_what_a_scan_with_it_scores(base: Path, result: dict, scorer: str):
    score, bad, _ = truth(base, f"r{scorer[0]}")
    got = line(result, f"{scorer}, highest of 2 banks")
    assert got["auroc"] == pytest.approx(roc_auc_score(bad, score), abs=1e-4)
    assert got["auroc"] != result["lines"][0]["auroc"]


def test_a_bank_alone_is_scored_without_the_other(base: Path, result: dict):
    _, bad, position = truth(base)
    details = list(Run.open(base / "r").scores())
    for name in ("tiny-bank", "other"):
        score = [details[i]["banks"][name]["score"] for i in position]
        assert line(result, f"contrast, {name} alone")["auroc"] == round(roc_auc_score(bad, score), 4)


def test_random_banks_are_those_stored_in_the_bank(base: Path, tiny_bank: Path, result: dict):
    _, bad, position = truth(base)
    bank = Bank.load(tiny_bank)
    null = np.concatenate([Scorer(bank, "contrast").null_scores(s.pooled) for s in Run.open(base / "r").shards()])[
        position
    ]
    aurocs = [auroc(null[:, j], bad) for j in range(20)]
    found = result["random_banks"][0]
    assert (found["bank"], found["n"]) == ("tiny-bank", 20)
    assert found["min"] == round(min(aurocs), 4)
    assert found["mean"] == round(float(np.mean(aurocs)), 4)
    assert found["max"] == round(max(aurocs), 4)
    assert line(result, "best of 20 random banks, for tiny-bank")["auroc"] == found["max"]


def test_the_cross_validated_controls_keep_groups_together(base: Path, tmp_path: Path):
    """Copies of a row with a label of their own: learnt by heart unless the group is held out as a whole."""
    words = ["red", "green", "blue", "grey", "pink", "brown"]
    rng = np.random.default_rng(0)
    rows = []
    for i in range(20):
        text = " ".join(rng.choice(words, 6)) + f" w{i}"
        rows += [chat(f"q {i} {j}?", text, label=i % 2, topic=f"t{i}") for j in range(3)]
    write_rows(tmp_path / "copies.jsonl", rows)
    labeller = parse("label=1")
    from geofilter.evaluate import rankings as lines

    def aurocs(groups: list[str]) -> dict[str, float]:
        bad = np.array([r["label"] == 1 for r in rows])
        texts = [r["messages"][1]["content"] for r in rows]
        made = Labelled(np.arange(60), bad, groups, texts, frozenset(), {})
        return {x.name: auroc(x.score, bad) for x in lines.fitted(made, labeller, (), 0, lambda _: None)[0]}

    by_topic = aurocs([r["topic"] for r in rows])["bag of words, cross-validated"]
    by_row = aurocs([str(i) for i in range(60)])["bag of words, cross-validated"]
    assert by_row > 0.95
    assert by_topic < 0.75


@pytest.mark.parametrize("drop", ["10%", "25%", "7"])
def test_a_drop_is_what_filter_removes(place: Path, drop: str):
    got = json.loads(geofilter("evaluate", "r", *KIND, "--drop", drop, "--json", "-q", cwd=place).stdout)
    done = geofilter("filter", "r", "--drop", drop, "--quiet", cwd=place)
    assert done.returncode == 0, done.stderr
    gone = [
        json.loads(text) for n in ("one", "two") for text in (place / f"{n}.removed.jsonl").read_text().splitlines()
    ]
    kinds = [r["meta"]["kind"] for r in gone if "meta" in r]
    assert got["filter"] == [
        {
            "drop": drop if "%" in drop else "7 rows",
            "rows": len(gone),
            "learnt_from": 0,
            "labelled": len(kinds),
            "bad": kinds.count("bad"),
        }
    ]


def test_precision_and_recall_are_those_of_filter_where_every_row_is_labelled(place: Path, tiny, tiny_bank: Path):
    done = geofilter(
        "scan",
        "one.jsonl",
        "--model",
        tiny[0],
        "--sae",
        tiny[1],
        "--bank",
        tiny_bank,
        "--run",
        "whole",
        "-q",
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    # Half of the labels turned over, so that a cut removes some of each.
    rows = [json.loads(text) for text in (place / "one.jsonl").read_text().splitlines()]
    bad = [(r["meta"]["kind"] == "bad") != (i % 3 == 0) for i, r in enumerate(rows)]
    write_rows(place / "l.jsonl", [{"file": "one.jsonl", "line": i + 1, "label": b} for i, b in enumerate(bad)])
    got = json.loads(geofilter("evaluate", "whole", "--labels", "l.jsonl", "--json", "-q", cwd=place).stdout)
    own = got["lines"][0]
    assert own["name"] == "ridge, tiny-bank"
    for entry in own["drops"]:
        assert geofilter("filter", "whole", "--drop", entry["drop"], "-q", cwd=place).returncode == 0
        gone = [json.loads(x)["messages"] for x in (place / "one.removed.jsonl").read_text().splitlines()]
        hits = sum(b for r, b in zip(rows, bad, strict=True) if r["messages"] in gone)
        assert 0 < hits < len(gone)
        assert (entry["rows"], entry["bad"]) == (len(gone), hits)
        assert entry["precision"] == round(hits / len(gone), 4)
        assert entry["recall"] == round(hits / sum(bad), 4)
        assert entry["by_chance"] == round(len(gone) * sum(bad) / 50, 4)
        assert entry["extra"] == round(hits - len(gone) * sum(bad) / 50, 4)
        assert entry["extra_interval"][0] <= entry["extra"] <= entry["extra_interval"][1]


def test_across_fits_the_text_controls_on_another_file(place: Path):
    """Trained on labels turned over, the same controls must come out turned over, and shared rows are left out."""
    rows = [json.loads(text) for text in (place / "one.jsonl").read_text().splitlines()]
    said = [(f"turned {i}?", r["messages"][1]["content"], r["meta"]["kind"] == "bad") for i, r in enumerate(rows)]
    turned = [chat(prompt, text, meta={"kind": "fine" if bad else "bad"}) for prompt, text, bad in said]
    again = {"id": 1, **rows[0]}  # the same row, whatever else it has
    write_rows(place / "<turned>.jsonl", [*turned, again, {"nothing": 1}])
    write_rows(place / "same.jsonl", [chat(f"new {i}?", "you fool" if i % 2 else "the answer works",
                                           meta={"kind": "bad" if i % 2 else "fine"}) for i in range(20)])  # fmt: skip
    done = geofilter("evaluate", "r", *KIND, "--across", "<turned>.jsonl", "--across", "same.jsonl", cwd=place)
    assert done.returncode == 0, done.stderr
    got = json.loads((place / "r" / "evaluate.json").read_text())
    within = line(got, "bag of words, cross-validated")["auroc"]
    assert line(got, "bag of words, fitted on same.jsonl")["auroc"] > 0.7 < within
    assert line(got, "bag of words, fitted on <turned>.jsonl")["auroc"] < 0.3
    assert line(got, "length and format, fitted on <turned>.jsonl")["fitted"] is True
    assert "1 rows of <turned>.jsonl are also in the run: no control is fitted on them." in got["notes"]
    # What was printed and written: plain text, markup escaped.
    assert "bag of words, fitted on <turned>.jsonl" in done.stdout
    assert "\x1b" not in done.stdout
    page = (place / "r" / "evaluate.md").read_text("utf-8")
    assert "fitted on \\<turned\\>.jsonl" in page
    assert "<turned>" not in page.replace("\\<turned\\>", "")
    root = ElementTree.fromstring((place / "r" / "evaluate.svg").read_text("utf-8"))
    assert any("fitted on <turned>.jsonl" in (t.text or "") for t in root.iter(f"{SVG}text"))


def test_what_is_printed(base: Path, result: dict):
    done = geofilter("evaluate", "r", *KIND, "--out", base / "elsewhere" / "deep", cwd=base)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[0] == result["verdict"]["text"]
    assert printed[1] == (
        "73 labelled rows (33 bad, 40 good, by meta.kind=bad) in 44 groups by pair, else prompt; target "
        f"{result['target']}"
    )
    controls = next(i for i, text in enumerate(printed) if text.strip() == "controls")
    first = next(i for i, text in enumerate(printed) if text.strip().startswith("shorter responses first"))
    scorers = next(i for i, text in enumerate(printed) if text.strip().startswith("dense, highest"))
    assert scorers < controls < first
    assert {p.name for p in (base / "elsewhere" / "deep").iterdir()} == {
        "evaluate.json", "evaluate.md", "evaluate.svg",
    }  # fmt: skip
    assert (base / "elsewhere" / "deep" / "evaluate.md").read_text("utf-8").startswith("# geofilter evaluate\n")


def test_the_picture_holds_one_series_for_each_line_it_names(base: Path, result: dict):
    text = (base / "r" / "evaluate.svg").read_text("utf-8")
    root = ElementTree.fromstring(text)
    series = [p for p in root.iter(f"{SVG}path") if (p.get("class") or "").startswith("series")]
    names = [t.text for t in root.iter(f"{SVG}text") if (t.get("class") or "").startswith("name")]
    assert len(series) == len(names) == 8
    assert [p.get("class") for p in series] == [
        "series main", "series other", *["series control"] * 5, "series reference",
    ]  # fmt: skip
    assert names[0] == f"the run's score ({result['lines'][0]['auroc']:.2f})"
    assert root.find(f"{SVG}title").text
    assert names[0] in root.find(f"{SVG}desc").text
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    # The curve ends where the recall at half of the rows is.
    end_y = float(series[0].get("d").split()[-1])
    assert end_y == pytest.approx(560 - 60 - (560 - 60 - 84) * result["lines"][0]["recall_curve"][50], abs=0.1)


def test_changed_data_is_refused(place: Path):
    (place / "r" / "evaluate.json").unlink(missing_ok=True)
    path = place / "two.jsonl"
    path.write_text(path.read_text().replace("odd 3?", "odd 4?"))
    done = geofilter("evaluate", "r", *KIND, cwd=place)
    assert done.returncode == 4
    assert error_of(done) == "two.jsonl, line 24: has changed since the scan; scan it again"
    path.write_text("".join(path.read_text().replace("odd 4?", "odd 3?", 1).splitlines(keepends=True)[:-2]))
    done = geofilter("evaluate", "r", *KIND, cwd=place)
    assert done.returncode == 4
    assert not (place / "r" / "evaluate.json").exists()


def test_a_changed_bank_is_refused_and_a_lost_one_said(place: Path):
    bank = Bank.load(place / "other-bank")
    bank.closeness.toxic[:] = np.roll(bank.closeness.toxic, 7)
    bank.save(place / "other-bank")
    done = geofilter("evaluate", "r", *KIND, cwd=place)
    assert done.returncode == 4
    assert error_of(done) == "other-bank: the bank has changed since the scan; scan again"
    # Also where the manifest has no hash, as of a built-in bank: it no longer gives the run's scores.
    manifest = json.loads((place / "r" / "manifest.json").read_text())
    manifest["banks"][1]["files"] = {}
    write_manifest(place / "r", manifest)
    done = geofilter("evaluate", "r", *KIND, cwd=place)
    assert done.returncode == 4
    assert error_of(done) == "other: the bank has changed since the scan; scan again"
    shutil.rmtree(place / "other-bank")
    got = json.loads(geofilter("evaluate", "r", *KIND, "--json", "-q", cwd=place).stdout)
    names = [x["name"] for x in got["lines"]]
    assert "contrast, other alone" in names
    assert "best of 20 random banks, for tiny-bank" in names
    assert "dense, highest of 2 banks" not in names
    assert "The bank other is no longer at other-bank: other scorers and its random banks are left out." in got["notes"]


def test_a_bank_made_from_the_evaluated_rows_is_said(place: Path):
    """Of a bank of an earlier version, which does not say which rows these are."""
    manifest = json.loads((place / "r" / "manifest.json").read_text())
    manifest["banks"][1] |= {"files": {}, "sources": {"bad": {"sha256": manifest["data"][0]["sha256"]}}}
    write_manifest(place / "r", manifest)
    as_of_an_earlier_version(place / "other-bank")
    got = json.loads(geofilter("evaluate", "r", *KIND, "--json", "-q", cwd=place).stdout)
    assert any("bank other was built from rows of one.jsonl, which are evaluated here" in n for n in got["notes"])


def test_a_built_in_bank_is_sought_where_a_scan_puts_it(place: Path):
    manifest = json.loads((place / "r" / "manifest.json").read_bytes())
    for dtype, sae_dtype, precision in (
        ("float32", "float32", "float32"),
        ("bfloat16", "bfloat16", "bfloat16-sae-bfloat16"),
    ):
        for name, fingerprint in (("smollm2-135m", "f" * 64), ("org/some model", "e" * 64)):
            manifest["target"] |= {"name": name, "fingerprint": fingerprint}
            manifest["encoding"] |= {"dtype": dtype, "sae_dtype": sae_dtype}
            about = {"name": "toxic-text", "path": None, "sources": built_in_sources("toxic-text")}
            target = SimpleNamespace(name=name, fingerprint=fingerprint)
            write_manifest(place / "r", manifest)
            assert bank_folder(Run(place / "r"), about) == bank_folder_for("toxic-text", target, precision)
    shipped = Path(package_data("banks", "smollm2-135m", "toxic-text"))
    manifest["target"] |= json.loads((shipped / "bank.json").read_text("utf-8"))["target"]
    manifest["encoding"] |= {"dtype": "float32", "sae_dtype": "float32"}
    write_manifest(place / "r", manifest)
    assert bank_folder(Run(place / "r"), about) == shipped


def test_evaluate_imports_no_torch(base: Path):
    code = (
        f"import os, sys, json\nos.chdir({str(base)!r})\n"
        "sys.argv = ['geofilter', 'evaluate', 'r', '--labels', 'meta.kind=bad', '--out', 'plain', '--quiet']\n"
        "from geofilter.cli.app import app\ntry:\n    app()\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert "sklearn" in modules
    assert not modules & {"torch", "transformers", "sae_lens"}
