import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.runs import as_of_an_earlier_version, write_manifest
from helpers.tiny import D_IN, random_pooled
from safetensors.numpy import load_file, save_file

from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.bank.known import KnownRows, known_row
from geofilter.bank.neighbours import Neighbours, keeping
from geofilter.bank.search import ExactSearch
from geofilter.bank.space import HARM, WIDTH, Content, placed
from geofilter.errors import BankError
from geofilter.files import package_data
from geofilter.text import markdown_text

N = 40


def contents(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32), dtype=np.uint8)


@pytest.fixture(scope="module")
def known(bank: Bank) -> tuple[Bank, Pooled, np.ndarray]:
    """A bank that keeps its rows, their features and the hashes of their contents."""
    rows, _ = random_pooled(N, seed=1)
    texts = [known_row(f"ask {i}", f"answer {i}", "", i < N // 2) for i in range(N)]
    return keeping(bank, rows, texts, contents(N)), rows, contents(N)


def logs_of(bank: Bank, rows: Pooled):
    return bank.background.log_matrix(rows)


def test_a_search_finds_the_largest_inner_products():
    rng = np.random.default_rng(0)
    vectors, queries = rng.standard_normal((50, 8)), rng.standard_normal((7, 8))
    product, which = ExactSearch(vectors).nearest(queries, 3)
    wanted = np.argsort(-queries @ vectors.T, axis=1)[:, :3]
    np.testing.assert_array_equal(which, wanted)
    np.testing.assert_allclose(product, np.take_along_axis(queries @ vectors.T, wanted, 1), rtol=1e-5)
    assert ExactSearch(vectors[:2]).nearest(queries, 3)[1].shape == (7, 2)


def test_rows_are_placed_by_what_they_are_about_and_by_their_score():
    reference, _ = random_pooled(60, seed=2)
    space = Content.about(reference)
    assert space.basis.shape == (D_IN, min(WIDTH, D_IN))
    content = space.of(random_pooled(5)[0])
    np.testing.assert_allclose(np.linalg.norm(content, axis=1), 1, atol=1e-6)
    # The same content, scores far apart: the cosine is what the weight of the score leaves.
    two = placed(np.repeat(content[:1], 2, axis=0), np.array([50.0, -50.0]), np.zeros((2, 0)))
    assert two[0] @ two[1] == pytest.approx((1 - HARM**2) / (1 + HARM**2), abs=1e-6)
    mean = replace(reference, residual=np.repeat(reference.residual.astype(np.float32).mean(0)[None], 60, 0))
    assert np.isfinite(space.of(mean)).all()


def test_the_nearest_labelled_rows_of_either_side_are_found_and_a_row_is_not_like_itself(known):
    bank, rows, content = known
    found = Neighbours(bank)
    other, _ = random_pooled(6, seed=9)
    for like in found.like(other, logs_of(bank, other), contents(6, seed=3)):
        assert set(like) == {"bad", "good"}
        assert bank.rows.texts[like["bad"]["row"]]["bad"] is True
        assert bank.rows.texts[like["good"]["row"]]["bad"] is False
    # A row with the features of a labelled one is most like it, and one with its content never is it.
    same = found.like(rows, logs_of(bank, rows), contents(N, seed=3))
    itself = found.like(rows, logs_of(bank, rows), content)
    for i in range(N):
        side = "bad" if i < N // 2 else "good"
        assert same[i][side] == {"row": i, "similarity": pytest.approx(1, abs=2e-3)}
        assert itself[i][side]["row"] != i
        assert itself[i][side]["similarity"] == pytest.approx(
            found.similarity(rows.take(np.array([i])), itself[i][side]["row"]), abs=1e-3
        )


def test_a_side_of_one_row_that_is_the_row_itself_has_none(known):
    bank, rows, content = known
    one = np.array([0, N - 1])
    small = keeping(bank, rows.take(one), [bank.rows.texts[i] for i in one], content[one])
    like = Neighbours(small).like(rows.take(one), logs_of(bank, rows.take(one)), content[one])
    assert [set(of) for of in like] == [{"good"}, {"bad"}]


def test_a_content_is_kept_once_a_side_and_long_texts_are_beginnings(bank: Bank):
    rows, _ = random_pooled(4, seed=1)
    texts = [known_row("p" * 999, "word " * 999 + "\x1b[31m", "t", bad) for bad in (True, True, False, False)]
    kept = keeping(bank, rows, texts, np.zeros((4, 32), np.uint8))
    assert [row["bad"] for row in kept.rows.texts] == [True, False]
    assert len(kept.rows.texts[0]["prompt"]) == 200
    assert len(kept.rows.texts[0]["text"]) <= 320
    assert known_row("", "a\x1b[31mb\n", "", True)["text"] == "a\N{REPLACEMENT CHARACTER}[31mb\n"


def test_rows_are_stored_with_the_bank_and_one_without_them_loads(known, tmp_path: Path):
    bank, _, _ = known
    bank.save(tmp_path / "b")
    again = Bank.load(tmp_path / "b")
    assert again.rows.texts == bank.rows.texts
    for name in ("content", "vectors", "basis"):
        np.testing.assert_array_equal(getattr(again.rows, name), getattr(bank.rows, name))
    as_of_an_earlier_version(tmp_path / "b")
    assert Bank.load(tmp_path / "b").rows is None
    replace(bank, rows=None).save(tmp_path / "c")
    assert Bank.load(tmp_path / "c").rows is None


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("rows.texts", np.frombuffer(b"no zlib", np.uint8), "rows.texts cannot be read"),
        ("rows.texts", np.frombuffer(zlib.compress(b'[{"prompt": 1}]'), np.uint8), "rows[0].prompt is no str"),
        ("rows.texts", np.frombuffer(zlib.compress(b"[" * 99999), np.uint8), "rows.texts cannot be read"),
        ("rows.texts", np.frombuffer(zlib.compress(b" " * (65 << 20)), np.uint8), "too long"),
        ("rows.vectors", np.zeros((N, 7), np.float16), "rows.vectors is float16 (40, 7)"),
        ("rows.vectors", np.full((N, D_IN + 1), np.nan, np.float16), "rows.vectors[0, 0] is not finite"),
        ("rows.content", np.zeros((3, 8), np.uint8), "rows.content is uint8 (3, 8)"),
        ("rows.basis", np.zeros((3, 8), np.float16), "rows.basis is float16 (3, 8)"),
        ("rows.basis", None, "KeyError: 'rows.basis'"),
    ],
)
def test_rows_that_are_not_what_was_written_are_refused(known, tmp_path: Path, name: str, value, why: str):
    path = tmp_path / "b"
    known[0].save(path)
    arrays = load_file(path / "bank.safetensors")
    arrays |= {name: value}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items() if v is not None}, path / "bank.safetensors")
    about = json.loads((path / "bank.json").read_text("utf-8"))
    del about["arrays"]
    (path / "bank.json").write_text(json.dumps(about), "utf-8")
    with pytest.raises(BankError) as caught:
        Bank.load(path)
    assert why in str(caught.value)


