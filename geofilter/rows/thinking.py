"""Thinking at the start of an answer, between tags."""

from __future__ import annotations

import re

_WORDS = ("think", "thinking", "thought", "reasoning")
THINKING_TAGS = (
    *((f"<{word}>", f"</{word}>") for low in _WORDS for word in (low, low.capitalize(), low.upper())),
    ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"),
)  # fmt: skip
"""what thinking stands between at the start of an answer"""
_TAGGED = re.compile("|".join(re.escape(tag) for tag in (THINKING_TAGS[0][0], *(end for _, end in THINKING_TAGS))))


def thinking_span(content: str) -> tuple[int, int, int]:
    """Start and end of the thinking that a content begins with, and where its answer begins; zeros without any.

    The opening tag may be missing, where a template ends its prompt with it and rows hold what follows; the closing one
    then ends or begins a line, and the text holds no other opening. `<think>` that is never closed is thinking to
    the end.
    """
    if _TAGGED.search(content) is None:
        return 0, 0, 0
    head = len(content) - len(content.lstrip())
    for opening, closing in THINKING_TAGS:
        opened, end = content.startswith(opening, head), content.find(closing)
        start = head + len(opening) if opened else 0
        if end < 0 and opened and opening == THINKING_TAGS[0][0]:
            return start, len(content), len(content)
        after = end + len(closing)
        alone = opening not in content and (content[:end].endswith("\n") or content.startswith("\n", after))
        if end >= 0 and (opened or alone):
            return start, end, len(content) - len(content[after:].lstrip())
    return 0, 0, 0
