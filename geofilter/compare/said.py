"""A comparison as lines of text, as Markdown and as a page. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from geofilter.compare.document import Change, Comparison, Example, FeatureChange, Side
from geofilter.compare.figures import FIRED
from geofilter.pages import source_of, template
from geofilter.run.reasons import NO_WORDS
from geofilter.text import markdown_table, markdown_text, one_line, shorten

HEAD = ("what", "first", "second", "difference", "for instance")
TOPICS = 10
"""that are shown"""
LINE = 60
"""characters of an example in a table"""


def tables(found: Comparison) -> Iterator[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Title, head and cells of each part that has any; without the column of examples where there are none."""
    for title, rows in (
        ("Topics that rows are closest to", [_row(one) for one in found["topics"][:TOPICS]]),
        ("Groups of rows that differ clearly", [_row(one) for one in found["groups"]]),
        ("Features that differ clearly", [_feature(one) for one in found["features"]]),
    ):
        if rows:
            n = len(HEAD) if any(row[-1] for row in rows) else len(HEAD) - 1
            yield title, HEAD[:n], [row[:n] for row in rows]


def _row(one: Change) -> list[str]:
    low, high = one["interval"]
    return [
        one["name"],
        f"{one['before']:.1%}",
        f"{one['after']:.1%}",
        f"{100 * one['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})",
        _example(one["examples"]),
    ]


def _feature(one: FeatureChange) -> list[str]:
    low, high = one["strength_interval"]
    toxic = f" (toxic: {', '.join(one['toxic'])})" if one["toxic"] else ""
    return [
        f"{one['name'] or NO_WORDS}, feature {one['feature']}{toxic}",
        f"{one['before']:.1%}",
        f"{one['after']:.1%}",
        f"{one['strength']:+.2f} sd ({low:+.2f} to {high:+.2f})",
        _example(one["examples"]),
    ]


def _example(examples: list[Example]) -> str:
    """The first example, on one line; empty without any."""
    if not examples:
        return ""
    first = examples[0]
    return f"{Path(first['file']).name}:{first['line']} {one_line(shorten(first['text'], LINE))}"


def sides(found: Comparison) -> Iterator[str]:
    """What is compared."""
    for name, side in (("first", found["before"]), ("second", found["after"])):
        yield f"{name}: {_side(side, scored=found['flagged'] is not None)}"


def _side(side: Side, scored: bool) -> str:
    said = f"{', '.join(side['data'])}: {side['rows']:,} scored rows, {side['shared']:,} of which are in the other too"
    return f"{said}; mean score {side['score']:.2f}" if scored else said


def notes(found: Comparison) -> Iterator[str]:
    """What must be known to read the tables."""
    yield (
        "First, second: share of the rows; of a feature, of those in which it fires. Differences of features are of "
        "mean log activations, in standard deviations over rows. Intervals of a table hold together, 95 %."
    )
    if n := found["common_clear"]:
        yield f"{n:,} features of tone and punctuation differ clearly too and are not listed."
    if (more := found["features_clear"] - len(found["features"])) > 0:
        yield f"{more:,} more features differ clearly."
    if (more := found["groups_clear"] - len(found["groups"])) > 0:
        yield f"{more:,} more groups of rows differ clearly."
    yield f"Features that fire in too few rows of either (fewer than {FIRED} expected in the smaller) are not judged."
    yield from found["notes"]


def markdown(found: Comparison) -> str:
    """The comparison as Markdown; row text is put where it cannot act as markup."""
    lines = ["# geofilter compare\n", f"**{markdown_text(found['sentence'])}**\n"]
    lines += [f"- {markdown_text(text)}" for text in sides(found)]
    for title, head, rows in tables(found):
        lines += [f"\n## {title}\n", *markdown_table(head, rows)]
    lines += ["", *(f"- {markdown_text(text)}" for text in notes(found))]
    return "\n".join(lines) + "\n"


def html(found: Comparison) -> str:
    """The comparison as one page that loads nothing: the content security policy allows its own style alone."""
    style = files("geofilter.compare").joinpath("templates", "compare.css").read_text("utf-8")
    return template("geofilter.compare", "compare.html.j2").render(
        c=found,
        sides=list(sides(found)),
        tables=list(tables(found)),
        notes=list(notes(found)),
        style=Markup(style),
        policy=f"default-src 'none'; style-src {source_of(style)}; base-uri 'none'; form-action 'none'",
    )
