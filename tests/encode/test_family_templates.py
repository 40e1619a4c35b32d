"""The families' templates of these tests against the stock ones, which trl brings along."""

import importlib.util
from pathlib import Path

import pytest
from helpers.families import TOKENIZERS, template
from transformers.utils.chat_template_utils import _compile_jinja_template

from geofilter.rows.turns import Turn

STOCK = {
    "gemma2": ["gemma"], "gemma3": ["gemma3"], "llama": ["llama3_1"], "r1": ["deepseek_r1_distill"],
    "qwen2": ["qwen2_5"], "qwen3": ["qwen3"], "qwen3_5": ["qwen3_5_think", "qwen3_5_nothink"],
}  # fmt: skip
"""by family; gpt-oss' stock template takes its system message apart in ways that scoring does not touch"""

CONVERSATIONS = {
    "one turn": [Turn("user", "Hi there?"), Turn("assistant", " Hello. ")],
    "system, and line ends": [Turn("system", "Be kind."), Turn("user", "Hi"), Turn("assistant", "Yo"),
                              Turn("user", "more"), Turn("assistant", "Sure\n")],
    "thinking": [Turn("user", "Hi"), Turn("assistant", "<think>\nhm\n</think>\n\nYo"), Turn("user", "more"),
                 Turn("assistant", "<think>\nwell\n</think>\n\nSure")],
    "two questions": [Turn("user", "a"), Turn("user", "b"), Turn("assistant", "c")],
    "no question": [Turn("assistant", "x")],
}  # fmt: skip


def rendered(source: str, turns: list[Turn], ask: bool) -> str:
    """What a template makes of a conversation, or how it refuses it."""
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        return _compile_jinja_template(source).render(messages=messages, bos_token="<BOS>", add_generation_prompt=ask)
    except Exception as error:
        return f"refused: {error}"


@pytest.mark.parametrize("kind", list(STOCK))
def test_they_do_what_the_stock_ones_do(kind: str):
    folder = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
    for name in STOCK[kind]:
        stock = (folder / f"{name}.jinja").read_text("utf-8")
        for turns in CONVERSATIONS.values():
            found = rendered(template(TOKENIZERS[kind][0]), turns, False)
            assert found == rendered(stock, turns, False)
            # Whether thinking is asked for is the model's size and no part of a row.
            if name != "qwen3_5_nothink":
                assert rendered(template(TOKENIZERS[kind][0]), turns, True) == rendered(stock, turns, True)
