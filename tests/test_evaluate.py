import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import chat, geofilter, write_rows
from sklearn.metrics import average_precision_score, roc_auc_score

from geofilter.bank.bank import Bank, built_in_sources
from geofilter.bank.scorer import Scorer
from geofilter.build import build as seeding
from geofilter.build.banks import bank_folder_for
from geofilter.charts import LINE, Interval, Series, curves, intervals
from geofilter.errors import InputError
from geofilter.evaluate.evaluate import compare, verdict
from geofilter.evaluate.rankings import Ranked
from geofilter.labels.labelled import Labelled
from geofilter.labels.source import parse
from geofilter.run.banks import bank_folder
from geofilter.run.store import Run
from geofilter.stats import RankingStats, Stats, auroc, cluster_bootstrap, draw_weights, interval

SVG = "{http://www.w3.org/2000/svg}"


# Ranking statistics and the bootstrap


def test_the_figures_of_a_ranking_worked_by_hand():
    ranking = RankingStats(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    at = ranking.stats(np.ones((1, 4)), [0.25, 0.5])
    assert at.auroc[0] == pytest.approx(3 / 4)  # of four pairs one is the wrong way round
    assert at.auprc[0] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert at.removed.tolist() == [[1, 2]]
    assert at.precision.tolist() == [[1.0, 0.5]]
    assert at.recall.tolist() == [[0.5, 0.5]]
    assert at.by_chance.tolist() == [[0.5, 1.0]]
    assert ranking.recall_curve([0, 0.25, 0.5, 0.75, 1]).tolist() == [0, 0.5, 0.5, 1, 1]


def test_weighted_figures_are_those_of_the_drawn_rows_ties_included():
    rng = np.random.default_rng(1)
    score, bad = rng.integers(0, 12, 80).astype(float), rng.random(80) < 0.3
    groups = [str(g) for g in rng.integers(0, 30, 80)]
    drawn = list(cluster_bootstrap(groups, 25, seed=5))
    weights = np.concatenate(list(draw_weights(groups, 25, seed=5)))
    got = RankingStats(score, bad).stats(weights, [0.1, 0.5])
    for i, rows in enumerate(drawn):
        assert got.auroc[i] == pytest.approx(roc_auc_score(bad[rows], score[rows]))
        assert got.auprc[i] == pytest.approx(average_precision_score(bad[rows], score[rows]))
        rows = np.sort(rows)  # equal scores leave in the order of the data
        for j, fraction in enumerate((0.1, 0.5)):
            gone = np.argsort(-score[rows], kind="stable")[: round(fraction * len(rows))]
            assert got.removed[i, j] == len(gone)
            assert got.bad_removed[i, j] == bad[rows][gone].sum()


def test_a_draw_without_one_kind_of_row_has_no_figures_and_is_passed_over():
    ranking = RankingStats(np.array([3.0, 2.0, 1.0]), np.array([True, False, False]))
    at = ranking.stats(np.array([[1.0, 1, 1], [0, 2, 1], [3, 0, 0]]), [0.5])
    assert at.auroc.tolist()[0] == 1
    assert np.isnan(at.auroc[1:]).all()
    assert np.isnan(at.auprc[1:]).all()
    assert interval(at.auroc) == (1.0, 1.0)
    assert np.isnan(interval([np.nan])).all()


def test_whole_groups_are_drawn_and_as_many_as_there_are():
    groups = ["a", "b", "a", "c", "b", "a", "d"]
    counts = np.array([np.bincount(d, minlength=7) for d in cluster_bootstrap(groups, 200, seed=0)])
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 0] == counts[:, 5]).all()
    assert (counts[:, 1] == counts[:, 4]).all()
    assert (counts[:, [0, 1, 3, 6]].sum(1) == 4).all()
    assert len({tuple(c) for c in counts.tolist()}) > 20
    again = np.array([np.bincount(d, minlength=7) for d in cluster_bootstrap(groups, 200, seed=0)])
    assert (again == counts).all()


