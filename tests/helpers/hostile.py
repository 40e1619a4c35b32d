"""Rows and names that try to act where they are shown."""

import re

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(1)> [click](javascript:alert(1)) \x1b[31mred\x1b[0m "
    "\u202eright to left `code` | cell | # head \x00 end"
)

NAME = (
    "[red]x[/red] ::error::y ##[add-mask]z ##vso[task.a]b "
    "\x1b]0;title\x07\x1b[2J \u202eright\u202c \u2066\u200b\u3164 @someone @an/organisation #12 GH-7 "
    "o/r#3 www.evil.example me@evil.example https://evil.example :tada: $x$ <img src=x onerror=alert(1)> <!-- | a | "
    "`b` *c* _d_ ~~e~~ [f](javascript:alert(1)) ![g](https://evil.example/h.png) &lt;i&gt; &#64;j \\ \r\n- k\n# l "
    "\x85\u2028m"
)
"""a name or a label that tries to act in a terminal, in a CI job, in HTML and in Markdown, as GitHub shows it"""
LIVE = r"(?i)(?:https?|ftp)://|\bwww\.|[\w.+-]@[\w.-]|@\w|#\d|\bGH-\d|:[\w+-]+:"
"""a pattern of what GitHub makes links or pictures of, in text that has been parsed"""


def unprintable(text: str) -> set[str]:
    """Characters in what a command has printed that a terminal acts on, or does not show."""
    return {c for c in text if (not c.isprintable() and c != "\n") or c in "\u3164\u2800"}


def heard(text: str) -> list[str]:
    """Lines of what a command has printed that the runner of a CI job, GitHub's or Azure's, takes for commands."""
    return [line for line in text.splitlines() if re.match(r"\s*::", line) or re.search(r"##\w*\[", line)]


def live_markup(markdown: str) -> list[str]:
    """What of a Markdown page would be more than text: elements it has not of its own, addresses, names, references."""
    from markdown_it import MarkdownIt

    found: list[str] = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown):
        inline = token.children or []
        found += [
            f"{t.type}: {t.content}" for t in inline if t.type in ("link_open", "code_inline", "em_open", "s_open")
        ]
        found += [f"image: {t.attrs['src']}" for t in inline if t.type == "image" and "/" in str(t.attrs["src"])]
        found += [t.content for t in inline if t.type == "html_inline" and t.content not in ("<span>", "</span>")]
        found += [token.content] if token.type in ("html_block", "fence", "code_block") else []
        text = "".join(
            t.content if t.type in ("text", "text_special") else " " for t in inline if t.type != "html_inline"
        )
        found += re.findall(LIVE, text)
    return found
