"""The piece of a response that is shown: short, inert, around its strongest words, which are marked."""

from hypothesis import given
from hypothesis import strategies as st

from geofilter.report.excerpt import excerpt, strong_places
from geofilter.report.excerpt import marked as whole

LONG = "It starts slowly and says little. " * 6 + "Then mix the bleach\nwith ammonia in a closet, and " + "wait. " * 60


def span(text: str, word: str, share: float) -> list[float]:
    start = text.index(word)
    return [start, start + len(word), share]


def marked(pieces) -> list[str]:
    return [text for text, strong in pieces if strong]


def test_it_stands_where_the_strongest_words_are_and_marks_them_whole():
    spans = [span(LONG, "slowly", 0.5), span(LONG, " ble", 1.0), span(LONG, "amm", 0.9), span(LONG, "closet", 0.1)]
    pieces = excerpt(LONG, spans, 70)
    assert marked(pieces) == ["bleach", "ammonia"]
    text = "".join(text for text, _ in pieces)
    assert "mix the bleach with ammonia in a" in text
    assert text.startswith("…")
    assert text.endswith("…")
    assert len(text) <= 70


def test_function_words_and_punctuation_are_marked_in_the_whole_text_only():
    text = "As to the ammonia, you don't: mix"
    spans = [span(text, word, 1.0) for word in ("to", "the", "amm", ",", "don", "mix")]
    assert marked(excerpt(text, spans, 80)) == ["ammonia", "mix"]
    assert marked(whole(text, spans)) == ["to the ammonia,", "don't", "mix"]


def test_without_marks_it_is_the_beginning():
    for spans in ([], [span(LONG, "bleach", -1.0)]):
        (text, strong), (end, _) = excerpt(LONG, spans, 40)
        assert LONG.startswith(text)
        assert (strong, end) == (False, "…")
    assert excerpt("short", [], 40) == [("short", False)]


def test_tokens_that_touch_are_one_word_and_white_space_is_not_marked():
    text = "a prefix of un-believ-able things"
    spans = [[12, 15, 1.0], [15, 21, 0.8], [21, 26, 0.9]]
    assert [text[a:b] for a, b, _ in strong_places(text, spans)] == ["un-believ-able"]
    assert [text[a:b] for a, b, _ in strong_places(text, [[1, 8, 1.0], [8, 9, 1.0]])] == ["prefix"]


@given(
    st.text(st.sampled_from("ab'é界 \n\t.\u202e\x1b"), max_size=200),
    st.lists(st.tuples(st.integers(1, 9), st.floats(-2, 2)), max_size=60),
    st.integers(10, 90),
)
def test_it_is_never_longer_than_it_may_be_and_says_only_what_is_there(text: str, tokens, width: int):
    spans, at = [], 0
    for size, share in tokens:
        spans.append([at, at + size, share])
        at += size
    pieces = excerpt(text, spans, width)
    whole = "".join(piece for piece, _ in pieces)
    assert len(whole) <= width
    assert not set(whole) & set("\n\t\u202e\x1b")
    plain = "".join(" " if c.isspace() else c for c in text).replace("\u202e", "\ufffd").replace("\x1b", "\ufffd")
    assert whole.removeprefix("…").removesuffix("…") in plain
