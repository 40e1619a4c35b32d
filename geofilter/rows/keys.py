"""Which keys of a record make which shape, in order of precedence; `shapes.parse_record` goes by it."""

from __future__ import annotations

from typing import NamedTuple

SHAPES = ("messages", "conversations", "completion", "alpaca", "preference", "text", "segments", "question")
"""names that `parse_record` gives; shards hold their positions"""

CHAT = ("messages", "conversations", "conversation", "contents")
"""keys of a list of messages"""
ANSWERS = ("completion", "response", "output", "answer")
CHOSEN = {"chosen": "rejected", "preferred_output": "non_preferred_output"}
"""key of the answer that is preferred -> key of the other one"""
SYSTEM = ("system", "system_prompt", "systemInstruction", "system_instruction")
TOOLS = ("tools", "functions")
INPUT = ("input", "context")
"""keys of what an instruction or question is about"""
QUESTIONS = ("question", "query", "input")


class ShapeRow(NamedTuple):
    """A line of the table of shapes."""

    name: str
    """one of `SHAPES`, as the docs call it"""
    keys: str
    scored: str


SHAPE_TABLE = (
    ShapeRow("preference", "`chosen` (or `preferred_output`), with a prompt of any shape below, or with its own",
             "the chosen side, from where it differs from the rejected one"),
    ShapeRow("chat", "`messages`, `conversations`, `conversation` or `contents`, ending in an assistant's turn, or "
             "without an answer beside it", "all assistant turns"),
    ShapeRow("history and answer", "one of these lists ending in a user's turn, and `completion`, `response`, `output` "
             "or `answer`", "the answer"),
    ShapeRow("completion", "`prompt` with `completion` or `response`", "the completion"),
    ShapeRow("Alpaca", "`instruction`, and `input` or `context` if any, with `output`; else with `response`, `answer` "
             "or `completion`", "the output"),
    ShapeRow("completion", "`prompt` with `output` or `answer`", "the answer"),
    ShapeRow("question", "`question`, `query` or `input` with `answer`, `response`, `output` or `completion`",
             "the answer"),
    ShapeRow("segments", "`segments`: text, label", "segments with label true"),
    ShapeRow("text", "`text`", "all of it"),
    ShapeRow("completion", "`completion`, `response`, `output` or `answer` alone", "all of it"),
)  # fmt: skip
"""in order of precedence, for the docs"""
PROMPTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("completion", "prompt", ("completion", "response")),
    ("alpaca", "instruction", ("output",)),
    ("alpaca", "instruction", ANSWERS),
    ("completion", "prompt", ANSWERS),
    *(("question", key, ANSWERS) for key in QUESTIONS),
)
"""shape, key of the prompt, keys of its answer; in order of precedence"""
KNOWN_KEYS = (
    "messages, conversations, prompt + completion|response, instruction + output, question + answer, chosen, segments, "
    "text"
)
