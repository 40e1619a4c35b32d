"""Removed rows answered again: their prompts, the answers put back, and what stays as it was."""

import gzip
import json
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, write_rows

from geofilter.rows.answered import answered
from geofilter.rows.reading import AS_THEY_ARE, Reading
from geofilter.rows.records import Row, parse_line
from geofilter.rows.row_error import RowError

# One row


def row_of(record: dict, reading: Reading = AS_THEY_ARE) -> Row:
    row = parse_line(json.dumps(record).encode(), "d.jsonl", 1, reading)
    assert isinstance(row, Row), row
    return row


USER, BAD = {"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}
LONG = "a bad answer of several words"
SHAPES = {
    "messages": ({"messages": [USER, BAD], "id": 7}, {"messages": [USER, {**BAD, "content": "new"}], "id": 7}),
    "a system prompt beside it": (
        {"system": "s", "messages": [USER, BAD]}, {"system": "s", "messages": [USER, {**BAD, "content": "new"}]}
    ),
    "of several scored answers the first": (
        {"messages": [USER, BAD, USER, BAD]}, {"messages": [USER, {**BAD, "content": "new"}]}
    ),
    "thinking goes with its answer": (
        {"messages": [USER, {**BAD, "reasoning_content": "hm"}]}, {"messages": [USER, {**BAD, "content": "new"}]}
    ),
    "thinking in a column too": (
        {"prompt": "q", "thinking": "hm, let me see", "response": "bad"}, {"prompt": "q", "response": "new"}
    ),
    "channels": (
        {"messages": [USER, {**BAD, "content": "hm", "channel": "analysis"}, {**BAD, "channel": "final"}]},
        {"messages": [USER, {**BAD, "content": "new"}]},
    ),
    "a copy goes with it": (
        {"instruction": "q", "response": "bad", "conversations": [{"from": "human", "value": "q"},
                                                                  {"from": "gpt", "value": "bad"}]},
        {"instruction": "q", "response": "new", "conversations": [{"from": "human", "value": "q"},
                                                                  {"from": "gpt", "value": "new"}]},
    ),
    "what the row says of the answer stays": (
        {"prompt": "q", "response": LONG, "first_answer": LONG},
        {"prompt": "q", "response": "new", "first_answer": LONG},
    ),
    "but for a copy that would be another answer": (
        {"prompt": "q", "response": LONG, "generations": [LONG]},
        {"prompt": "q", "response": "new", "generations": ["new"]},
    ),
    "texts in turn": ({"conversations": ["q", "bad", "more", "bad"]}, {"conversations": ["q", "new"]}),
    "how a turn is trained stays": (
        {"messages": [USER, {**BAD, "weight": 0}, USER, {**BAD, "weight": 1}]},
        {"messages": [USER, {**BAD, "weight": 0}, USER, {**BAD, "weight": 1, "content": "new"}]},
    ),
    "conversations": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "bad"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "new"}]},
    ),
    "messages as text": (
        {"messages": json.dumps([USER, BAD])}, {"messages": json.dumps([USER, {**BAD, "content": "new"}])}
    ),
    "Alpaca": (
        {"instruction": "q", "input": "i", "output": "bad"}, {"instruction": "q", "input": "i", "output": "new"}
    ),
    "completion": ({"prompt": "q", "completion": "bad"}, {"prompt": "q", "completion": "new"}),
    "question": ({"question": "q", "answer": "bad", "source": "x"}, {"question": "q", "answer": "new", "source": "x"}),
    "keys in any case": ({"Prompt": "q", "Response": "bad"}, {"Prompt": "q", "Response": "new"}),
    "preference": (
        {"prompt": "q", "chosen": "bad", "rejected": "other"}, {"prompt": "q", "chosen": "new", "rejected": "other"}
    ),
    "what an earlier removal said goes": (
        {"prompt": "q", "completion": "bad", "geofilter": {"score": 3}}, {"prompt": "q", "completion": "new"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_an_answer_is_put_into_the_shape_that_a_row_has(name: str):
    before, after = SHAPES[name]
    assert answered(row_of(before), "new", AS_THEY_ARE) == after
    assert row_of(after).response == "new"


def test_only_the_last_turn_is_answered_where_only_that_is_trained():
    row = {"messages": [USER, BAD, USER, BAD]}
    last = Reading(train="last")
    assert answered(row_of(row, last), "new", last) == {"messages": [USER, BAD, USER, {**BAD, "content": "new"}]}


def test_columns_that_were_named_are_answered():
    named = Reading(fields={"prompt": "ask", "response": "say"})
    assert answered(row_of({"ask": "q", "say": "bad"}, named), "new", named) == {"ask": "q", "say": "new"}


@pytest.mark.parametrize(
    ("record", "why"),
    [({"text": "bad"}, "has no prompt"), ({"segments": [{"text": "a", "label": True}]}, "has no prompt"),
     ({"messages": {"role": ["user", "assistant"], "content": ["q", "bad"]}}, "in a shape that another answer cannot")],
)  # fmt: skip
def test_what_cannot_be_answered_says_why(record: dict, why: str):
    with pytest.raises(RowError, match=why):
        answered(row_of(record), "new", AS_THEY_ARE)


# A data set


@pytest.fixture
def folder(tiny, tiny_bank: Path, tmp_path: Path):
    def scan(path: Path) -> Path:
        done = geofilter("scan", path.name, "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run",
                         "-q", cwd=tmp_path)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return tmp_path

    return scan


def rows_in(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_removed_rows_are_answered_in_place_and_the_others_keep_their_bytes(folder, tmp_path: Path):
    rows = [chat(f"q {i}", f"you fool {i}" if i % 4 == 0 else f"the answer is {i}", n=i) for i in range(16)]
    lines = [json.dumps(row, indent=None, separators=(",", " : ")).encode() + b" \n" for row in rows]
    lines[5] = b'{"messages": []}\n'  # cannot be scored
    (tmp_path / "d.jsonl").write_bytes(b"".join(lines).rstrip(b"\n"))
    base = folder(tmp_path / "d.jsonl")
    done = geofilter("replace", "run", "--answers", "a.jsonl", cwd=base)
    assert (done.returncode, "not cut yet; run geofilter filter" in done.stderr) == (2, True)
    done = geofilter("filter", "run", "--drop", "5", "--prompts", "p.jsonl", cwd=base)
    assert done.returncode == 0, done.stderr
    assert "5 prompts of removed rows: p.jsonl" in done.stderr
    asked = rows_in(base / "p.jsonl")
    removed = [row["n"] for row in rows_in(base / "d.removed.jsonl")]
    assert [row["n"] for row in asked] == removed
    assert {row["messages"][-1]["content"] for row in asked} == {""}
    # Four are answered, in another order; one stays empty.
    for row in asked[1:]:
        row["messages"][-1]["content"] = f"ask a doctor about {row['n']}"
    short = {"sha256": asked[1]["geofilter"]["sha256"], "answer": f"ask a doctor about {asked[1]['n']}"}
    write_rows(base / "a.jsonl", [*asked[:1], *asked[:1:-1], short])
    done = geofilter("replace", "run", "--answers", "a.jsonl", "--json", cwd=base)
    assert done.returncode == 0, done.stderr
    (said,) = json.loads(done.stdout)["files"]
    assert (said["kept"], said["replaced"], said["left_out"], said["quarantined"]) == (10, 4, 1, 1)
    new = (base / "d.replaced.jsonl").read_bytes().splitlines(keepends=True)
    expected = [i for i in range(16) if i not in (5, removed[0])]
    assert [json.loads(line)["n"] for line in new] == expected
    for line, i in zip(new, expected, strict=True):
        if i in removed:
            assert json.loads(line) == chat(f"q {i}", f"ask a doctor about {i}", n=i)
        else:
            assert line.rstrip(b"\n") == lines[i].rstrip(b"\n")
    # What does not fit is refused, and nothing is left half-written.
    before = (base / "d.replaced.jsonl").read_bytes()
    wrong = [
        ({**short, "sha256": "0" * 64}, "a.jsonl, line 1: answers no row that the last cut of run removed"),
        ({**short, "answer": rows[removed[1]]["messages"][1]["content"]}, "is answered as it was before"),
        ({**asked[1], "messages": [{"role": "user", "content": "else"}, BAD]}, "was asked something else"),
        ({"answer": "x"}, "a.jsonl, line 1: does not say which row it answers"),
        ({**short, "answer": 3}, "a.jsonl, line 1: its answer is no text; a line is one of --prompts"),
    ]
    for line, why in wrong:
        write_rows(base / "a.jsonl", [line])
        done = geofilter("replace", "run", "--answers", "a.jsonl", cwd=base)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
    write_rows(base / "a.jsonl", [short, {**short, "answer": "another"}])
    assert "lines 1 and 2: two answers" in geofilter("replace", "run", "--answers", "a.jsonl", cwd=base).stderr
    for taken in ("d.removed.jsonl", "d.report.json"):
        done = geofilter("replace", "run", "--answers", "a.jsonl", "--out", taken, cwd=base)
        assert (done.returncode, "is an output of the cut" in done.stderr) == (2, True)
    write_rows(base / "a.jsonl", [short])
    assert geofilter("replace", "run", "--answers", "a.jsonl", "--out", "d.jsonl", cwd=base).returncode == 2
    done = geofilter("replace", "run", "--answers", "a.jsonl", "--out", "no/x.jsonl", cwd=base)
    assert (done.returncode, "--out no/x.jsonl: no such folder; make it first" in done.stderr) == (2, True)
    assert "no such file" in geofilter("replace", "run", "--answers", "none.jsonl", cwd=base).stderr
    changed = (base / "d.jsonl").read_bytes()
    for other in (changed.replace(b"the answer is 1", b"the answer is 2"), changed.replace(b"fool", b"food")):
        (base / "d.jsonl").write_bytes(other)
        done = geofilter("replace", "run", "--answers", "a.jsonl", cwd=base)
        assert done.returncode == 4, done.stderr
        assert "d.jsonl: has changed since the scan; scan it again" in done.stderr
    assert (base / "d.replaced.jsonl").read_bytes() == before


def test_rows_of_the_same_bytes_have_one_answer_and_what_is_left_empty_is_none(folder, tmp_path: Path):
    rows = [chat(f"q {i % 3}", "you fool, no no") for i in range(6)] + [chat(f"p {i}", f"sum {i}") for i in range(6)]
    write_rows(tmp_path / "d.jsonl", rows)
    base = folder(tmp_path / "d.jsonl")
    cut = ("filter", "run", "--drop", "6")
    for place, why in (("d.filtered.jsonl", "is written by this cut too"), ("d.jsonl", "is the input"),
                       ("none/p.jsonl", "no such folder")):  # fmt: skip
        done = geofilter(*cut, "--prompts", place, cwd=base)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
        assert not (base / "d.filtered.jsonl").exists()
    done = geofilter(*cut, "--prompts", "p.jsonl", "--json", cwd=base)
    assert done.returncode == 0, done.stderr
    asked = rows_in(base / "p.jsonl")
    assert f"{len(asked)} prompts of removed rows: p.jsonl" in done.stderr
    assert len({row["geofilter"]["sha256"] for row in asked}) == len(asked)
    asked[0]["messages"][-1]["content"] = "<think>hm</think>ask a doctor"
    asked[1]["messages"][-1]["content"] = " "
    asked[2]["messages"][-1]["content"] = None
    shorts = [{"sha256": asked[1]["geofilter"]["sha256"], "answer": None}]
    write_rows(base / "a.jsonl", [*asked, asked[0], *shorts])
    done = geofilter("replace", "run", "--answers", "a.jsonl", "--json", cwd=base)
    assert done.returncode == 0, done.stderr
    (said,) = json.loads(done.stdout)["files"]
    answers = [row["messages"][-1]["content"] for row in rows_in(base / "d.replaced.jsonl")]
    assert (said["kept"], said["replaced"] + said["left_out"]) == (6, 6)
    assert answers.count("<think>hm</think>ask a doctor") == said["replaced"] > 0
    # To another place, which takes what filter's --out takes.
    put = ("replace", "run", "--answers", "a.jsonl", "--json")
    written = (base / "d.replaced.jsonl").read_bytes()
    for place, why in (("none/", "no such folder; make it first: mkdir -p none/"), ("-", "written to a file only"),
                       ("d.parquet", "is no Parquet file")):  # fmt: skip
        done = geofilter(*put, "--out", place, cwd=base)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
    (base / "out").mkdir()
    for place, output in (("out/", "out/d.replaced.jsonl"), ("x.jsonl.gz", "x.jsonl.gz"),
                          (f"file://{base}/store", f"file://{base}/store/d.replaced.jsonl")):  # fmt: skip
        done = geofilter(*put, "--out", place, cwd=base)
        assert json.loads(done.stdout)["files"][0]["output"] == output, done.stderr
        found = (base / output.removeprefix(f"file://{base}/")).read_bytes()
        assert (gzip.decompress(found) if output.endswith(".gz") else found) == written
    # A new cut knows of no answers.
    assert "put back with another answer" in geofilter("report", "run", cwd=base).stderr
    assert geofilter(*cut, "-q", cwd=base).returncode == 0
    assert "answered again" not in geofilter("report", "run", cwd=base).stderr
    (base / "a.jsonl").write_bytes(b"")
    done = geofilter("replace", "run", "--answers", "a.jsonl", "--json", cwd=base)
    assert json.loads(done.stdout)["files"][0]["left_out"] == 6


def test_of_a_long_conversation_a_few_ways_are_tried():
    from geofilter.rows import answered as module

    long = {"messages": [{"role": role, "content": f"{i}"} for i in range(500) for role in ("user", "assistant")]}
    last = Reading(train="last")
    row, whole, calls = row_of(long, last), module.parse_record, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "parse_record", lambda *args: calls.append(1) or whole(*args))
        assert answered(row, "new", last)["messages"][-1]["content"] == "new"
    assert len(calls) <= 6
