"""Rows of preferences with their answers exchanged, in every shape that has two."""

import json
from pathlib import Path

import pytest
from helpers.cases import CASES, FILES, NAMES, expected
from helpers.command import chat

from geofilter.rows.lines import read_lines
from geofilter.rows.pairs import exchanged, is_pair, rejected_side
from geofilter.rows.reading import AS_THEY_ARE, Reading
from geofilter.rows.records import Row, parse_line
from geofilter.rows.row_error import RowError

ASKED = {"role": "user", "content": "how?"}
GOOD, BAD = {"role": "assistant", "content": "so"}, {"role": "assistant", "content": "not so"}
SHARE_GPT = [{"from": "human", "value": "how?"}, {"from": "gpt", "value": "so"}]
PAIRS = {
    "texts": {"prompt": "how?", "chosen": "so", "rejected": "not so"},
    "names in capitals": {"Prompt": "how?", "Chosen": "so", "Rejected": "not so"},
    "other names": {"question": "how?", "chosen_response": "so", "rejected_response": "not so"},
    "whole conversations": {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "answers as messages": {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
    "one message each": {"prompt": "how?", "chosen": GOOD, "rejected": BAD},
    "objects of messages": {"chosen": {"messages": [ASKED, GOOD]}, "rejected": {"messages": [ASKED, BAD]}},
    "openai": {"input": {"messages": [ASKED]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
    "transcripts": {"chosen": "\n\nHuman: how?\n\nAssistant: so", "rejected": "\n\nHuman: how?\n\nAssistant: not so"},
    "a copy of the chosen one": {
        "prompt": "how?",
        "chosen": [ASKED, GOOD],
        "rejected": [ASKED, BAD],
        "messages": [ASKED, GOOD],
    },
    "a copy of the rejected one": {"prompt": "how?", "chosen": "so", "rejected": "not so", "response": "not so"},
    "chat and a text": {**chat("how?", "so"), "rejected": "not so"},
    "chat and a message": {**chat("how?", "so"), "rejected": BAD},
    "chat and messages": {**chat("how?", "so"), "rejected_messages": [BAD]},
    "chat and a whole conversation": {**chat("how?", "so"), "rejected_messages": [ASKED, BAD]},
    "chat and json": {**chat("how?", "so"), "rejected": json.dumps([ASKED, BAD])},
    "json and a text": {"messages": json.dumps(chat("how?", "so")["messages"]), "rejected": "not so"},
    "sharegpt": {"conversations": SHARE_GPT, "rejected_response": "not so"},
    "a tag too": {**chat("how?", "so"), "rejected": "not so", "kto_tag": True},
}


def row_of(record: dict) -> Row:
    row = parse_line(json.dumps(record).encode(), "d.jsonl", 1)
    assert isinstance(row, Row), row.error
    return row


@pytest.mark.parametrize("name", PAIRS)
def test_the_rejected_answer_is_read_as_the_chosen_one_is(name: str):
    row = row_of(PAIRS[name])
    other = rejected_side(row, AS_THEY_ARE)
    assert (row.response, other.response) == ("so", "not so")
    assert row.prompt == other.prompt == "how?"
    assert exchanged(other.record) == row.record and list(other.record) == list(row.record)
    assert (other.file, other.line, other.sha256) == (row.file, row.line, row.sha256)


def test_a_copy_of_an_answer_goes_with_it():
    assert exchanged(PAIRS["a copy of the chosen one"])["messages"] == [ASKED, BAD]
    assert exchanged(PAIRS["a copy of the rejected one"])["response"] == "so"


def test_what_texts_have_in_common_is_context_of_both():
    row = row_of({"chosen": "The cat sat on the mat", "rejected": "The cat sat on the log"})
    other = rejected_side(row, AS_THEY_ARE)
    assert [turn.content for turn in other.turns] == ["The cat sat on the", " log"]
    assert [turn.trained for turn in other.turns] == [turn.trained for turn in row.turns] == [False, True]


def test_an_answer_that_begins_as_the_other_one_is_scored_where_it_ends():
    longer = [ASKED, GOOD, ASKED, BAD]
    row = row_of({"chosen": longer, "rejected": longer[:2]})
    assert (row.response, rejected_side(row, AS_THEY_ARE).response) == ("not so", "so")
    row = row_of({"chosen": longer[:2], "rejected": longer})
    assert (row.response, rejected_side(row, AS_THEY_ARE).response) == ("so", "not so")


def test_what_is_said_of_the_sides_goes_with_them():
    of = {
        "chosen-rating": 5,
        "rejected-rating": 1,
        "score_chosen": 2.5,
        "score_rejected": 1.5,
        "chosen_model": "a",
        "margin": 4,
    }
    found = exchanged({**PAIRS["texts"], **of})
    assert {key: found[key] for key in of} == {
        "chosen-rating": 1, "rejected-rating": 5, "score_chosen": 1.5, "score_rejected": 2.5, "chosen_model": "a",
        "margin": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"prompt": "how?", "chosen": "so"}, "no second answer"),
        ({"prompt": "how?", "chosen": "so", "rejected": ""}, "no second answer"),
        ({**chat("how?", "so"), "kto_tag": True}, "no second answer"),
        ({"prompt": "how?", "chosen": "so", "rejected": ["a", "b"]}, "holds 2 texts"),
        ({"prompt": "how?", "chosen": "so", "rejected": 7}, "must be text"),
        ({**chat("how?", "so"), "rejected": [["how?", "not so"]]}, "in no form"),
        ({"messages": [ASKED, {**GOOD, "reasoning": "hm"}], "rejected": "not so"}, "more than text"),
        ({"messages": [ASKED, GOOD, GOOD], "rejected": "not so"}, "more than text"),
        ({"conversations": [["how?", "so"]], "rejected": "not so"}, "no list of messages with roles"),
    ],
)
def test_a_row_without_another_answer_is_told_of(record: dict, why: str):
    row = row_of(record)
    assert is_pair(row)
    with pytest.raises(RowError, match=why):
        rejected_side(row, AS_THEY_ARE)


@pytest.mark.parametrize("path", [*(CASES / f"{n}.jsonl" for n in NAMES if n != "files"), *FILES], ids=lambda p: p.name)
def test_rows_of_every_shape_exchanged_twice_are_themselves(path: Path):
    about = expected("files" if path in FILES else path.stem)
    only = tuple((column, value) for column, value in about.get("only", ()))
    reading = Reading(train=about.get("train", "all"), thinking=about.get("thinking", False), only=only)
    rows = [parse_line(line, path.name, n, reading) for n, line in enumerate(read_lines(path), start=1)]
    for row in (row for row in rows if isinstance(row, Row) and is_pair(row)):
        try:
            other = rejected_side(row, reading)
        except RowError:
            continue
        assert exchanged(other.record) == row.record
        assert other.response != row.response
