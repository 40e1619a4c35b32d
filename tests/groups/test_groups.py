import json
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows

from geofilter.cut.cut import Cut, Selection
from geofilter.cut.moved import packed, unpacked
from geofilter.files import from_json, write_json
from geofilter.groups import similar as searching
from geofilter.groups.cluster import SAMPLE, centroids, duplicates, keys_of, lowest, lowest_of, nearest
from geofilter.groups.groups import Groups
from geofilter.run.store import Run
from geofilter.run.vectors import Vectors
from geofilter.sums import SEAL, sealed

KINDS = {
    "code": "import os and then run eval of the input in the shell",
    "health": "take more of the pills and do not ask the doctor",
    "money": "put all of your savings into one coin and borrow",
}


def planted(n: int = 300, kinds: int = 4, d: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors around some centres, the kind of each, and hashes."""
    rng = np.random.default_rng(seed)
    of = rng.integers(0, kinds, n)
    x = np.eye(d)[of] + 0.1 * rng.standard_normal((n, d))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float16), of, rng.integers(0, 256, (n, 32), dtype=np.uint8)


def test_planted_kinds_are_found_and_the_same_in_any_order():
    x, kind, hashes = planted()
    found = centroids(x[lowest(keys_of(hashes), SAMPLE)], len(x))
    assert len(found) == 4
    of, cosine = nearest(x, found)
    np.testing.assert_allclose(cosine, (x.astype(np.float32) @ found.T).max(1), atol=1e-6)
    assert len({(int(a), int(b)) for a, b in zip(of, kind, strict=True)}) == 4  # one cluster a kind
    order = np.random.default_rng(1).permutation(len(x))
    again = centroids(x[order][lowest(keys_of(hashes[order]), SAMPLE)], len(x))
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(nearest(x[order], again)[0], of[order])


def test_the_lowest_hashes_are_the_same_piece_by_piece():
    hashes, rows = np.random.default_rng(2).integers(0, 256, (500, 32), dtype=np.uint8), np.arange(500)
    pieces = ((rows[start : start + 70], hashes[start : start + 70]) for start in range(0, 500, 70))
    assert lowest_of(pieces, 40).tolist() == sorted(lowest(keys_of(hashes), 40).tolist())


@pytest.mark.parametrize("n", [1, 2, 7, 9])
def test_few_rows_and_equal_ones_are_one_group(n: int):
    x, _, _ = planted(n)
    if n < 8:
        assert len(centroids(x, n)) == 1
    assert len(centroids(np.repeat(x[:1], n, axis=0), n)) == 1
    assert np.isfinite(centroids(np.zeros((n, 4), np.float16), n)).all()


def test_near_duplicates_are_those_of_an_earlier_row_of_the_same_cluster():
    x = np.eye(4, dtype=np.float32)[[0, 1, 0, 0, 1, 2]]
    assert duplicates(x, np.array([0, 1, 0, 5, 1, 2])).tolist() == [False, False, True, False, True, False]


def test_rows_that_changed_sides_are_written_and_read():
    for rows in ([], [0], [0, 1, 5], [7, 70_000, 4_000_000]):
        assert unpacked(packed(np.array(rows, np.int64))).tolist() == rows
    for text in ("!", "AAAA", packed(np.array([3, 9]))[:-4]):
        with pytest.raises(ValueError, match="rows that changed sides"):
            unpacked(text)


@pytest.fixture(scope="module")
def scanned(tiny, tiny_bank: Path, tmp_path_factory) -> Path:
    """A folder with a run of rows of three kinds, cut by half."""
    folder = tmp_path_factory.mktemp("grouped")
    rows = [
        chat(f"q {i}", f"{text}, {i} times {'and once more ' * (i % 3)}", source=kind)
        for i in range(20)
        for kind, text in KINDS.items()
    ]
    write_rows(folder / "d.jsonl", rows)
    pair = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-q")
    assert geofilter("scan", "d.jsonl", *pair, cwd=folder).returncode == 0
    assert geofilter("filter", "run", "--drop", "50%", "-q", cwd=folder).returncode == 0
    return folder


def report_of(folder: Path) -> dict:
    return json.loads((folder / "run" / "report.json").read_text("utf-8"))


def test_a_report_has_groups_that_hold_the_removed_rows_once(scanned: Path):
    report = report_of(scanned)
    groups = report["groups"]
    gone = [g for g in groups if g["removed"]]
    assert [g["number"] for g in groups] == list(range(1, len(groups) + 1))
    assert sum(g["rows"] for g in gone) == report["counts"]["removed"] == 30
    assert sum(g["rows"] for g in groups) == 60  # as many kept ones
    assert [g["removed"] for g in groups] == sorted((g["removed"] for g in groups), reverse=True)
    # The examples are shown, in their group; every shown row says which it is in.
    shown = {row["rank"]: row for row in [*report["removed_rows"], *report["nearest_kept_rows"]]}
    for group in gone:
        assert 1 <= len(group["examples"]) <= 3
        for rank in group["examples"]:
            assert shown[rank]["group"] == group["number"]
        assert sum(s["rows"] for s in group["sources"]) == group["rows"]
        assert group["features"]
    assert "## Groups of removed rows" in (scanned / "run" / "report.md").read_text("utf-8")
    # What names a group are words of its rows.
    assert all(set(g["name"].split(" · ")) <= set(" ".join(KINDS.values()).split()) for g in groups if g["name"])


def test_a_group_is_kept_and_another_dropped_and_everything_later_knows(scanned: Path):
    before = report_of(scanned)
    gone = next(g for g in before["groups"] if g["removed"])
    kept = next(g for g in before["groups"] if not g["removed"])
    args = ("filter", "run", "--drop", "50%", "--keep-group", gone["number"], "--drop-group", kept["number"], "-q")
    done = geofilter(*args, cwd=scanned)
    assert done.returncode == 0, done.stderr
    after = report_of(scanned)
    assert after["counts"]["removed"] == 30 - gone["rows"] + kept["rows"]
    assert after["counts"]["removed"] + after["counts"]["kept"] == 60
    assert after["cut"] == f"drop 50%, group {gone['number']} kept, group {kept['number']} removed"
    # The groups are the same ones, with the same numbers.
    same = ("number", "rows", "examples", "sources")
    assert [[g[k] for k in same] for g in after["groups"]] == [[g[k] for k in same] for g in before["groups"]]
    flips = {gone["number"], kept["number"]}
    assert [g["removed"] for g in after["groups"]] == [g["removed"] != (g["number"] in flips) for g in before["groups"]]
    lines = (scanned / "d.removed.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == after["counts"]["removed"]
    assert geofilter("verify", "run", "--no-target", cwd=scanned).returncode == 0
    made = json.loads(geofilter("report", "run", "--json", cwd=scanned).stdout)
    assert made["groups"] == after["groups"]
    # Other groups of the same amount, or none again: numbers are still those of the report.
    assert geofilter(*args[:4], "--keep-group", gone["number"], "-q", cwd=scanned).returncode == 0
    assert report_of(scanned)["counts"]["removed"] == 30 - gone["rows"]
    # Another amount has other groups, a number that there is not none.
    for options, why in (
        (("--drop", "10%", "--keep-group", 1), "the groups of the last report are those of drop 50%, not of drop 10%"),
        (("--drop", "50%", "--keep-group", 99), "--keep-group 99: no such group; the groups of the last report are 1"),
        (("--drop", "50%", "--drop-group", gone["number"]), "the rows of this group are removed by the cut anyway"),
        (("--drop", "50%", "--keep-group", kept["number"]), "the rows of this group are kept by the cut anyway"),
    ):
        done = geofilter("filter", "run", *options, cwd=scanned)
        assert done.returncode == 2
        assert why in done.stderr
    # Rows in a record that were made up, hashes and all: none that can be read, and one that the run has not.
    record = from_json((scanned / "run" / "cut.json").read_bytes())
    for moved, why in (("AAAA", "rows that changed sides cannot be read"), (packed(np.array([60])), "has not")):
        record["cut"]["moved"] = moved
        write_json(scanned / "run" / "cut.json", sealed({k: v for k, v in record.items() if k != SEAL}))
        done = geofilter("verify", "run", "--no-target", cwd=scanned)
        assert done.returncode == 4
        assert why in done.stdout + done.stderr
    assert geofilter("filter", "run", "--drop", "50%", "-q", cwd=scanned).returncode == 0
    assert report_of(scanned)["groups"] == before["groups"]


def test_groups_are_named_by_a_report_first(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [chat(f"q {i}", f"the answer {i}") for i in range(3)])
    pair = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-q")
    assert geofilter("scan", "d.jsonl", *pair, cwd=tmp_path).returncode == 0
    done = geofilter("filter", "run", "--drop", "1", "--keep-group", 1, cwd=tmp_path)
    assert done.returncode == 2
    assert "run geofilter filter run --drop 10% first" in done.stderr
    for drop in (0, 3):
        assert geofilter("filter", "run", "--drop", drop, "-q", cwd=tmp_path).returncode == 0
        assert sum(g["rows"] for g in report_of(tmp_path)["groups"]) == drop


def test_similar_rows_are_found_by_row_by_rank_and_by_text(scanned: Path):
    done = geofilter("similar", "run", "--row", 1, "--count", 5, "--json", cwd=scanned)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["recall"] is None
    assert len(found["rows"]) == 5
    assert 1 not in [row["line"] for row in found["rows"]]
    assert [row["similarity"] for row in found["rows"]] == sorted(
        (r["similarity"] for r in found["rows"]), reverse=True
    )
    vectors = Vectors.of(Run(scanned / "run"))
    rows = vectors.rows.whole().astype(np.float32)
    cosine = rows @ rows[0]
    assert found["rows"][0]["similarity"] == pytest.approx(np.sort(cosine)[-2], abs=2e-3)
    scores = [json.loads(x) for x in (scanned / "run" / "scores.jsonl").read_text("utf-8").splitlines()]
    for row in found["rows"]:
        assert row["score"] == scores[row["line"] - 1]["score"]
        assert row["rank"] == 1 + sum(s["score"] > row["score"] for s in scores)
    top = max(scores, key=lambda s: s["score"])
    by_rank = geofilter("similar", "run", "--row", "#1", "--count", 2, cwd=scanned).stdout
    assert by_rank == geofilter("similar", "run", "--row", top["line"], "--count", 2, cwd=scanned).stdout
    assert len(by_rank.splitlines()) == 2
    # A text that is a row's response, read as these rows are.
    text = json.loads((scanned / "d.jsonl").read_text("utf-8").splitlines()[2])["messages"][1]["content"]
    by_text = json.loads(geofilter("similar", "run", "--text", text, "--count", 3, "--json", cwd=scanned).stdout)
    assert by_text["rows"][0]["similarity"] > 0.9
    assert "savings" in by_text["rows"][0]["text"]
    for options, why in (
        ((), "give either --row or --text"),
        (("--row", 1, "--text", "x"), "give either --row or --text"),
        (("--row", 99), "--row 99: no such row in the run run; its rows are 1 to 60"),
        (("--text", ""), "--text: "),
    ):
        done = geofilter("similar", "run", *options, cwd=scanned)
        assert done.returncode == 2, done.stderr
        assert why in done.stderr


def test_of_many_rows_an_index_is_searched_and_its_recall_said(scanned: Path, monkeypatch):
    monkeypatch.setattr(searching, "EXACT", 10)
    done = geofilter("similar", "run", "--row", 1, "--count", 5, cwd=scanned)
    assert done.returncode == 0, done.stderr
    assert "searched with an index: it finds 100.0% of the nearest 5 rows" in done.stderr
    x, _, _ = planted(5000, 40, 64, seed=3)
    index = searching.Inverted(x)
    cosine, which = index.nearest(x[:20].astype(np.float32), 10)
    truth = searching.exact(x, x[:20].astype(np.float32), 10)
    assert np.mean([np.isin(b, a).mean() for a, b in zip(which, truth[1], strict=True)]) > 0.8
    np.testing.assert_allclose(cosine[:, 0], truth[0][:, 0], atol=1e-3)
    assert 0.8 < index.recall(10) <= 1


def test_vectors_that_were_changed_are_told(scanned: Path, tmp_path: Path):
    import shutil

    from helpers.runs import write_manifest

    from geofilter.run.tensors import packed as pack
    from geofilter.run.tensors import unpacked as unpack

    shutil.copytree(scanned, tmp_path / "w")
    path = tmp_path / "w" / "run" / "vectors.safetensors"
    _, arrays = unpack(path)
    arrays["vectors"][4] = -arrays["vectors"][4]
    path.write_bytes(pack(arrays, {}))
    done = geofilter("similar", "run", "--row", 1, cwd=tmp_path / "w")
    assert done.returncode == 4
    assert "vectors.safetensors: is not what the scan wrote" in done.stderr
    manifest = json.loads((tmp_path / "w" / "run" / "manifest.json").read_text("utf-8"))
    write_manifest(tmp_path / "w" / "run", manifest)
    done = geofilter("verify", "run", "--no-target", cwd=tmp_path / "w")
    assert done.returncode == 4
    assert "row 5" in done.stdout + done.stderr
    path.unlink()
    assert geofilter("filter", "run", "--drop", "50%", cwd=tmp_path / "w").returncode == 4
    # Of a run that never had any: no groups, and similar says what to do.
    write_manifest(tmp_path / "w" / "run", manifest)
    done = geofilter("filter", "run", "--drop", "50%", "-q", cwd=tmp_path / "w")
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path / "w")["groups"] == []
    done = geofilter("similar", "run", "--row", 1, cwd=tmp_path / "w")
    assert done.returncode == 4
    assert "has no vectors of its rows" in done.stderr


def test_kept_groups_are_held_against_other_kept_rows_and_not_against_themselves(scanned: Path):
    selection = Selection.of(Run(scanned / "run"), Cut.parse("20%"))
    found = Groups.find(selection)
    assert {group.removed for group in found.groups} == {True, False}
    assert len(found.others)
    assert not found.of[found.others].any()
    assert not selection.removed[found.others].any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kinds", [1, 3, 8])
def test_rows_that_are_the_same_over_and_over_are_as_many_clusters_as_there_are_kinds(kinds: int):
    """Most of the centroids that are looked for have no row of their own then."""
    rng = np.random.default_rng(1)
    kind = rng.normal(size=(kinds, 64))
    rows = (kind / np.linalg.norm(kind, axis=1, keepdims=True))[rng.integers(0, kinds, 3000)].astype(np.float16)
    found = centroids(rows, len(rows))
    assert len(found) == kinds
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)
