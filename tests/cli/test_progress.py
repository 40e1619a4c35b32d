"""The bar of a scan: it goes by tokens, and says what is loading before there is a row."""

import io

from rich.console import Console
from rich.progress import Progress

from geofilter.cli.progress import LOADING, Bar


def shown(display: Progress) -> tuple[str, float | None, float, str]:
    (task,) = display.tasks
    return task.description, task.total, task.completed, task.fields["said"]


def test_a_bar_goes_by_tokens_once_it_knows_how_many_are_expected():
    display = Progress(console=Console(file=io.StringIO()))
    bar = Bar(display, "scanning")
    assert shown(display) == (LOADING, None, 0, "")
    bar.waiting("loading the model")
    assert shown(display)[0] == "loading the model"
    bar.started(40, 10)
    bar.waiting("too late")
    assert shown(display) == ("scanning", 40, 10, "")
    bar.expect(900)
    assert shown(display)[1:3] == (900, 0)
    bar.advance(3, 0)  # rows that cannot be scored
    bar.advance(5, 300)
    name, total, completed, said = shown(display)
    assert (name, total, completed) == ("scanning", 900, 300)
    assert said.startswith("18 of 40 rows, ")
    bar.expect(200)  # judged too low: not less than is done
    assert shown(display)[1:3] == (300, 300)


def test_without_tokens_a_bar_counts_rows():
    display = Progress(console=Console(file=io.StringIO()))
    bar = Bar(display, "judging")
    bar.started(4, 0)
    bar.advance(3)
    assert shown(display) == ("judging", 4, 3, "3 of 4 rows")
