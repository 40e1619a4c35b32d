"""Words of texts, which of them say something, and the names that features get from them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.tiny import D_SAE

from geofilter.bank.naming import Named, first_known
from geofilter.bank.words import enclosing, folded, says_something, standing_out, words_in
from geofilter.build.words import WordCollector

CONTENT = ["bleach", "strcpy", "user_input", "SQL", "x86", "o'clock", "éclair", "हिन्दी", "毒", "ยา", "слово", "child's"]
EMPTY = ["the", "You", "can't", "can’t", "she'll", "they’re", "it's", "s", "a", "Z", "12", "_", "__", "3.5", ""]


@pytest.mark.parametrize("word", CONTENT)
def test_content_says_something(word: str):
    assert says_something(word)


@pytest.mark.parametrize("word", EMPTY)
def test_function_words_numbers_and_letters_say_nothing(word: str):
    assert not says_something(word)


def test_a_possessive_is_the_same_word():
    assert folded("Company\u2019s") == folded("company's") == "company"
    assert folded("IS") == "is"


def test_the_word_that_encloses_a_token():
    text = "Don't mix Bleach—ever! user_input=हिन्दी"
    at = {"Bl": "Bleach", "each": "Bleach", "ix": "mix", "'t": "Don't", "!": "", "—": "", "put": "user_input"}
    at["न्"] = "हिन्दी"
    spans = np.array([[text.index(part), text.index(part) + len(part)] for part in at])
    assert enclosing(text, spans) == list(at.values())
    # A token with the space before it, and one over two words.
    start = text.index(" mix")
    assert enclosing(text, np.array([[start, start + 4], [0, len(text)]])) == ["mix", "Don't"]
    assert enclosing("", np.array([[0, 0]])) == [""]
    assert enclosing(text, np.array([[len(text), len(text)]])) == [""]


def test_what_is_written_without_spaces_is_taken_token_by_token():
    text = "把漂白剂和氨水混合 mix"
    assert enclosing(text, np.array([[1, 4], [0, 1], [10, 13]])) == ["漂白剂", "把", "mix"]
    assert list(words_in("氨水 mix")) == ["氨", "水", "氨水", "mix"]


def test_what_stands_out_is_more_than_it_is_usually():
    usual = {"the": 500.0, "mix": 10.0, "bleach": 2.0, "day": 100.0}
    weight = {"the": 10.0, "bleach": 3.0, "mix": 1.0, "day": 0.5, "unseen": 0.5}
    assert standing_out(weight, usual) == ["bleach", "unseen", "mix"]
    assert standing_out({}, usual) == standing_out(weight, {}) == []


def collected(texts: list[str], fires: dict[int, list[str]]) -> WordCollector:
    """A collector that has read texts, a token a word, with features that fire on words."""
    collector = WordCollector(4)
    spans, words = [], []
    for text in texts:
        starts = [0, *(i + 1 for i, c in enumerate(text) if c == " ")]
        ends = [*(i for i, c in enumerate(text) if c == " "), len(text)]
        spans.append(np.array([*zip(starts, ends, strict=True)]))
        words += text.split(" ")
    rows = [SimpleNamespace(response=text) for text in texts]
    collector.start(rows, [SimpleNamespace(spans=of) for of in spans])
    on = [(token, feature) for feature, some in fires.items() for token, word in enumerate(words) if word in some]
    tokens, features = np.array(on).T
    collector.observe(tokens, features, np.ones(len(on), np.float32))
    return collector


def test_a_feature_is_named_by_its_words():
    texts = ["mix the bleach , and Ammonia", "the ammonia , the bleach", "the weather is fine , and mix"]
    fires = {0: ["bleach", "Ammonia", "ammonia", "mix", ","], 1: [",", "the"], 2: ["weather"]}
    found = collected(texts, fires)
    named = found.named()
    # The one seen first of those that stand out alike; commas are no word; a word that is there once names none.
    assert named.labels == ["mix · bleach · Ammonia", "", "", ""]
    assert named.content.tolist() == pytest.approx([6 / 9, 0, 1, 1])
    assert found.fired().tolist() == [9, 7, 1, 0]


def test_a_collector_goes_on_after_another_one():
    before = collected(["the bleach"], {0: ["bleach"]})
    after = before.after()
    after.start([SimpleNamespace(response="Bleach")], [SimpleNamespace(spans=np.array([[0, 6]]))])
    after.observe(np.array([0]), np.array([0]), np.ones(1, np.float32))
    assert (before.fired()[0], after.fired()[0]) == (1, 2)
    assert (before.named().labels[0], after.named().labels[0]) == ("", "Bleach")


def test_of_several_banks_the_one_that_has_seen_a_feature_says_its_name(bank):
    def known(labels: list[str], content: list[float], rate: float = 0.01):
        fill = D_SAE - len(labels)
        return replace(bank, labels=labels + [""] * fill, content=np.array(content + [1.0] * fill, np.float32),
                       rate=np.full(D_SAE, rate, np.float32))  # fmt: skip

    small, large = known(["a", "b"], [0.5, 0.6]), known(["", "c", "d", ""], [1.0, 0.7, 0.8, 0.1])
    earlier = known(["tok", "en"], [1.0] * 2, rate=0.0)
    own = Named(["x"] * D_SAE, np.full(D_SAE, 0.3, np.float32))
    found = first_known([earlier, small, large], own)
    assert found.labels[:5] == ["a", "c", "d", "", "x"]
    np.testing.assert_allclose(found.content[:5], [0.5, 0.7, 0.8, 0.1, 0.3])
    assert first_known([small, large]).labels[:5] == ["a", "c", "d", "", ""]
    assert first_known([earlier]).labels[:2] == ["tok", "en"]
    assert first_known([], own).labels == ["x"] * D_SAE
