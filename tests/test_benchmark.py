"""The core of the score benchmark on random features: what is given to methods, and what becomes of their scores."""

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import directions, random_pooled

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository: `benchmarks` is no part of the package

from benchmarks.score import own, tables
from benchmarks.score.candidates import Context
from benchmarks.score.sets import Labelled
from geofilter.bank.bank import Bank
from geofilter.build.build import BUILT_IN
from geofilter.rows.records import Row
from geofilter.rows.turns import Turn


def labelled(n_groups: int, seed: int, loss: bool) -> Labelled:
    """Four rows a group, two of them bad, of which the words, the loss and one feature tell."""
    n = 4 * n_groups
    bad, rng = np.arange(n) % 2 == 0, np.random.default_rng(seed)
    texts = [f"you {'fool' if is_bad else 'friend'}, {rng.integers(9)} times" for is_bad in bad]
    rows = [Row("x", i + 1, f"{seed}-{i}", "text", (Turn("text", text),), {}) for i, text in enumerate(texts)]
    pooled, _ = random_pooled(n, seed=seed)
    values = (bad + rng.normal(0, 0.1, n)).astype(np.float32)
    of = np.stack([values, 1 - values], axis=1) if loss else None
    return Labelled(rows, bad, np.array([f"t{i // 4}" for i in range(n)]), pooled, of)


@pytest.fixture
def known(bank: Bank) -> Context:
    return Context(directions(), {"b": bank}, "hook")


def test_methods_are_never_given_what_they_score(known: Context):
    texts = labelled(20, 1, loss=False)
    for aside in (False, True):
        part = texts.part(aside)
        assert 0 < len(part.rows) < len(texts.rows)
        given = list(own.topics(known, "b", texts, aside))
        assert len(given) == (1 if aside else 5)
        places = np.concatenate([at for _, at in given])
        assert sorted(places.tolist()) == list(range(len(part.rows)))
        for one, at in given:
            assert [row.sha256 for row in one.rows.rows] == [part.rows[i].sha256 for i in at]
            assert not set(one.texts.group) & set(one.rows.group)
            assert set(one.texts.group) <= set(texts.part(False).group)


@pytest.mark.parametrize("loss", [True, False])
def test_every_method_has_its_line_and_a_new_one_too(known: Context, loss: bool, monkeypatch):
    asked = []

    def mine(given: own.Given) -> np.ndarray:
        asked.append(given)
        return np.array([text.count("fool") for text in given.rows.texts], np.float64)

    monkeypatch.setitem(own.METHODS, "mine", mine)
    found = own.results(known, {"advice": labelled(12, 2, loss)}, {"b": labelled(20, 1, loss)})
    assert list(found) == ["development", "set aside"]
    for paired, texts in found.values():
        assert (list(paired), list(texts)) == (["advice (b)"], ["texts of b"])
        assert paired["advice (b)"][own.BOTH] == paired["advice (b)"]["ridge (default)"]  # of the one bank there is
        for figures in (paired["advice (b)"], texts["texts of b"]):
            assert figures["mine"]["auroc"] == figures[own.WORDS]["auroc"] == 1
            assert 0 < figures["ridge (default)"]["auroc"] < 1
            assert ("loss per token" in figures) == loss
            if loss:
                assert figures["loss per token"]["auroc"] == 1
                assert figures["loss per token, no question"]["auroc"] == 0
    assert len(asked) == 2 * 1 + 5 + 1
    text = "\n".join(own.markdown(found))
    assert [line.split(":")[0] for line in text.splitlines() if line.startswith("###")] == [
        "### Paired texts that no bank was made from", "### Topics a bank was not made from",
    ] * 2  # fmt: skip
    head = next(line for line in text.splitlines() if line.startswith("| | both banks"))
    assert head.split(" | ").index("mine") < head.split(" | ").index(own.WORDS)
    assert text.count(" 1.00 (1.00 to 1.00) |") >= 2 * 2 * 2


def test_the_paired_sets_are_of_their_own_and_have_no_shortcut_by_length():
    known_texts = {source.row.content_sha256 for name in BUILT_IN for source in own.contrast_sources(name, None)}
    files = sorted(own.PAIRED.glob("*.jsonl"))
    assert len(files) == 6
    for path in files:
        sources = list(own.pairs(path, None, by_topic=False))
        assert not known_texts & {source.row.content_sha256 for source in sources}
        words = np.array([len(source.row.response.split()) for source in sources])
        bad, good = words[::2], words[1::2]
        assert [source.bad for source in sources[:2]] == [True, False]
        assert len({source.group for source in sources}) == len(bad)
        assert abs(bad.mean() / good.mean() - 1) < 0.02
        assert 0.4 < ((bad > good) + (bad == good) / 2).mean() < 0.6


def test_the_contrast_texts_are_read_as_pairs_by_topic():
    few = list(own.contrast_sources("harmful-answers", 2))
    assert len(few) == 40 * 2 * 2 and sum(source.bad for source in few) == 80
    assert few[0].row.prompt and few[0].row.response and few[0].group == "health"
    assert all(source.row.format == "text" for source in own.contrast_sources("toxic-text", 1))


def test_a_set_without_labels_is_shown_beside_controls_of_wording():
    figure = {"auroc": 0.7, "interval": [0.6, 0.8]}
    bank = {"ridge": figure, "contrast": figure, "random banks": [0.4, 0.5, 0.6], "said": "unclear", own.WORDS: figure}
    controls = {"shorter is worse": {"auroc": 0.3}, "loss per token": {"auroc": 0.88}}
    (line,) = tables.unlabelled({"advice": {"unlabelled": {"controls": controls, "b": bank}}})[2:]
    assert line == "| advice | b | 0.70 (0.60 to 0.80) | 0.70 | 0.40 / 0.50 / 0.60 | 0.70 | 0.88 | - | 0.30 | unclear |"