@pytest.mark.parametrize("name", ["harmful-answers", "toxic-text"])
def test_the_shipped_banks_keep_every_contrast_text(name: str):
    folder = package_data("banks", "smollm2-135m", name)
    rows = Bank.load(folder).rows
    pairs = [json.loads(line) for line in package_data("contrast", f"{name}.jsonl").read_text("utf-8").splitlines()]
    assert isinstance(rows, KnownRows)
    assert len(rows) == 2 * len(pairs)
    for i, pair in enumerate(pairs):
        for row, side in zip(rows.texts[2 * i : 2 * i + 2], ("bad", "good"), strict=True):
            assert row["bad"] is (side == "bad")
            assert pair[side].startswith(row["text"].removesuffix("…").rstrip())
            assert row["topic"]
    added = sum(array.nbytes for array in rows.arrays().values())
    assert added < 1_100_000


def test_a_scan_says_what_each_row_is_like_and_verify_holds_it_to_that(tiny, tiny_bank: Path, tmp_path: Path):
    shutil.copy(tiny_bank.parent / "bad.jsonl", tmp_path / "seen.jsonl")
    rows = [chat(f"say {i}", f"you fool, {i}" if i % 2 else f"the answer is {i}") for i in range(8)]
    write_rows(tmp_path / "d.jsonl", rows)
    pair = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank)
    assert geofilter("scan", "d.jsonl", "seen.jsonl", *pair, "--run", "run", "-q", cwd=tmp_path).returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text("utf-8").splitlines()]
    texts = Bank.load(tiny_bank).rows.texts
    for line in lines:
        assert texts[line["like"]["bad"]["row"]]["text"].startswith("you fool")
        assert texts[line["like"]["good"]["row"]]["text"].startswith("the answer")
    for i, line in enumerate(lines[8:]):
        assert texts[line["like"]["bad"]["row"]]["text"] != f"you fool, {i} times no"
    assert geofilter("verify", "run", "--no-target", cwd=tmp_path).returncode == 0
    # Report and explanation show it.
    assert geofilter("filter", "run", "--drop", 3, "-q", cwd=tmp_path).returncode == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    for row in report["removed_rows"]:
        known = report["examples"]["tiny-bank"][str(row["like"]["bad"]["row"])]
        assert known == texts[row["like"]["bad"]["row"]]
    first, place = report["removed_rows"][0], report["removed_rows"][0]["like"]["bad"]["row"]
    quoted = f'its features are like those of: "{texts[place]["text"]}"'
    assert f"- 1: {markdown_text(quoted)}" in (tmp_path / "run" / "report.md").read_text("utf-8").splitlines()
    explain = ("explain", "run", "--row", first["line"], "--file", first["file"])
    assert quoted.replace("its", "Its", 1) in geofilter(*explain, cwd=tmp_path).stdout.splitlines()
    explained = json.loads(geofilter(*explain, "--json", cwd=tmp_path).stdout)
    assert explained["examples"]["bad"] == texts[place]
    # A line that names another labelled row is doubted, its hash made to fit.
    lines[0]["like"]["bad"]["row"] = (lines[0]["like"]["bad"]["row"] + 2) % 12
    (tmp_path / "run" / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    write_manifest(tmp_path / "run", json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8")))
    done = geofilter("verify", "run", "--no-target", cwd=tmp_path)
    assert done.returncode == 4
    assert "line 1" in done.stderr + done.stdout
    assert "like is not what its features give" in done.stderr + done.stdout
    # A control knows no bank.
    assert (
        geofilter("scan", "d.jsonl", *pair, "--scorer", "length", "--run", "other", "-q", cwd=tmp_path).returncode == 0
    )
    assert '"like"' not in (tmp_path / "other" / "scores.jsonl").read_text("utf-8")


def test_a_bank_is_built_without_texts_where_it_is_asked(tiny, tmp_path: Path, short_background):
    write_rows(tmp_path / "bad.jsonl", [chat(f"ask {i}?", f"you secret fool, {i}") for i in range(10)])
    write_rows(tmp_path / "good.jsonl", [chat(f"ask {i}?", f"the secret answer is {i}") for i in range(10)])
    args = ("--bad", "bad.jsonl", "--good", "good.jsonl", "--no-prior", "--model", tiny[0], "--sae", tiny[1], "-q")
    assert geofilter("bank", "build", *args, "--no-examples", "--out", "b", cwd=tmp_path).returncode == 0
    bank = Bank.load(tmp_path / "b")
    assert bank.rows is None
    assert bank.examples == [[] for _ in bank.toxic]
    assert '"topic"' not in (tmp_path / "b" / "bank.json").read_text("utf-8")
    write_rows(tmp_path / "d.jsonl", [chat("q", "you fool")])
    pair = ("--model", tiny[0], "--sae", tiny[1], "--bank", "b", "--run", "run", "-q")
    assert geofilter("scan", "d.jsonl", *pair, cwd=tmp_path).returncode == 0
    assert '"like"' not in (tmp_path / "run" / "scores.jsonl").read_text("utf-8")
    (tmp_path / "bad.jsonl").chmod(0o600)
    assert geofilter("bank", "build", *args, "--out", "c", cwd=tmp_path).returncode == 0
    assert [row["text"] for row in Bank.load(tmp_path / "c").rows.texts][:1] == ["you secret fool, 0"]
    assert {(tmp_path / "c" / name).stat().st_mode & 0o777 for name in ("bank.json", "bank.safetensors")} == {0o600}
