"""The bars of a scan and of a training: they go by tokens, and say what is loading before there is any."""

import io

from rich.console import Console
from rich.progress import Progress

from geofilter.cli.progress import LOADING, Bar, TrainingBar
from geofilter.dictionary.course import Standing


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


def test_a_training_shows_how_well_tokens_are_explained_and_says_so_in_lines_where_there_is_no_terminal():
    display, lines = Progress(console=Console(file=io.StringIO())), []
    bar = TrainingBar(display, lines.append)
    assert shown(display) == (LOADING, None, 0, "")
    bar(Standing("reading rows", 7, 0))
    assert shown(display)[:3] == ("reading rows", None, 7)
    bar(Standing("running the model", 10, 500))
    assert shown(display)[:3] == ("running the model", 500, 10)
    bar(Standing("training", 100, 2000))
    bar(Standing("training", 400, 2000, {"explained_variance": 0.5, "l0": 32.0, "dead": 1200.0}))
    name, total, completed, said = shown(display)
    assert (name, total, completed) == ("training", 2000, 400)
    assert said.startswith("400 of 2,000 tokens, ")
    assert said.endswith("explained 0.500, L0 32.0, dead 1,200")
    assert lines == ["reading rows: 7 tokens"]  # the next one after half a minute
