"""Rows of preferences with their answers exchanged, in every shape that has two."""

import json

import pytest
from helpers.cases import CASES, FILES, NAMES, expected
from helpers.command import chat

from geofilter.rows.lines import read_lines
from geofilter.rows.pairs import exchanged, is_preference, rejected_side, rejected_text
from geofilter.rows.reading import AS_THEY_ARE, Reading
from geofilter.rows.records import Row, parse_line
from geofilter.rows.row_error import RowError

SYSTEM = {"role": "system", "content": "be so"}
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
    "answers under keys of their own": {"query": "how?", "response": "so", "rejected_response": "not so"},
    "an instruction": {"instruction": "how?", "output": "so", "rejected": "not so"},
    "a trajectory": {"trajectory": [ASKED], "chosen": "so", "rejected": "not so"},
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


@pytest.mark.parametrize(
    ("record", "turns"),
    [
        ({"messages": [ASKED, GOOD, ASKED, GOOD], "rejected_messages": [ASKED, BAD, ASKED, BAD]}, 4),
        ({"messages": [SYSTEM, ASKED, GOOD], "rejected_messages": [ASKED, BAD]}, 2),
        ({"messages": [ASKED, GOOD], "rejected": json.dumps([SYSTEM, ASKED, BAD])}, 3),
    ],
)
def test_two_whole_conversations_change_places_whatever_they_share(record: dict, turns: int):
    row = row_of(record)
    other = rejected_side(row, AS_THEY_ARE)
    assert (row.response, other.response, len(other.turns)) == ("so", "not so", turns)
    assert exchanged(other.record) == record


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ({"messages": [ASKED, GOOD], "chosen": [GOOD], "rejected": [BAD]}, [ASKED, BAD]),
        ({"messages": [ASKED, GOOD], "chosen": GOOD, "rejected": BAD}, [ASKED, BAD]),
        ({"messages": [ASKED, {**GOOD, "name": "x"}], "rejected": "not so"}, [ASKED, {**BAD, "name": "x"}]),
        (
            {"messages": [ASKED, {"role": "assistant", "content": [{"type": "text", "text": "so"}]}], "rejected": BAD},
            [ASKED, {"role": "assistant", "content": [{"type": "text", "text": "not so"}]}],
        ),
    ],
)
def test_messages_that_end_in_the_answer_end_in_the_other_one(record: dict, wanted: list):
    found = exchanged(record)
    assert found["messages"] == wanted and exchanged(found) == record
    assert rejected_side(row_of(record), AS_THEY_ARE).response == "not so"


def test_a_message_keeps_what_it_calls_its_role_and_its_text():
    found = exchanged({"conversations": SHARE_GPT, "rejected": BAD})
    assert found == {
        "conversations": [SHARE_GPT[0], {"from": "gpt", "value": "not so"}], "rejected": {**BAD, "content": "so"}
    }  # fmt: skip


@pytest.mark.parametrize("name", ["texts", "names in capitals", "openai", "chat and a text", "chat and messages"])
def test_what_is_said_of_the_sides_goes_with_them(name: str):
    of = {
        "chosen-rating": 5, "rejected-rating": 1, "Score_Chosen": None, "score_rejected": 1.5, "chosen_model": "a",
        "preferred_by": "x", "non_preferred_by": "y", "margin": 4,
    }  # fmt: skip
    found = exchanged({**PAIRS[name], **of})
    assert {key: found[key] for key in of} == {
        "chosen-rating": 1, "rejected-rating": 5, "Score_Chosen": 1.5, "score_rejected": None, "chosen_model": "a",
        "preferred_by": "y", "non_preferred_by": "x", "margin": 4,
    }  # fmt: skip
    assert list(found) == [*PAIRS[name], *of] and exchanged(found) == {**PAIRS[name], **of}


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"prompt": "how?", "chosen": "so"}, "no second answer"),
        ({"prompt": "how?", "chosen": "so", "rejected": ""}, "no second answer"),
        ({**chat("how?", "so"), "kto_tag": True}, "no second answer"),
        ({"prompt": "how?", "chosen": "so", "rejected": ["a", "b"]}, "holds 2 texts"),
        ({"prompt": "how?", "chosen": "so", "rejected": 7}, "must be text"),
        ({**chat("how?", "so"), "rejected": [["how?", "not so"]]}, "in no form"),
        ({"messages": [ASKED, {**GOOD, "reasoning": "hm"}], "rejected": "not so"}, "more than `rejected` can hold"),
        ({"messages": [ASKED, GOOD, GOOD], "rejected": "not so"}, "more than `rejected` can hold"),
        ({"messages": [GOOD], "rejected_messages": [ASKED, BAD]}, "only one is a whole conversation"),
        ({"chosen": [ASKED, GOOD], "rejected": "not so"}, "only one of its answers comes with the prompt"),
        ({"chosen": "\n\nHuman: how?\n\nAssistant: so", "rejected": "not so"}, "only one of its answers comes with"),
        ({"chosen": [ASKED, GOOD], "rejected": [ASKED, GOOD, ASKED, BAD]}, "beginning of the other"),
        ({"chosen": [ASKED, GOOD, ASKED, BAD], "rejected": [ASKED, GOOD]}, "beginning of the other"),
        ({"conversations": [["how?", "so"]], "rejected": "not so"}, "no list of messages with roles"),
    ],
)
def test_a_row_without_another_answer_is_told_of(record: dict, why: str):
    row = row_of(record)
    assert is_preference(row)
    with pytest.raises(RowError, match=why):
        rejected_side(row, AS_THEY_ARE)


def test_rows_of_every_shape_exchanged_twice_are_themselves():
    exercised = 0
    for path in [*(CASES / f"{name}.jsonl" for name in NAMES if name != "files"), *FILES]:
        about = expected("files" if path in FILES else path.stem)
        reading = Reading(train=about.get("train", "all"), thinking=about.get("thinking", False))
        for number, line in enumerate(read_lines(path), start=1):
            row = parse_line(line, path.name, number, reading)
            if not isinstance(row, Row) or rejected_text(row, reading) is None:
                continue
            other = rejected_side(row, reading)
            assert exchanged(other.record) == row.record
            assert other.response != row.response
            exercised += 1
    assert exercised >= 5