def test_the_clustered_interval_is_wider_where_rows_are_repeated():
    rng = np.random.default_rng(2)
    once, kind = rng.normal(size=60), np.arange(60) < 30
    score, bad = np.repeat(once + kind, 6), np.repeat(kind, 6)

    def width(groups: list[str]) -> float:
        parts = [RankingStats(score, bad).stats(w, [0.5]) for w in draw_weights(groups, 400, seed=0)]
        low, high = interval(Stats.concat(parts).auroc)
        return high - low

    clustered = width([str(i // 6) for i in range(360)])
    naive = width([str(i) for i in range(360)])
    # Six copies of a row are one row: the honest interval is wider by about the root of six.
    assert 1.9 < clustered / naive < 3.1


def rows_of(bad: np.ndarray, groups: list[str] | None = None) -> Labelled:
    n = len(bad)
    return Labelled(np.arange(n), bad, groups or [str(i) for i in range(n)], ["x"] * n, frozenset(), {})


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


# On a run


@pytest.fixture(scope="module")
def base(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run `r` of two banks over two files, 33 of its 73 labelled rows bad, one line broken."""
    folder = tmp_path_factory.mktemp("evaluate")
    bad = [chat(f"question {i}?", f"you fool, {i} times no", meta={"kind": "bad"}) for i in range(25)]
    good = [
        chat(f"question {i}?", f"the answer is that {i} works " * (1 + i % 3), meta={"kind": "fine"}) for i in range(40)
    ]
    # Labels that no score can get right, so that the figures are not all 1.
    odd = [chat(f"odd {i}?", f"the answer is {i}", meta={"kind": "bad"}, pair=i // 2) for i in range(8)]
    plain = [chat(f"plain {i}?", f"no answer, {i}") for i in range(5)]
    write_rows(folder / "one.jsonl", [r for pair in zip(bad, good[:25], strict=True) for r in pair])
    write_rows(folder / "two.jsonl", [*plain, *good[25:], *odd])
    with (folder / "two.jsonl").open("a") as handle:
        handle.write('{"broken": \n')
    other = shutil.copytree(tiny_bank, folder / "other-bank")
    text = (other / "bank.json").read_text("utf-8")
    (other / "bank.json").write_text(text.replace('"name": "tiny-bank"', '"name": "other"', 1), "utf-8")
    bank = Bank.load(other)
    # Another bank indeed, under every scorer.
    bank.closeness.aligned[:] = 0
    bank.closeness.toxic[:] = (bank.closeness.toxic + bank.closeness.toxic[::-1]) / 2
    bank.dense[:] = bank.dense[::-1].copy()
    bank.save(other)
    for scorer, run in (("contrast", "r"), ("nearest", "rn"), ("dense", "rd")):
        if run != "r":
            shutil.copytree(folder / "r", folder / run)
        done = geofilter(
            "scan", "one.jsonl", "two.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--bank",
            "other-bank", "--run", run, "--scorer", scorer, "--shard-rows", 30, "--quiet", cwd=folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Path:
    """`base`, to be changed at will."""
    return shutil.copytree(base, tmp_path / "place")


KIND = ("--labels", "meta.kind=bad")


@pytest.fixture(scope="module")
def result(base: Path) -> dict:
    done = geofilter("evaluate", "r", *KIND, "--json", "--quiet", cwd=base)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    value = json.loads(done.stdout)
    assert value == json.loads((base / "r" / "evaluate.json").read_text("utf-8"))
    return value


def line(result: dict, name: str) -> dict:
    (found,) = [x for x in result["lines"] if x["name"] == name]
    return found


def truth(folder: Path, run: str = "r") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, label and position of the labelled scored rows, read without the code under test."""
    scores, bad, position = [], [], []
    for i, text in enumerate((folder / run / "scores.jsonl").read_text("utf-8").splitlines()):
        detail = json.loads(text)
        row = json.loads((folder / detail["file"]).read_text("utf-8").splitlines()[detail["line"] - 1])
        if "meta" in row:
            scores.append(detail["score"])
            bad.append(row["meta"]["kind"] == "bad")
            position.append(i)
    return np.array(scores), np.array(bad), np.array(position)


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
    turned = [{**r, "meta": {"kind": "fine" if r["meta"]["kind"] == "bad" else "bad"}} for r in rows]
    write_rows(place / "<turned>.jsonl", [*turned, rows[0], {"nothing": 1}])
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
    assert len(series) == len(names) == 7
    assert [p.get("class") for p in series] == [
        "series main", "series other", *["series control"] * 4, "series reference",
    ]  # fmt: skip
    assert names[0] == f"the run's score ({result['lines'][0]['auroc']:.2f})"
    assert root.find(f"{SVG}title").text
    assert names[0] in root.find(f"{SVG}desc").text
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    # The curve ends where the recall at half of the rows is.
    end_y = float(series[0].get("d").split()[-1])
    assert end_y == pytest.approx(560 - 60 - (560 - 60 - 84) * result["lines"][0]["recall_curve"][50], abs=0.1)


# Labels


def test_labels_of_a_file_by_hash_and_by_place(place: Path):
    details = [json.loads(text) for text in (place / "r" / "scores.jsonl").read_text().splitlines()]
    rows = [{"sha256": d["sha256"].upper(), "label": ["good", "bad"][i % 2]} for i, d in enumerate(details[:20])]
    rows += [{"file": str(place / d["file"]), "line": d["line"], "label": i % 2} for i, d in enumerate(details[20:40])]
    rows += [{"file": "two.jsonl", "line": 29, "label": True}]  # the quarantined one
    rows += [{"sha256": "0" * 64, "label": False}, {"sha256": details[70]["sha256"], "label": None}]
    write_rows(place / "labels.jsonl", rows)
    done = geofilter("evaluate", "r", "--labels", "labels.jsonl", "--json", "-q", cwd=place)
    assert done.returncode == 0, done.stderr
    about = json.loads(done.stdout)["labels"]
    assert (about["labelled"], about["bad"], about["good"]) == (40, 20, 20)
    assert (about["without_label"], about["labels_without_row"]) == (38, 2)


def test_several_values_and_values_that_are_no_strings():
    row = SimpleNamespace(file="f", line=1)

    def of(rule: str, **record):
        return parse(rule).of(SimpleNamespace(**row.__dict__, record=record))

    assert of("label=a, b", label="b") is True
    assert of("label=a,b", label="c") is False
    assert of("label=true", label=True) is True
    assert of("label=1", label=1.0) is True
    assert of("label=1", label=True) is False
    assert of("label=a", label=None) is None
    assert of("label=a", other="a") is None
    assert of("m.k=a", m={"k": "a"}) is True
    assert of("m.k=a", **{"m.k": "a"}) is True
    assert of("m.k=a", m="a") is None
    with pytest.raises(InputError, match="f, line 1: the field label holds a list, not one value"):
        of("label=a", label=["a"])


ONE = {"sha256": "a" * 64}


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (
            [{**ONE, "label": True}, ONE],
            'l, line 2: no label; a line is {"sha256", "label"} or {"file", "line", "label"}',
        ),
        (
            [{**ONE, "label": "toxic"}],
            'l, line 1: the label "toxic" is not true, false, 1, 0, "bad" or "good"; to take a field of the rows as '
            "their label write --labels FIELD=VALUE",
        ),
        ([{"file": "x", "label": 1}], "l, line 1: does not say which row; give its sha256, or its file and line"),
        (
            [{**ONE, "label": 1}, {"sha256": "b", "label": 0}, {**ONE, "label": "good"}],
            "l, lines 1 and 3: contradictory labels of the same row; keep one of them",
        ),
        (["no", "rows"], 'l, line 1: no label; a line is {"sha256", "label"} or {"file", "line", "label"}'),
    ],
)
def test_label_files_that_cannot_be_used(tmp_path: Path, monkeypatch, rows: list, error: str):
    monkeypatch.chdir(tmp_path)
    write_rows(Path("l"), rows)
    with pytest.raises(InputError) as caught:
        parse("l")
    assert str(caught.value) == error


def error_of(done) -> str:
    return done.stderr.splitlines()[-1].removeprefix("geofilter: error: ")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--labels", "nothing.jsonl"], "--labels nothing.jsonl: no such file, and not FIELD=VALUE; write "),
        (["--labels", "=x"], "--labels =x: write FIELD=VALUE, label=misaligned for instance"),
        (["--labels", "kind=x"], "--labels kind=x: no bad and no good row; no scored row has the field kind; the rows "
                                 "have messages, meta, pair"),
        (["--labels", "meta.kind=worse"], "--labels meta.kind=worse: no bad row; the field meta.kind holds fine (40), "
                                          "bad (33)"),
        (["--labels", "meta.kind=bad,fine"], "--labels meta.kind=bad,fine: no good row; the field meta.kind holds "
                                             "fine (40), bad (33)"),
        (["--labels", "pair=3"], "--labels pair=3: 2 bad and 6 good rows; at least 5 of each are needed, label more "
                                 "rows"),
        (["--labels", "meta=bad"], "one.jsonl, line 1: the field meta holds a dict, not one value; name another field"),
        ([*KIND, "--pair", "topic"], "--pair topic: no labelled row has this field; leave it out to group rows by "
                                     "their prompt"),
        ([*KIND, "--drop", "x"], "--drop x: not an amount; write a percentage like 10% or a number of rows like 500"),
        ([*KIND, "--drop", "0.5%"], "--drop 0.5%: less than one of the 73 labelled rows; drop more"),
        ([*KIND, "--drop", "79"], "drop 79 rows: the run has only 78 scored rows"),
        ([*KIND, "--across", "none.jsonl"], "none.jsonl: no such file; give the path of a data file (.jsonl, "
                                            ".jsonl.gz, .jsonl.zst or .parquet)"),
        ([*KIND, "--across", "one.jsonl"], "--across one.jsonl: no bad and no good row; 50 of its rows are tested on "
                                           "and left out"),
        ([*KIND, "--out", "one.jsonl"], "one.jsonl: cannot be made (File exists); give another folder"),
    ],
)  # fmt: skip
def test_errors_name_the_remedy(base: Path, args: list[str], error: str):
    done = geofilter("evaluate", "r", *args, "-q", cwd=base)
    assert done.returncode == 2
    assert error_of(done).startswith(error)


