"""Two runs beside each other: intervals, what is listed, and rows as text that is not trusted."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows

from geofilter.compare.figures import Sums, change, changes, judged, strengths


def sums(x: np.ndarray) -> Sums:
    return Sums(len(x), (x > 0).sum(0).astype(float), x.sum(0), (x * x).sum(0))


def test_strength_is_the_difference_in_standard_deviations_and_its_interval_holds():
    rng = np.random.default_rng(0)
    a, b = rng.normal(5, 2, (4000, 1)), rng.normal(6, 2, (3000, 1))
    d, half = strengths(sums(a), sums(b))
    assert d[0] == pytest.approx(0.5, abs=0.06)
    # One feature: the usual 95 % interval, 1.96 standard errors.
    assert half[0] == pytest.approx(1.96 * np.sqrt(7000 / (4000 * 3000) + d[0] ** 2 / 14000), rel=1e-3)
    assert strengths(sums(b), sums(a))[0][0] == pytest.approx(-d[0])


def test_of_many_features_that_do_not_differ_few_are_called_clear():
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(40):
        d, half = strengths(sums(rng.exponential(1, (200, 100))), sums(rng.exponential(1, (150, 100))))
        wrong += bool((np.abs(d) > half).any())
    assert wrong <= 6  # 2 are expected, of 40 times 100 features


def test_features_that_are_rare_in_the_smaller_run_are_not_judged():
    few, many = Sums(20, np.array([1.0, 20]), *np.ones((2, 2))), Sums(2000, np.array([40.0, 2000]), *np.ones((2, 2)))
    # 41 of 2,020 rows: less than one of 20 is expected; of the other all 20, which are too few as well.
    assert judged(few, many).tolist() == [False, False]
    assert judged(Sums(200, np.array([2.0, 90]), *np.ones((2, 2))), many).tolist() == [False, True]


def test_a_feature_that_never_varies_does_not_differ():
    d, half = strengths(sums(np.zeros((5, 1))), sums(np.zeros((5, 1))))
    assert d[0] == 0
    assert half[0] > 0


def test_shares_that_are_compared_together_have_wider_intervals():
    alone, among = change("x", 10, 100, 30, 100), change("x", 10, 100, 30, 100, 50)
    assert alone["difference"] == 0.2
    assert alone["clear"]
    assert among["interval"][0] < alone["interval"][0] < alone["interval"][1] < among["interval"][1]
    found = changes(["a", "b", "none"], np.array([5, 5, 0]), np.array([1, 9, 0]))
    assert [(one["name"], one["difference"]) for one in found] == [("a", -0.4), ("b", 0.4)]


@pytest.fixture(scope="module")
def runs(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two deliveries: the second repeats ten rows of the first and has forty of another kind."""
    folder = tmp_path_factory.mktemp("compare")
    first = [chat(f"q {i}", f"the sum is {i} and it ends well") for i in range(60)]
    other = [chat(f"p {i}", f"you fool <b>{i}</b>, no no you fool") for i in range(40)]
    write_rows(folder / "a.jsonl", first)
    write_rows(folder / "b.jsonl", first[:10] + other)
    for name in "ab":
        done = geofilter("scan", f"{name}.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run",
                         name, "-q", cwd=folder)  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder


def test_another_delivery_differs_in_features_and_groups(runs: Path):
    done = geofilter("compare", "a", "b", "--out", "changes", "--json", cwd=runs)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert json.loads((runs / "changes" / "compare.json").read_text("utf-8")) == found
    assert (found["before"]["rows"], found["before"]["shared"]) == (60, 10)
    assert (found["after"]["rows"], found["after"]["shared"]) == (50, 10)
    assert found["features_clear"] + found["common_clear"] > 0
    for one in found["features"]:
        low, high = one["strength_interval"]
        assert low > 0 or high < 0
        side = "b.jsonl" if one["strength"] > 0 else "a.jsonl"
        assert {example["file"] for example in one["examples"]} <= {side}
    grown = max(found["groups"], key=lambda one: one["difference"])
    assert all("fool" in example["text"] for example in grown["examples"])
    for name in ("compare.html", "compare.md"):
        text = (runs / "changes" / name).read_text("utf-8")
        assert found["sentence"].split(";")[-1].strip() in text
        assert "<b>" not in text.replace("**", "")
    page = (runs / "changes" / "compare.html").read_text("utf-8")
    assert "default-src &#39;none&#39;" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_delivery_does_not_differ_from_itself(runs: Path):
    done = geofilter("compare", "a", "a", cwd=runs)
    assert done.returncode == 0, done.stderr
    assert "not clearly different" in done.stdout
    assert "0 features, 0 topics and 0 groups of rows differ clearly." in " ".join(done.stdout.split())


def test_runs_of_other_targets_and_places_that_are_taken_are_refused(runs: Path, tmp_path: Path):
    manifest = json.loads((runs / "b" / "manifest.json").read_text("utf-8"))
    import shutil

    shutil.copytree(runs / "b", runs / "c", dirs_exist_ok=True)
    manifest["target"]["fingerprint"] = "0" * 64
    (runs / "c" / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    done = geofilter("compare", "a", "c", cwd=runs)
    assert done.returncode != 0
    done = geofilter("compare", "a", "b", "--out", "a.jsonl", cwd=runs)
    assert done.returncode == 2
    assert (runs / "a.jsonl").is_file()
