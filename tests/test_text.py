"""Text that is shown: where it is cut, and what a misspelt word may have meant."""

import html
import json
import random
import re

import pytest
from helpers.hostile import NAME, live_markup, unprintable
from markdown_it import MarkdownIt

from geofilter.text import (
    beginning,
    did_you_mean,
    inert,
    inert_json,
    markdown_cell,
    markdown_row,
    markdown_text,
    shorten,
)


@pytest.mark.parametrize(
    ("text", "most", "found"),
    [
        ("one two three", 13, "one two three"),
        ("one two three", 12, "one two"),
        ("one two three", 8, "one two"),
        ("one two three", 7, "one two"),
        ("one two three", 6, "one tw"),  # no word ends in its second half
        ("x" * 30, 10, "x" * 10),
        ("one\ntwo three", 11, "one\ntwo"),
    ],
)
def test_a_text_is_cut_where_a_word_ends(text: str, most: int, found: str):
    assert beginning(text, most) == found
    assert len(shorten(text, most)) <= most


def test_a_cell_ends_with_a_word():
    words = "feature 12 (doctor) " * 40
    cell = markdown_cell(words)
    assert cell.endswith("…")
    assert cell[:-1].split()[-1] in words.split()


def test_the_nearest_known_word_is_named_whatever_its_case():
    known = ("toxic-text", "harmful-answers")
    assert did_you_mean("Toxik-Text", known) == "; did you mean toxic-text?"
    assert did_you_mean("nothing", known) == ""
    assert did_you_mean("x", ()) == ""


@pytest.mark.parametrize(
    "hostile",
    ["\x1b[31m", "\x9b31m", "\x07", "\r", "\n", "\x7f", "\u202e", "\u2069", "\u200b", "\u2060", "\ufeff", "\u2028",
     "\u3164", "\u2800", "\U000e0041", "\U000e0101", "\ud800", "\x85"],
    ids=ascii,
)  # fmt: skip
def test_inert_text_acts_on_nothing_and_hides_nothing(hostile: str):
    assert not unprintable(inert(f"a{hostile}b"))
    assert inert(f"a{hostile}b").startswith("a\N{REPLACEMENT CHARACTER}")
    shown = inert_json(json.dumps({hostile: hostile}, ensure_ascii=False))
    assert not unprintable(shown)
    assert json.loads(shown) == {hostile: hostile}


def test_what_does_no_harm_stays():
    text = "na\u00efve, 10\u202f000\u00a0rows, \u4f60\u597d, \U0001f600, e\u0301 [red]"
    assert inert(text) == text
    assert inert_json(json.dumps(text, ensure_ascii=False)) == json.dumps(text, ensure_ascii=False)


def foreign() -> list[str]:
    """Texts of what Markdown, HTML and GitHub act on, mixed at random."""
    pieces = [*"@#:/.`*_~[]()<>!&|\\$-+1a b\n", "http", "www.", "://", "@u", "#1", "&#8203;", "mailto:", ":+1:", "GH-"]
    chosen = random.Random(1)
    return [NAME, *NAME.split(), *("".join(chosen.choices(pieces, k=chosen.randint(1, 25))) for _ in range(3000))]


@pytest.mark.parametrize("page", ["x {} y", "- {}", "**x {} y**", "| {} |\n|---|\n| {} |"])
def test_a_text_in_markdown_is_no_more_than_text(page: str):
    for text in foreign():
        shown = page.replace("{}", markdown_text(text)) + "\n"
        assert live_markup(shown) == [], text
        plain = re.sub(r"<[^>]*>", "", MarkdownIt("commonmark").enable("table").render(shown))
        found = html.unescape(plain).replace("\u200b", "")
        assert inert(" ".join(text.split())) in " ".join(found.split()), text


def test_a_row_of_a_table_has_as_many_cells_as_it_was_given():
    for text in foreign():
        tokens = MarkdownIt("commonmark").enable("table").parse(f"| a | b |\n|---|---|\n{markdown_row([text, text])}\n")
        assert [t.type for t in tokens].count("td_open") == 2, text
