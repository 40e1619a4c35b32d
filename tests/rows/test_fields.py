"""Rows of no known shape: `--fields prompt=question,response=answer`, and all that reads them again."""

import json
from pathlib import Path

import pytest
from helpers.command import Done, geofilter, write_rows

from geofilter.errors import InputError
from geofilter.judge.plan import plan
from geofilter.rows.fields import lookup, parse
from geofilter.rows.reading import Reading
from geofilter.rows.records import check_fields, reading_for
from geofilter.rows.row_error import RowError
from geofilter.rows.shapes import parse_record
from geofilter.rows.turns import Turn
from geofilter.run.rows import scored_rows
from geofilter.run.store import Run

U, A, S = Turn("user", "hi"), Turn("assistant", "hello"), Turn("system", "be brief")

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


@pytest.mark.parametrize(
    ("option", "record", "turns"),
    [
        ("prompt=q,response=a", {"q": "hi", "a": "hello"}, (U, A)),
        (" prompt = q , response = meta.a ", {"q": "hi", "meta": {"a": "hello"}}, (U, A)),
        ("prompt=meta.q,response=a", {"meta.q": "hi", "a": "hello"}, (U, A)),  # a name with a dot in it
        ("prompt=q,response=a", {"q": CHAT[:1], "a": CHAT[1:]}, (U, A)),
        # The columns named are all the row is made of, whatever else it looks like.
        ("prompt=q,response=a", {"q": "hi", "a": "hello", "text": "raw", "messages": [], "system": "no"}, (U, A)),
        ("text=body", {"body": "plain", "text": "other"}, (Turn("text", "plain"),)),
        ("messages=talk", {"talk": CHAT}, (U, A)),
        ("messages=talk", {"talk": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}, (U, A)),
        ("messages=talk,system=s", {"talk": CHAT, "s": "be brief"}, (S, U, A)),
        ("prompt=q,response=a,system=s", {"q": "hi", "a": "hello", "s": "be brief"}, (S, U, A)),
        ("prompt=q,response=a,system=s", {"q": "hi", "a": "hello", "s": ""}, (U, A)),
        ("prompt=q,response=a,system=s", {"q": "hi", "a": "hello"}, (U, A)),
    ],
)
def test_columns_make_a_row(option: str, record: dict, turns: tuple):
    assert parse_record(record, Reading(parse(option))).turns == turns


@pytest.mark.parametrize(
    ("option", "record", "error"),
    [
        ("prompt=q,response=a", {"q": "hi", "id": 1},
         "no column `a`, or null in it (--fields response=a); there are q, id"),
        ("prompt=q,response=a", {"q": "hi", "a": None},
         "no column `a`, or null in it (--fields response=a); there are q, a"),
        ("prompt=q,response=a", {"prompt": "hi", "response": "hello"},
         "no column `q`, or null in it (--fields prompt=q); there are prompt, response"),
        ("text=meta.bdy", {"meta": {"body": "x", "by": {"n": 1}}},
         "no column `meta.bdy`, or null in it (--fields text=meta.bdy); there are meta.body, meta.by.n"),
        ("text=x", {f"c{i}": 1 for i in range(20)},
         f"no column `x`, or null in it (--fields text=x); there are {', '.join(f'c{i}' for i in range(12))} "
         "and 8 more"),
        ("text=x", {}, "no column `x`, or null in it (--fields text=x); there are none"),
        ("prompt=q,response=a", {"q": 3, "a": "hello"}, "`q` must be text, not int"),
        ("prompt=q,response=a,system=s", {"q": "hi", "a": "hello", "s": 1}, "`s` must be text, not int"),
        ("messages=talk", {"talk": "hi"}, "`talk` must be a list of messages that is not empty"),
        ("prompt=q,response=a", {"q": "hi", "a": " "}, "the response is empty; fill or remove the row"),
    ],
)  # fmt: skip
def test_a_row_without_the_columns_is_not_usable(option: str, record: dict, error: str):
    with pytest.raises(RowError) as caught:
        parse_record(record, Reading(parse(option)))
    assert str(caught.value) == error


MADE_OF = (
    "a row is made of prompt and response, of messages, or of text, the first two also with system; "
    "write prompt=question,response=answer for instance"
)


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("", "--fields : '' is not NAME=COLUMN; write prompt=question,response=answer for instance"),
        ("prompt", "--fields prompt: 'prompt' is not NAME=COLUMN; write prompt=question,response=answer for instance"),
        ("text=", "--fields text=: 'text=' is not NAME=COLUMN; write prompt=question,response=answer for instance"),
        ("text=a,text=b", "--fields text=a,text=b: text stands twice; name one column for it"),
        ("prompt=q", f"--fields prompt=q: {MADE_OF}"),
        ("question=q,response=a", f"--fields question=q,response=a: {MADE_OF}"),
        ("text=a,system=b", f"--fields text=a,system=b: {MADE_OF}"),
        ("text=a,messages=b", f"--fields text=a,messages=b: {MADE_OF}"),
    ],
)
def test_an_option_that_makes_no_row(option: str, error: str, tmp_path: Path):
    with pytest.raises(InputError) as caught:
        parse(option)
    assert str(caught.value) == error
    for command in (["scan", "d.jsonl"], ["judge", "d.jsonl", "--judge-model", "m", "--dry-run"],
                    ["bank", "build", "--bad", "b", "--good", "g", "--out", "o"]):  # fmt: skip
        done = geofilter(*command, "--fields", option, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, f"geofilter: error: {error}\n")


