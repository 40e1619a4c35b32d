"""What a scan keeps token by token: marks without a model that sum to the stored score."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.scanning import rows, scan_args

from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.bank.scorer import Scorer
from geofilter.errors import RunError
from geofilter.rows.records import Row, read_rows
from geofilter.run.banks import find_banks
from geofilter.run.marks import marks_of, spans_of
from geofilter.run.store import Run


@pytest.fixture
def other(tiny_bank: Path, tmp_path: Path) -> Path:
    """A second bank, which gives other rows the largest scores."""
    bank = Bank.load(tiny_bank)
    replace(bank, name="other", weights=np.roll(bank.weights, 3)).save(tmp_path / "other")
    return tmp_path / "other"


def data(folder: Path) -> list[Row]:
    """Short rows, long ones that are read in windows, characters of several tokens, a row that cannot be scored."""
    found = [*rows(9), {"nothing": 1}, chat("long?", "you fool, the answer is no. " * 12), *rows(6),
             chat("odd?", " ünïcode – 漢字 \N{CLOWN FACE}, you fool\n ")]  # fmt: skip
    write_rows(folder / "d.jsonl", found)
    return [row for row in read_rows(folder / "d.jsonl") if isinstance(row, Row)]


def scan(folder: Path, tiny, bank: Path, *args: object) -> Run:
    done = geofilter(*scan_args(tiny, bank, "--run", "run", "--shard-rows", 5, *args), cwd=folder)
    assert done.returncode == 0, done.stderr
    return Run.open(folder / "run")


@pytest.mark.parametrize("scorer", ["ridge", "contrast"])
def test_shares_of_tokens_and_of_silent_features_are_the_score(tiny, tiny_bank, other, tmp_path: Path, scorer: str):
    texts = data(tmp_path)
    run = scan(tmp_path, tiny, tiny_bank, "--bank", other, "--max-tokens", 48, "--scorer", scorer,
               "--exclude-feature", "tiny-bank:7")  # fmt: skip
    banks = {bank.name: Scorer(bank, scorer) for bank in find_banks(run)[0]}
    assert run.manifest["counts"]["windowed"] >= 1
    assert run.manifest["share_keys"] == {name: s.shares.key for name, s in banks.items()}
    lines = list(run.scores())
    pooled = Pooled.concat([shard.pooled for shard in run.shards()])
    steps = np.concatenate([shard.tokens.steps for shard in run.shards()], axis=1)
    assert len({line["bank"] for line in lines}) == 2
    for of, name in enumerate(banks):
        found = marks_of(run, list(range(len(texts))), [name] * len(texts))
        for i, marks in found.items():
            low, high = pooled.indptr[i : i + 2]
            silent = banks[name].shares.absent(pooled.indices[low:high])
            off = marks.share.astype(float).sum() + silent - lines[i]["banks"][name]["score"]
            assert abs(off) <= 0.5 * steps[of, i] + 1e-4, (i, off, steps[of, i])
            assert len(marks.share) == lines[i]["n_tokens"]
    own = marks_of(run, [0, 12, 3])
    assert list(own) == [0, 12, 3]
    for i in own:
        np.testing.assert_array_equal(own[i].share, marks_of(run, [i], [lines[i]["bank"]])[i].share)


def test_marks_are_words_of_the_response_and_the_strongest_token_of_a_feature_is_one(
    tiny, tiny_bank: Path, tmp_path: Path
):
    texts = data(tmp_path)
    run = scan(tmp_path, tiny, tiny_bank, "--max-tokens", 48)
    found = marks_of(run, list(range(len(texts))))
    last, response = found[len(texts) - 1], texts[-1].response
    words = {response[a:b].strip() for a, b in zip(last.start.tolist(), last.end.tolist(), strict=True)}
    assert {"漢", "字", "\N{CLOWN FACE}"} <= words
    first = 0
    for shard in run.shards():
        for i in range(len(shard.pooled)):
            spans = set(zip(found[first + i].start.tolist(), found[first + i].end.tolist(), strict=True))
            low, high = shard.pooled.indptr[i : i + 2]
            assert set(shard.peak_spans(i, np.arange(low, high))) <= spans
            marked = found[first + i].spans()
            assert all(a < b <= c for (a, b, _), (c, *_) in pairwise(marked))
            assert sum(share for *_, share in marked) == pytest.approx(found[first + i].share.sum(), abs=0.05)
        first += len(shard.pooled)
    cut = found[9].spans(most=20)
    assert cut[-1][1] == 20 and cut[:-1] == [span for span in found[9].spans() if span[1] < 20]


def test_without_token_shares_nothing_is_kept(tiny, tiny_bank: Path, tmp_path: Path):
    data(tmp_path)
    run = scan(tmp_path, tiny, tiny_bank, "--no-token-shares")
    assert [shard.tokens for shard in run.shards()] == [None] * 4
    assert next(run.shards()).peak_spans(0, np.arange(2)) == [None, None]
    assert marks_of(run, [0, 1]) == {}
    scores = [line["score"] for line in run.scores()]
    with_shares = geofilter(*scan_args(tiny, tiny_bank, "--run", "run", "--shard-rows", 5), cwd=tmp_path)
    assert "token_shares: false, now true" in with_shares.stderr
    done = geofilter(*scan_args(tiny, tiny_bank, "--run", "two", "--shard-rows", 5), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line["score"] for line in Run.open(tmp_path / "two").scores()] == scores


def test_a_scan_that_goes_on_with_another_bank_keeps_its_shards_and_marks_only_what_is_of_that_bank(
    tiny, tiny_bank: Path, other: Path, tmp_path: Path
):
    texts = data(tmp_path)
    run = scan(tmp_path, tiny, tiny_bank)
    before = [path.read_bytes() for path in run.parts]
    run.parts[3].unlink()
    run = scan(tmp_path, tiny, other)
    after = [path.read_bytes() for path in run.parts]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, True, False]
    found = marks_of(run, list(range(len(texts))))
    assert [found[i].share is not None for i in found] == [i >= 14 for i in found]
    assert found[0].spans() == [] and len(found[0].start)


def test_a_scorer_whose_scores_are_no_sums_has_no_marks(tiny, tiny_bank: Path, tmp_path: Path):
    data(tmp_path)
    run = scan(tmp_path, tiny, tiny_bank, "--scorer", "nearest")
    assert run.manifest["share_keys"] == {}
    found = marks_of(run, [2])[2]
    assert found.share is None and len(found.start) > 0


def test_only_the_shards_that_hold_the_rows_are_read_and_what_is_damaged_is_said(tiny, tiny_bank, tmp_path: Path):
    data(tmp_path)
    run = scan(tmp_path, tiny, tiny_bank)
    content = run.parts[3].read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    run.parts[3].write_bytes(content[:header] + bytes(len(content) - header))
    assert marks_of(run, [0]).keys() == {0}
    with pytest.raises(RunError, match=r"part-00003.safetensors: damaged .*same geofilter scan"):
        marks_of(run, [15])
    run.parts[3].write_bytes(run.parts[1].read_bytes())
    with pytest.raises(RunError, match=r"part-00003.safetensors: damaged \(not where it belongs\)"):
        marks_of(run, [15])


def test_a_report_does_without_the_marks_of_a_damaged_shard(tiny, tiny_bank, tmp_path: Path):
    data(tmp_path)
    run = scan(tmp_path, tiny, tiny_bank)
    for path in run.parts:
        path.write_bytes(b"")
    done = geofilter("filter", "run", "--drop", "3", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not any("spans" in row for row in json.loads(done.stdout)["removed_rows"])
    assert "part-00000.safetensors" in geofilter("verify", "run", cwd=tmp_path).stderr


def test_tokens_that_only_together_make_a_character_are_one_mark():
    start, end = np.array([0, 3, 4, 4, 9], np.int32), np.array([3, 5, 5, 5, 9], np.int32)
    share = np.array([1, 0.25, 0.5, -0.25, 4], np.float32)
    assert spans_of(start, end, share) == [(0, 3, 1.0), (3, 5, 0.5)]
    moved = np.array([20, 0], np.int32)  # thinking that a template shows behind the answer
    assert json.dumps(spans_of(moved, moved + 2, share[:2])) == "[[0, 2, 0.25], [20, 22, 1.0]]"
