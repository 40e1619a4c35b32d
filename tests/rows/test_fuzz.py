"""Made-up rows and damaged files: a row or a reason comes out, or one line that says what is wrong, and nothing else.

A few of each, always the same; `--long` makes many up.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import mutated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geofilter.rows.keys import KEYS, SHAPES
from geofilter.rows.loss import FLAGS
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, Unusable, parse_line
from geofilter.rows.turns import CONTENT_KEYS, ROLE_KEYS, ROLES, SPOKEN

MUTATIONS, MANY = 3, 300
"""of each file"""
EXAMPLES, MANY_EXAMPLES = 150, 5_000
PARTS = ("type", "text", "thinking", "input", "name", "reasoningContent", "reasoningText", "toolUse", "functionCall",
         "functionResponse", "toolResult", "tool_use", "functionDeclarations", "function", "label", "messages",
         "weight", "refusal", "function_call", "role", "geofilter")  # fmt: skip
keys = st.sampled_from(sorted({*KEYS, *ROLE_KEYS, *CONTENT_KEYS, *SPOKEN, *FLAGS, *PARTS})) | st.text(max_size=5)
words = st.sampled_from(sorted({*ROLES, *PARTS, "<think>", "</think>", "Human: a\n\nAssistant: b", "[]", "{}", "[{}]",
                                '[{"role": "user", "content": "a"}]', '{"a": 1, "a": 2}'}))  # fmt: skip
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | numbers | words | st.text(max_size=8)


def _objects(inner: st.SearchStrategy) -> st.SearchStrategy:
    says = {"role": st.sampled_from(["user", "assistant", "tool", "system", 7]), "content": inner}
    turn = st.fixed_dictionaries(says, optional={"tool_calls": inner, "weight": inner, "reasoning": inner})
    return st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4) | st.lists(turn, max_size=3)


values = st.recursive(leaves, _objects, max_leaves=12)
records = st.dictionaries(keys, values, max_size=5)
parts = st.lists(st.dictionaries(st.sampled_from(PARTS), values, max_size=3), max_size=3) | st.text(max_size=8)
turns = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "function_call"]), "content": parts},
                              optional=dict.fromkeys((*SPOKEN, "weight", "function_call"), values))  # fmt: skip
chats = st.fixed_dictionaries({"messages": st.lists(turns, max_size=4)},
                              optional=dict.fromkeys(("system", "tools", "rejected", "label"), values))  # fmt: skip
READINGS = [Reading(), Reading(train="last", thinking=True), Reading(only=(("label", "true"),)),
            Reading(fields={"prompt": "prompt", "response": "meta.answer"}), Reading(fields={"messages": "messages"}),
            Reading(fields={"text": "text", "system": "system"})]  # fmt: skip


@pytest.fixture(scope="module")
def many(long: bool) -> settings:
    return settings(max_examples=MANY_EXAMPLES if long else EXAMPLES, derandomize=not long, deadline=None,
                    database=None, suppress_health_check=list(HealthCheck))  # fmt: skip


def check(line: bytes, reading: Reading = READINGS[0]) -> None:
    """Whatever the line is, a row that can be told of comes out, or a reason."""
    found = parse_line(line, "d.jsonl", 1, reading)
    if isinstance(found, Row):
        assert found.format in SHAPES
        assert found.response.strip()
        assert isinstance(found.prompt, str)
        assert len(found.content_sha256) == 64
        json.dumps(found.record)
    elif found is not None:
        assert isinstance(found, Unusable)
        assert found.error
        assert found.error.isprintable()
        assert len(found.error) < 2000
        json.dumps(found.to_json(), ensure_ascii=False).encode("utf-8", "strict")


def test_any_record_is_a_row_or_is_set_aside_with_a_reason(many: settings):
    @many
    @given(records | chats | values, st.sampled_from(READINGS), st.booleans())
    def run(record, reading, escaped):
        check(json.dumps(record, ensure_ascii=escaped).encode("utf-8", "surrogatepass"), reading)

    run()


def test_any_bytes_are(many: settings):
    pieces = st.sampled_from(
        [
            b'{"text": ',
            b'"',
            b"{",
            b"[",
            b"]",
            b"}",
            b"\\",
            b"\xff",
            b"\xef\xbb\xbf",
            b", ",
            b": ",
            b"NaN",
            b"1e999",
            b"-",
            b"9" * 5000,
            b'"role"',
            b"[" * 200,
            b"\\ud800",
            b"\0",
            b"\r",
            b"\n",
        ]
    )

    @many
    @given(st.binary(max_size=40) | st.lists(pieces | st.binary(max_size=4), max_size=12).map(b"".join))
    def run(line):
        check(line)

    run()


def test_damaged_files_are_refused_in_a_line_and_end_nothing(long: bool, tmp_path: Path):
    count, seed = (MANY, "0") if long else (MUTATIONS, "1")
    done = subprocess.run(
        [sys.executable, mutated.__file__, tmp_path, str(count), seed], capture_output=True, text=True
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one for one in found if "error" in one] == []
    assert [one["name"] for one in found] == list(mutated.originals())
    assert {one.get("read", 0) + one["refused"] for one in found} == {count}
    assert max(one["peak_mb"] for one in found) < 1500
