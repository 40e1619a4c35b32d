"""Text beside what is scored: copies and labels are passed over, what may be the answer or the thinking is not."""

import json

import pytest
from helpers.command import chat

from geofilter.rows.pairs import rejected_side
from geofilter.rows.reading import AS_THEY_ARE, Reading
from geofilter.rows.records import Row, Unusable, parse_line

ASKED, ANSWER = "How many legs do nine cats have?", "Nine cats have thirty-six legs in all."
THINKING, OTHER = "I think of nine cats, and of four legs.", "None at all, I should say to that."
USER, ASSISTANT = {"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWER}
PLAIN = {"prompt": ASKED, "response": ANSWER}
READ = {
    "a rendered copy": {
        "instruction": "Which is the odd one?", "input": "a cat, a fish", "output": ANSWER,
        "text": f"### Do:\nWhich is the odd one?\n\n### Input:\na cat, a fish\n\n### Response:\n{ANSWER}",
    },
    "the same as messages": {"prompt": [USER], "completion": [ASSISTANT], "messages": [USER, ASSISTANT]},
    "the end of a turn": {**chat(ASKED, ANSWER), "response": f"{ANSWER}<|im_end|>"},
    "with thinking": {**chat(ASKED, ANSWER), "response": f"<think>{THINKING}</think>{ANSWER}"},
    "an endpoint's answer": {**chat(ASKED, ANSWER), "response": {"choices": [{"message": ASSISTANT}], "id": "x"}},
    "what a judge thought": {**PLAIN, "judge_reasoning": "The answer is right, and says how many."},
    "what the answer was chosen from": {**PLAIN, "generations": [OTHER, ANSWER]},
    "the same by model": {**PLAIN, "responses": [{"model": "a", "text": OTHER}, {"model": "b", "text": ANSWER}]},
    "the same by name": {**PLAIN, "completions": {"a": ANSWER, "b": OTHER}},
    "the same as json": {**PLAIN, "candidates": json.dumps([ANSWER, OTHER])},
    "as it was generated": {**PLAIN, "generation": f"<think>{THINKING}</think>{ANSWER}"},
    "a schema that was shown": {
        "prompt": 'Fill {"type": "object", "title": "Legs of a cat"}', "response": ANSWER,
        "schema": {"type": "object", "title": "Legs of a cat"},
    },
    "a kind of answer": {"problem": ASKED, "solution": ANSWER, "answer": "proof"},
    "a short answer": {"question": ASKED, "solution": ANSWER, "answer": "36"},
    "a piece of the answer": {"input": ASKED, "output": ANSWER, "solution": "thirty-six"},
    "numbers": {**PLAIN, "context": [1, 2, 3], "options": {"temperature": 0.1}, "a": 0.3, "b": 0.7},
    "flags": {**PLAIN, "choice_1": True, "choice_2": False, "reasoning": "off"},
    "a judge's reason": {**PLAIN, "rejected": OTHER, "rationale": "The first one says how many there are."},
    "a preference's short answer": {"prompt": ASKED, "chosen": ANSWER, "rejected": OTHER, "answer": "\\boxed{36}"},
    "a preference's reference": {"problem": ASKED, "chosen": ANSWER, "rejected": OTHER, "solution": THINKING},
}  # fmt: skip
"""rows of which the answer is scored"""
SET_ASIDE = {
    "thinking_trajectories": {"question": ASKED, "solution": ANSWER, "thinking_trajectories": [THINKING]},
    "attempt": {"question": ASKED, "solution": ANSWER, "attempt": OTHER},
    "generations": {"problem": ASKED, "solution": ANSWER, "answer": "36", "generations": [THINKING, OTHER]},
    "r1_reasoning": {**PLAIN, "r1_reasoning": THINKING},
    "option_b": {"question": ASKED, "option_a": "36 legs", "option_b": "none", "answer": "36 legs"},
    "contexts": {"question": ASKED, "contexts": ["A cat has four legs, as most have."], "answer": ANSWER},
    "output": {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWER}], "output": OTHER},
    "thinking": {"prompt": [USER], "thinking": THINKING, "completion": [ASSISTANT, USER]},
}
"""rows that are set aside, by the key that it is for"""


def read(record: dict, reading: Reading = AS_THEY_ARE) -> Row | Unusable:
    row = parse_line(json.dumps(record).encode(), "d.jsonl", 1, reading)
    assert row is not None
    return row


def scored(record: dict, *, thinking: bool = False) -> list[str]:
    row = read(record, Reading(thinking=thinking))
    assert isinstance(row, Row), row.error
    return [turn.text(span) for turn in row.turns for span in turn.scored]


@pytest.mark.parametrize("name", READ)
def test_copies_labels_and_a_judges_words_are_passed_over(name: str):
    assert scored(READ[name]) == [ANSWER]