def test_contradictory_labels_of_a_row_by_hash_and_by_place(place: Path):
    detail = json.loads((place / "r" / "scores.jsonl").read_text().splitlines()[0])
    write_rows(place / "l.jsonl", [
        {"sha256": detail["sha256"], "label": 1}, {"file": detail["file"], "line": detail["line"], "label": 0},
    ])  # fmt: skip
    done = geofilter("evaluate", "r", "--labels", "l.jsonl", cwd=place)
    assert done.returncode == 2
    assert error_of(done) == "l.jsonl, lines 1 and 2: contradictory labels of one.jsonl, line 1; keep one of them"


def test_groups_may_be_named(base: Path):
    got = json.loads(geofilter("evaluate", "r", *KIND, "--pair", "meta.kind", "--json", "-q", cwd=base).stdout)
    assert (got["labels"]["groups"], got["labels"]["grouped_by"]) == (2, "meta.kind")
    assert "Only 2 groups of rows: the intervals are rough and too narrow." in got["notes"]
    assert any(text.startswith("The groups leave a fold without rows to fit on") for text in got["notes"])
    (base / "r" / "evaluate.json").unlink()


def test_changed_data_is_refused(place: Path):
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
    manifest["banks"][1]["sha256"] = None
    (place / "r" / "manifest.json").write_text(json.dumps(manifest))
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
    manifest = json.loads((place / "r" / "manifest.json").read_text())
    manifest["banks"][0]["sources"]["bad"]["sha256"] = manifest["data"][0]["sha256"]
    (place / "r" / "manifest.json").write_text(json.dumps(manifest))
    got = json.loads(geofilter("evaluate", "r", *KIND, "--json", "-q", cwd=place).stdout)
    assert any("bank tiny-bank was built from rows of one.jsonl, which are evaluated here" in n for n in got["notes"])


