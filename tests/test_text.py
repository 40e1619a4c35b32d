"""Text that is shown: where it is cut, and what a misspelt word may have meant."""

import pytest

from geofilter.text import beginning, did_you_mean, markdown_cell, shorten


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
