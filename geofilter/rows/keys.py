"""Which keys of a record make which shape, in order of precedence; `shapes.parse_record` goes by it."""

from __future__ import annotations

from typing import NamedTuple

SHAPES = ("messages", "conversations", "completion", "alpaca", "preference", "text", "segments", "question")
"""names that `parse_record` gives; shards hold their positions"""

CHAT = ("messages", "conversations", "conversation", "contents", "trajectory")
"""keys of a list of messages"""
ANSWERS = ("completion", "response", "output", "answer", "solution", "target", "targets", "output_text")
WHOLE_ANSWERS = ANSWERS[:3]
"""those of them that hold no mere short form of an answer"""
HISTORY_ANSWERS = ANSWERS[:4]
"""keys of the answer to a list of messages that ends in a user's turn"""
CHOSEN = {"chosen": "rejected", "preferred_output": "non_preferred_output", "chosen_response": "rejected_response"}
"""key of the answer that is preferred -> key of the other one"""
OTHER_ANSWERS = ("rejected", "rejected_response", "rejected_messages")
"""keys of a second, worse answer"""
KTO = "kto_tag"
"""key that makes a list of messages one of preferences too: a loss falls on its last answer"""
SYSTEM = ("system", "system_prompt", "system_message", "systemInstruction", "system_instruction")
TOOLS = ("tools", "functions")
INPUT = ("input", "context")
"""keys of what an instruction or question is about"""
QUESTIONS = ("question", "query", "problem", "input", "inputs", "input_text", "text_input")
THINKING = ("reasoning_content", "thinking", "thinking_content", "thoughts", "thought", "think", "reasoning_trace")
"""keys of the thinking that comes before an answer"""
MAY_BE_FLAGS = ("rationale", "reasoning", "reflection", "cot", "complex_cot")
"""keys of such thinking, or of what is trained with the answer, or of a word that says what kind of row it is"""
BESIDE_TEXT = ("headline", "headlines", "highlights", "abstract", "tldr", "translation", "corrected_text", "paraphrase",
               "simplified", "rewritten_text", "rewrite")  # fmt: skip
"""keys of what a model may be trained to make of a text"""
JUDGED = ("rationale", "critiques", *ANSWERS[3:])
"""keys of what a judge has written of two answers, and of the reference that they were held against"""
MAY_BE_READ = ("prompt", "instruction", *QUESTIONS, *ANSWERS, *INPUT, "text", "article", "passage", "document",
               "documents", "choices", "options", *MAY_BE_FLAGS, *THINKING, "corrected", "critiques", "revision",
               "initial_reason_steps", "context_messages", "definition", "summary")  # fmt: skip
"""keys of a part of the prompt or the answer in some data sets: a row that has one of them unread is set aside"""

KEYS = frozenset(
    (*CHAT, *CHOSEN, *CHOSEN.values(), *OTHER_ANSWERS, KTO, *SYSTEM, *TOOLS, *MAY_BE_READ, "history", "segments")
)
"""all of these, and those of `MAY_BE_READ`; a record may write them in any case"""


class ShapeRow(NamedTuple):
    """A line of the table of shapes."""

    name: str
    """one of `SHAPES`, as the docs call it"""
    keys: str
    scored: str


SHAPE_TABLE = (
    ShapeRow("preference", "`chosen` (or `chosen_response`, `preferred_output`), with a prompt of any shape below, or "
             "with its own", "the chosen side, from where it differs from the rejected one"),
    ShapeRow("preference", "a list of messages, and `rejected`, `rejected_response`, `rejected_messages` or `kto_tag`",
             "the answers after the last user's turn"),
    ShapeRow("preference", "a prompt and an answer of a shape below, and `rejected` or `rejected_response`",
             "the answer"),
    ShapeRow("chat", "`messages`, `conversations`, `conversation`, `contents` or `trajectory`, ending in an "
             "assistant's turn, or without an answer beside it", "all assistant turns"),
    ShapeRow("history and answer", "one of these lists ending in a user's turn, and `completion`, `response`, `output` "
             "or `answer`", "the answer"),
    ShapeRow("completion", "`prompt` with `completion` or `response`", "the completion"),
    ShapeRow("Alpaca", "`instruction`, and `input` or `context` if any, with `output`; else with `response`, `answer` "
             "or `completion`", "the output"),
    ShapeRow("completion", "`prompt` with another answer: `output`, `answer`, `solution`, `target`, `targets`, "
             "`output_text`", "the answer"),
    ShapeRow("question", "`question`, `query`, `problem`, `input`, `inputs`, `input_text` or `text_input` with any of "
             "these answers; `input` or `context` follows a question", "the answer"),
    ShapeRow("segments", "`segments`: text, label", "segments with label true"),
    ShapeRow("text", "`text`", "all of it"),
    ShapeRow("completion", "any of these answers alone", "all of it"),
)  # fmt: skip
"""in order of precedence, for the docs"""
PROMPTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("completion", "prompt", ("completion", "response")),
    ("alpaca", "instruction", ("output",)),
    ("alpaca", "instruction", ANSWERS),
    ("completion", "prompt", ANSWERS),
    ("question", "problem", ("solution",)),
    *(("question", key, ANSWERS) for key in QUESTIONS),
)
"""shape, key of the prompt, keys of its answer; in order of precedence"""
KNOWN_KEYS = (
    "messages, conversations, prompt + completion|response, instruction + output, question + answer, chosen, segments, "
    "text"
)