def test_a_built_in_bank_is_sought_where_a_scan_puts_it():
    for dtype, sae_dtype, precision in (
        ("float32", "float32", "float32"),
        ("bfloat16", "bfloat16", "bfloat16-sae-bfloat16"),
    ):
        for name, fingerprint in (("smollm2-135m", "f" * 64), ("org/some model", "e" * 64)):
            manifest = {
                "target": {"name": name, "fingerprint": fingerprint},
                "encoding": {"dtype": dtype, "sae_dtype": sae_dtype},
            }
            about = {"name": "toxic-text", "path": None, "sources": built_in_sources("toxic-text")}
            target = SimpleNamespace(name=name, fingerprint=fingerprint)
            assert bank_folder(manifest, about) == bank_folder_for("toxic-text", target, precision)
    shipped = Path(seeding.package_data("banks", "smollm2-135m", "toxic-text"))
    manifest["target"] = json.loads((shipped / "bank.json").read_text("utf-8"))["target"]
    manifest["encoding"] = {"dtype": "float32", "sae_dtype": "float32"}
    assert bank_folder(manifest, about) == shipped


def test_evaluate_imports_no_torch(base: Path):
    code = (
        f"import os, sys, json\nos.chdir({str(base)!r})\n"
        "sys.argv = ['geofilter', 'evaluate', 'r', '--labels', 'meta.kind=bad', '--out', 'plain', '--quiet']\n"
        "from geofilter.cli import app\ntry:\n    app()\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert "sklearn" in modules
    assert not modules & {"torch", "transformers", "sae_lens"}


# Pictures


def test_hostile_text_is_inert_in_a_picture():
    nasty = '</text><script>alert("1")</script>&\x00\x1b\ud800￾'
    drawn = [
        curves([Series(nasty, [(0, 0), (1, 1)]), Series("b", [(0, 0), (1, 0.5)])], nasty, nasty, nasty, note=nasty),
        intervals([Interval(nasty, 0.1, 0.0, 0.2)], nasty, nasty, description=nasty, note=nasty),
    ]
    for text in drawn:
        root = ElementTree.fromstring(text.encode("utf-8"))
        assert not list(root.iter(f"{SVG}script"))
        assert any("<script>" in (t.text or "") for t in root.iter(f"{SVG}title"))


def test_the_names_of_curves_do_not_overlap_and_stay_inside():
    series = [Series(f"series {i}", [(0, 0), (0.5, 0.9 + 0.001 * i)], "control") for i in range(9)]
    series.append(Series("low", [(0, 0), (0.5, 0.0)], "reference"))
    root = ElementTree.fromstring(curves(series, "x", "y", "t"))
    names = [t for t in root.iter(f"{SVG}text") if (t.get("class") or "").startswith("name")]
    heights = sorted(float(t.get("y")) for t in names)
    assert len(heights) == 10
    assert min(b - a for a, b in pairwise(heights)) >= LINE - 0.2
    assert 84 <= heights[0] <= heights[-1] <= 520
    # Each beside its curve's end, in the curves' order: the highest curve has the highest name.
    assert [t.text for t in sorted(names, key=lambda t: float(t.get("y")))] == [
        *(f"series {i}" for i in reversed(range(9))), "low",
    ]  # fmt: skip


def test_intervals_are_drawn_to_scale():
    rows = [Interval("a", 0.0, -1.0, 1.0), Interval("b", 0.5, 0.0, 1.0)]
    root = ElementTree.fromstring(intervals(rows, "x", "t", reference=0))
    dots = [float(c.get("cx")) for c in root.iter(f"{SVG}circle")]
    ranges = [p.get("d") for p in root.iter(f"{SVG}path") if p.get("class") == "range"]
    (low, high), (low_b, high_b) = ([float(v) for v in re.findall(r"[MH]([\d.]+)", d)] for d in ranges)
    assert dots[0] == pytest.approx((low + high) / 2, abs=0.2)
    assert dots[1] == pytest.approx((low_b + high_b) / 2, abs=0.2)
    assert high == high_b
    (line_at,) = [p for p in root.iter(f"{SVG}path") if p.get("class") == "series reference"]
    assert float(re.search(r"M([\d.]+)", line_at.get("d"))[1]) == pytest.approx(dots[0], abs=0.2)
    assert not [
        p
        for p in ElementTree.fromstring(intervals(rows, "x", "t", reference=None)).iter(f"{SVG}path")
        if p.get("class") == "series reference"
    ]
    texts = [t.text for t in root.iter(f"{SVG}text")]
    assert "0.50 [0.00, 1.00]" in texts