@pytest.mark.parametrize("key", SET_ASIDE)
def test_what_may_be_the_answer_sets_its_row_aside(key: str):
    row = read(SET_ASIDE[key])
    assert isinstance(row, Unusable) and f"`{key}`" in row.error and "--fields" in row.error


def test_other_long_text_is_told_of():
    assert "unread" in read({**PLAIN, "note": f"{OTHER} " * 8}).remarks
    assert "unread" in read({**PLAIN, "mended": [USER, {**ASSISTANT, "content": f"{OTHER} " * 8}]}).remarks
    assert "unread" not in read({**PLAIN, "note": OTHER, "copy": f"Q: {ASKED} " + " " * 200 + ANSWER}).remarks


def test_thinking_is_scored_once_wherever_it_stands():
    channels = [USER, {**ASSISTANT, "content": "One.", "channel": "analysis"},
                {**ASSISTANT, "content": "Two.", "channel": "analysis"}, {**ASSISTANT, "channel": "final"}]  # fmt: skip
    for record, thought in [
        ({**PLAIN, "thinking": THINKING}, THINKING),
        ({"messages": [USER], "reasoning": THINKING, "answer": ANSWER}, THINKING),
        ({"messages": [USER, {**ASSISTANT, "reasoning": THINKING, "reasoning_content": THINKING}]}, THINKING),
        (chat(ASKED, f"<THINK>{THINKING}</THINK>{ANSWER}"), THINKING),
        ({"messages": channels}, "One.\nTwo."),
    ]:
        assert scored(record) == [ANSWER]
        assert scored(record, thinking=True) == [thought, ANSWER]


def test_a_message_to_a_tool_is_a_call_on_whatever_channel():
    messages = [USER, {**ASSISTANT, "content": THINKING, "channel": "analysis"},
                {**ASSISTANT, "content": "print(9)", "channel": "analysis", "recipient": "python"},
                {"role": "tool", "content": "9"}, {**ASSISTANT, "channel": "final"}]  # fmt: skip
    assert scored({"messages": messages}, thinking=True) == [THINKING, ANSWER]


def test_a_recipient_on_another_channel_is_a_reader():
    said = {**ASSISTANT, "channel": "email", "recipient": "Bob"}
    assert scored({"messages": [USER, said]}) == [ANSWER]


def test_channels_of_other_weights_stay_apart():
    messages = [USER, {**ASSISTANT, "content": THINKING, "channel": "analysis", "weight": 0},
                {**ASSISTANT, "channel": "final", "weight": 1}]  # fmt: skip
    assert scored({"messages": messages}, thinking=True) == [ANSWER]


@pytest.mark.parametrize(
    "text", ["<|channel|>final<|message|>a<|end|><|start|>user<|message|>b<|end|>", "<|channel|>final<|message|>",
             "said <|channel|>final<|message|>a", "<|channel|>analysis<|message|>a<|end|>"],
)  # fmt: skip
def test_channels_in_another_order_set_their_row_aside(text: str):
    row = read({"prompt": ASKED, "completion": text})
    assert isinstance(row, Unusable) and "`<|channel|>`" in row.error


def test_channels_of_a_text_with_many_blanks_are_read():
    text = f"a{' ' * 100_000}b"  # would not end if the time grew with their cube
    assert scored({"prompt": ASKED, "completion": f"<|channel|>final<|message|>{text}"}) == [text]


def test_a_flag_is_no_second_answer():
    turns = [USER, ASSISTANT, USER, {**ASSISTANT, "content": "36."}]
    assert scored({"messages": turns, "rejected": False}) == [ANSWER, "36."]
    other = rejected_side(read({**PLAIN, "rejected": OTHER}), AS_THEY_ARE)
    assert other.response == OTHER


def test_names_of_fields_count_in_any_case_those_of_the_loss_too():
    turns = [{"Role": "user", "Content": ASKED}, {"Role": "assistant", "Content": OTHER, "Weight": 0},
             {"Role": "user", "Content": ASKED}, {"Role": "assistant", "Content": ANSWER, "Weight": 1}]  # fmt: skip
    assert scored({"messages": turns}) == [ANSWER]


def test_passages_and_texts_with_names_are_no_turns():
    for record in (
        {"question": ASKED, "contents": ["A passage of several words.", "And another one."], "answer": ANSWER},
        {"conversations": [f"Human: {ASKED}", f"Assistant: {ANSWER}"]},
    ):
        assert isinstance(read(record), Unusable)


def test_the_system_text_beside_messages_in_an_object_is_context():
    row = read({"conversation": {"system": "Be brief.", "messages": [USER, ASSISTANT]}})
    assert [turn.role for turn in row.turns] == ["system", "user", "assistant"]
