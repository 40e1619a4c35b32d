"""Chat templates are programs that strangers wrote: rendered as transformers does, within limits."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.command import chat
from helpers.tiny import CHATML, make_tokenizer

from geofilter.encode import template as module
from geofilter.encode.rendering import pinned_template
from geofilter.encode.template import PATIENCE, RENDERER, Renderer, TemplateRefusal
from geofilter.encode.tokens import encode_row, encode_rows
from geofilter.errors import TargetError
from geofilter.rows.records import Row, parse_line
from geofilter.rows.row_error import RowError

TEMPLATES = sorted((Path(__file__).parents[1] / "templates").glob("*.jinja"))
MESSAGES = [{"role": "user", "content": "q \ud83d\ude00 \ud800"}, {"role": "assistant", "content": "a\u2028b"}]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}BODY{% endfor %}" * 1
LOOPS += "{% endfor %}{% endfor %}"
DOUBLE = "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = ns.x SIGN ns.x %}{% endfor %}"


def tokenizer(template: str = CHATML) -> SimpleNamespace:
    """What of a tokenizer is looked at."""
    return SimpleNamespace(name_or_path="m", special_tokens_map={"bos_token": "<s>"}, chat_template=template)


def row() -> Row:
    found = parse_line(json.dumps(chat("q", "a b")).encode(), "d.jsonl", 1)
    assert isinstance(found, Row)
    return found


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "f", "parameters": {"b": 1}}}]])
def test_a_template_makes_what_it_makes_in_transformers(path: Path, tools):
    real = make_tokenizer(path.read_text("utf-8"))
    template = pinned_template(real, tools)
    wanted = real.apply_chat_template(MESSAGES, tools=tools, chat_template=template, tokenize=False)
    assert RENDERER.render(real, template, MESSAGES, tools) == wanted


def test_where_a_process_renders_none_is_started_ahead(monkeypatch):
    begun: list[tuple[str, ...]] = []
    monkeypatch.setattr(module, "start_ahead", lambda *what: begun.append(what))
    renderer = Renderer(4.0)
    renderer.start_ahead()
    assert begun == [("encode.template_apart", "4.0")]
    assert renderer.render(tokenizer(), "{{ messages[0].content }}", MESSAGES[1:], None) == "a\u2028b"
    renderer.start_ahead()
    assert len(begun) == 1


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (LOOPS.replace("BODY", ""), "takes over 0.5 seconds of computing for the row"),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", "0.5 seconds"),
        ("{{ 'a' * 10**9 }}", "takes over 1 GiB of memory for the row"),
        ("{{ 'a'.center(10**10) }}", "takes over 1 GiB of memory"),
        (DOUBLE.replace("START", "'a'").replace("SIGN", "~"), "takes over 1 GiB of memory"),
        (DOUBLE.replace("START", "[1]").replace("SIGN", "+"), "takes over 1 GiB of memory"),
        ("{{ 'a' * 10**8 }}", "makes over 33,554,432 characters of the row"),
    ],
)
def test_a_template_that_would_never_end_or_fill_the_memory_is_ended(template: str, why: str):
    renderer = Renderer(0.5 if "0.5" in why else 30)
    with pytest.raises(RowError, match=f"^the chat template .*{why}"):
        renderer.render(tokenizer(), template, MESSAGES, None)
    # Others are rendered as before, by another process.
    assert renderer.render(tokenizer(), "{{ messages[1].content }}", MESSAGES, None) == MESSAGES[1]["content"]


def test_output_without_an_end_is_ended_by_whichever_limit_comes_first():
    with pytest.raises(RowError, match=r"^the chat template takes over"):
        Renderer(2).render(tokenizer(), LOOPS.replace("BODY", "x" * 4000), MESSAGES, None)


def test_a_template_that_calls_itself_for_ever_is_refused_as_one_that_raises():
    template = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"
    with pytest.raises(TemplateRefusal, match="recursion"):
        RENDERER.render(tokenizer(), template, MESSAGES, None)
    with pytest.raises(RowError, match=r"^the chat template refuses the row: no way"):
        encode_row(row(), make_tokenizer("{{ raise_exception('no way') }}"), 64)


def test_after_some_rows_it_is_the_templates_fault(monkeypatch):
    monkeypatch.setattr("geofilter.encode.rendering.RENDERER", Renderer(0.2))
    hostile = make_tokenizer(LOOPS.replace("BODY", ""))
    found = encode_rows([row()] * (PATIENCE - 1), hostile, 64)
    assert all("takes over 0.2 seconds" in str(one) for one in found)
    with pytest.raises(TargetError, match=r"the chat template takes over 0.2 seconds .* mend its chat template"):
        encode_rows([row()], hostile, 64)
    assert encode_row(row(), make_tokenizer(), 64).n_response > 0


def test_threads_and_an_interrupt_between_question_and_answer_do_not_mix_rows(monkeypatch):
    renderer, found = Renderer(), {}

    def render(i: int) -> None:
        messages = [{"role": "user", "content": str(i)}]
        found[i] = renderer.render(tokenizer(), "{{ messages[0].content }}", messages, None)

    threads = [threading.Thread(target=render, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: str(i) for i in range(8)}
    real = module.receive

    def interrupted(pipe):
        monkeypatch.setattr(module, "receive", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render(8)
    render(9)
    assert found[9] == "9"