def test_columns_that_no_row_of_a_file_has(tmp_path: Path):
    qa = write_rows(tmp_path / "qa.jsonl", [{"q": "hi"}, {"id": 1}, {"q": "hi", "a": "hello", "s": "be brief"}])
    plain = write_rows(tmp_path / "plain.jsonl", [{"q": "hi", "a": "hello"}])
    other = write_rows(tmp_path / "other.jsonl", [{"text": "x"}])
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{\n[]\n")
    check_fields([qa, plain, broken], parse("prompt=q,response=a,system=s"))  # one file with system texts is enough
    for paths, option, limit, error in [
        ([qa, other], "prompt=q,response=a", None,
         f"{other}: no row has the column q (--fields prompt=q); there are text"),
        ([qa], "prompt=q,response=a", 2, f"{qa}: no row has the column a (--fields response=a); there are q, id"),
        ([plain, plain], "prompt=q,response=a,system=sys", None,
         f"{plain}: no row has the column sys (--fields system=sys); there are q, a"),
    ]:  # fmt: skip
        with pytest.raises(InputError) as caught:
            check_fields(paths, parse(option), limit)
        assert str(caught.value) == error
    # A file that goes with a run has its columns or a known shape.
    fields = parse("prompt=q,response=a,system=sys")
    reading = Reading(fields, "last", only=(("q", "hi"),))  # which rows of the run are looked at says nothing of others
    assert [reading_for(path, reading) for path in (qa, plain, other)] == [
        Reading(columns, "last") for columns in (fields, fields, {})
    ]


def qa(n: int, word: str, label: str) -> list[dict]:
    return [
        {"in": {"question": f"question {i}?"}, "answer": f"{word} {i} ends", "from": f"s{i % 2}", "label": label}
        for i in range(n)
    ]


OPTION = "prompt=in.question,response=answer"


@pytest.fixture(scope="module")
def scanned(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run `r` of thirty rows of an own shape, one of them without an answer."""
    folder = tmp_path_factory.mktemp("fields")
    rows = [*qa(15, "the answer is", "good"), *qa(15, "you fool,", "bad")]
    del rows[20]["answer"]
    write_rows(folder / "d.jsonl", rows)
    done = scan(folder, tiny, tiny_bank)
    assert done.returncode == 0, done.stderr
    return folder


def scan(folder: Path, tiny, bank: Path, *args: object) -> Done:
    given = args or ("--fields", OPTION)
    return geofilter(
        "scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", bank, "--run", "r", *given, cwd=folder
    )


def test_a_run_keeps_its_columns_and_refuses_others(tiny, tiny_bank: Path, scanned: Path):
    run = Run.open(scanned / "r")
    assert run.manifest["encoding"]["fields"] == {"prompt": "in.question", "response": "answer"}
    assert run.manifest["counts"]["scored"] == 29
    (bad,) = run.quarantine()
    assert bad["line"] == 21
    assert bad["error"].startswith(
        "no column `answer`, or null in it (--fields response=answer); there are in.question, from"
    )
    for args, was in [
        (("--fields", "text=answer"), '{"prompt": "in.question", "response": "answer"}, now {"text": "answer"}'),
        (("--json",), '{"prompt": "in.question", "response": "answer"}, now null'),
    ]:
        done = scan(scanned, tiny, tiny_bank, *args)
        assert done.returncode == 4
        assert done.stderr.splitlines()[-1] == (
            f"geofilter: error: r: holds a run of another configuration (fields: {was}); give another --run"
        )
    done = scan(scanned, tiny, tiny_bank, "--fields", "response=answer,prompt=in.question", "--json")
    assert json.loads(done.stdout)["tokens_encoded_now"] == 0  # the same columns in another order
    (scanned / "geofilter.toml").write_text(f'fields = "{OPTION}"\n')
    done = scan(scanned, tiny, tiny_bank, "--json")
    (scanned / "geofilter.toml").unlink()
    assert json.loads(done.stdout)["tokens_encoded_now"] == 0
    done = scan(scanned, tiny, tiny_bank, "--fields", "text=anwser")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "geofilter: error: d.jsonl: no row has the column anwser (--fields text=anwser); there are in.question, "
        "answer, from, label; did you mean answer?",
    )


def test_every_later_command_reads_the_rows_by_their_columns(scanned: Path, monkeypatch):
    monkeypatch.chdir(scanned)
    lines = (Path() / "d.jsonl").read_bytes().splitlines(keepends=True)
    done = geofilter("filter", "r", "--drop", "9", "-q")
    assert done.returncode == 0, done.stderr
    kept = (Path() / "d.filtered.jsonl").read_bytes().splitlines(keepends=True)
    assert [line for line in lines if line in kept] == kept
    assert len(kept) == 20
    page = (Path() / "d.report.json").read_text("utf-8")
    assert "question 3?" in page
    assert "you fool, 3 ends" in page
    done = geofilter("explain", "r", "--row", "20", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["score_recomputed"] == pytest.approx(found["score"], abs=1e-4)
    rows = list(scored_rows(Run.open(Path("r"))))
    assert rows[0].prompt == "question 0?"
    assert rows[0].response == "the answer is 0 ends"
    done = geofilter(
        "gate", "r", "--max-flagged", "100%", "--by", "from", "--min-rows", 0, "--max-quarantined", "1", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert [p["name"] for p in json.loads(done.stdout)["parts"]][1:] == ["from = s0", "from = s1"]
    # Text controls are fitted on another file of the same columns, or of a known shape.
    write_rows(Path() / "same.jsonl", [*qa(6, "you dolt,", "bad"), *qa(6, "that is", "good")])
    write_rows(Path() / "known.jsonl", [{"text": r["answer"], "label": r["label"]} for r in qa(6, "no,", "bad")
                                         + qa(6, "yes,", "good")])  # fmt: skip
    done = geofilter("evaluate", "r", "--labels", "label=bad", "--across", "same.jsonl", "--across", "known.jsonl",
                     "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [line["name"] for line in json.loads(done.stdout)["lines"]]
    assert "bag of words, fitted on same.jsonl" in names
    assert "bag of words, fitted on known.jsonl" in names
    write_rows(Path("good.jsonl"), [{"in": {"question": f"other {i}?"}, "answer": "fine"} for i in range(12)])
    done = geofilter("trial", "r", "--good", "good.jsonl")
    assert "--good good.jsonl: 12 rows that are not in the data; 48 are needed" in done.stderr
    done = geofilter("label", "r", "--sheet", "sheet.jsonl", "--count", "10")
    assert done.returncode == 0, done.stderr
    sheet = [json.loads(line) for line in (Path() / "sheet.jsonl").read_text("utf-8").splitlines()]
    assert all(entry["prompt"].startswith("question ") and entry["response"].endswith(" ends") for entry in sheet)


def test_a_judge_reads_the_columns_and_keeps_ratings_of_others_apart(scanned: Path):
    path = scanned / "d.jsonl"
    by_option = plan("m", [path], fields=parse(OPTION))
    assert (by_option.rows, by_option.requests) == (30, 29)
    as_text = plan("m", [path], fields=parse("text=answer"))
    assert len({p.prompt_id for p in (by_option, as_text, plan("m", [path]))}) == 3
    turned = parse("response=answer,prompt=in.question")
    assert plan("m", [path], fields=turned).prompt_id == by_option.prompt_id
    with pytest.raises(InputError, match=r"no row has the column q \(--fields text=q\)"):
        plan("m", [path], fields=parse("text=q"))


def test_a_bank_is_learnt_from_rows_of_any_columns(tiny, tmp_path: Path, short_background):
    bad = write_rows(tmp_path / "bad.jsonl", qa(12, "you fool,", "bad"))
    good = write_rows(tmp_path / "good.jsonl", qa(12, "the answer is", "good"))
    args = ("bank", "build", "--bad", bad, "--good", good, "--no-prior", "--model", tiny[0], "--sae", tiny[1], "-q")
    done = geofilter(*args, "--fields", OPTION, "--out", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    sources = json.loads((tmp_path / "b" / "bank.json").read_text("utf-8"))["sources"]
    assert sources["bad"]["fields"] == {"prompt": "in.question", "response": "answer"}
    known = [{"prompt": r["in"]["question"], "response": r["answer"]} for r in qa(12, "you fool,", "bad")]
    write_rows(tmp_path / "bad.jsonl", known)
    done = geofilter(*args, "--fields", OPTION, "--out", tmp_path / "c")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        f"geofilter: error: {bad}: no row has the column in.question (--fields prompt=in.question); there are prompt, "
        "response",
    )


def test_a_column_s_name_may_hold_dots_itself():
    assert lookup({"a.b": {"c": 1}}, "a.b.c") == 1
    assert lookup({"a": {"b.c": 1}}, "a.b.c") == 1
    assert lookup({"a.b": None, "a": {"b": 3}}, "a.b") == 3
    assert lookup({"a": {"b": 3}}, "a.c") is None
