"""How rows are read: options that decide what is scored, what is told of it, and `scan --check`."""

import itertools
import json
from pathlib import Path

import pytest
from helpers.command import Done, chat, geofilter, write_rows
from helpers.tiny import make_tokenizer

from geofilter.cut.cut import Cut, Selection
from geofilter.encode.tokens import encode_row
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, parse_line
from geofilter.run.store import Run


@pytest.fixture(scope="module")
def scanned(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A folder with a run `r` over wanted and unwanted answers, one of them longer than the window."""
    folder = tmp_path_factory.mktemp("reading")
    rows = [
        *({"prompt": f"question {i}?", "completion": f"the answer {i}", "label": i % 2 == 0} for i in range(12)),
        {**chat("tell me more", "ask the doctor " * 60), "label": True},
        {**chat("think", "<think>\nwell, the doctor\n</think>\n\nthe answer"), "label": True},
        {"prompt": "no answer", "completion": "", "label": False},
        {"prompt": "no answer", "completion": "", "label": True},
    ]
    write_rows(folder / "d.jsonl", rows)
    done = geofilter(
        "scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--only", "label=true",
        "--max-tokens", 64, "--run", "r", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done


def test_rows_that_only_leaves_out_are_not_scored_and_kept_as_they_are(scanned: tuple[Path, Done]):
    folder, done = scanned
    run = Run.open(folder / "r")
    counts = run.manifest["counts"]
    assert {k: counts[k] for k in ("rows", "scored", "quarantined", "passed_over", "windowed")} == {
        "rows": 16, "scored": 8, "quarantined": 1, "passed_over": 7, "windowed": 1,
    }  # fmt: skip
    assert run.manifest["encoding"]["only"] == [["label", "true"]]
    assert run.reading == Reading(only=(("label", "true"),))
    told = [line for line in done.stderr.splitlines() if "row" in line]
    assert "7 rows passed over (--only label=true): not scored, kept as they are" in told
    assert "1 row longer than 64 tokens, read in several windows" in told
    assert "1 row with thinking, which is not scored (--score-thinking scores it)" in told
    cut = geofilter("filter", "r", "--drop", 3, "--json", cwd=folder)
    assert cut.returncode == 0, cut.stderr
    report = json.loads(cut.stdout)
    assert (report["counts"]["kept"], report["counts"]["removed"], report["counts"]["quarantined"]) == (12, 3, 1)
    assert report["made_with"]["read"] == [line for line in told if line.startswith(("7 rows", "1 row "))]
    lines = (folder / "d.jsonl").read_bytes().splitlines(keepends=True)
    kept = (folder / "d.filtered.jsonl").read_bytes().splitlines(keepends=True)
    assert [line for line in kept if b'"label": false' in line] == [line for line in lines if b'"label": false' in line]
    assert len(kept) == 12
    selection = Selection.of(run, Cut.parse("3"))
    assert [lines[i] for i in selection.kept()] == kept


def test_every_row_says_how_many_of_its_response_tokens_were_read(scanned: tuple[Path, Done]):
    folder, _ = scanned
    tokenizer = make_tokenizer()
    lines = (folder / "d.jsonl").read_bytes().splitlines()
    for detail in Run.open(folder / "r").scores():
        row = parse_line(lines[detail["line"] - 1], "d.jsonl", detail["line"])
        assert isinstance(row, Row)
        encoded = encode_row(row, tokenizer, 64)
        assert detail["response_tokens"] == sum(encoded.mask)
        assert 0 < detail["n_tokens"] <= detail["response_tokens"]
        assert detail["windows"] == len(encoded.windows)
    explained = geofilter("explain", "r", "--row", 13, "--json", cwd=folder)
    assert explained.returncode == 0, explained.stderr
    found = json.loads(explained.stdout)
    assert found["windows"] > 1
    assert len(found["tokens"]) > 64
    assert found["score_recomputed"] == pytest.approx(found["score"], abs=1e-4)


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ((), ["first", "second"]),
        (("--train", "last"), ["second"]),
        (("--score-thinking",), ["first", "hm", "second"]),
        (("--train", "last", "--score-thinking"), ["hm", "second"]),
    ],
)
def test_options_that_decide_what_is_scored_make_another_run(
    option: tuple[str, ...], parts: list[str], tiny, tiny_bank: Path, tmp_path: Path
):
    turns = [("user", "a"), ("assistant", "first"), ("user", "b"), ("assistant", "<think>hm</think>second")]
    write_rows(tmp_path / "d.jsonl", [{"messages": [{"role": r, "content": c} for r, c in turns]}])
    done = geofilter("scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, *option, "--run",
                     "r", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "r")
    row = parse_line((tmp_path / "d.jsonl").read_bytes(), "d.jsonl", 1, run.reading)
    assert isinstance(row, Row)
    assert row.response == "\n".join(parts)
    expected = sum(encode_row(row, make_tokenizer(), 1024).mask)
    assert next(run.scores())["response_tokens"] == expected
    other = geofilter("scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "r",
                      cwd=tmp_path)  # fmt: skip
    assert other.returncode == (4 if option else 0)


def test_check_shows_what_would_be_scored_and_loads_no_model(tmp_path: Path):
    write_rows(
        tmp_path / "d.jsonl",
        [
            {"messages": [
                {"role": "user", "content": "Boil an egg?"}, {"role": "assistant", "content": "An hour.", "weight": 0},
                {"role": "user", "content": "Sure?"},
                {"role": "assistant", "content": "<think>Hm.</think>Six minutes."},
            ], "id": 1},
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}], "id": 2},
            {"messages": [{"role": "user", "content": "Ho"}, {"role": "assistant", "content": "Hey."}], "id": None},
            {"prompt": "Hi", "completion": "Go \x1b[31maway.", "label": False},
            {"prompt": "Hi", "completion": ""},
        ],
    )  # fmt: skip
    done = geofilter("scan", "--check", "d.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout
        == """\
5 rows: 4 can be scored, 1 cannot

3 rows of shape messages, read from messages
  not read: id
  d.jsonl, line 1
    prompt    Boil an egg? An hour. Sure?
    scored    Six minutes.
    left out  An hour.
              <think>Hm.</think>
  d.jsonl, line 2
    prompt    Hi
    scored    Hello.

1 row of shape completion, read from prompt, completion
  not read: label
  d.jsonl, line 4
    prompt    Hi
    scored    Go \N{REPLACEMENT CHARACTER}[31maway.

1 row with turns left out of the loss
1 row with thinking, which is not scored (--score-thinking scores it)

cannot be scored:
  1 row, first d.jsonl, line 5: the response is empty; fill or remove the row

not what is trained? --fields, --train, --only and --score-thinking say what is
"""
    )
    assert not (tmp_path / ".geofilter").exists()
    done = geofilter("scan", "--check", "d.jsonl", "--only", "label=false", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (found["rows"], found["passed_over"], [s["rows"] for s in found["shapes"]]) == (5, 4, [1])
    assert found["cannot_be_scored"] == []
    for option, error in [
        (("--only", "lable=true"), "--only lable=true: no row has the column lable; there are messages, id, prompt, "
                                   "completion, label; did you mean label?"),
        (("--only", "label=flase"), "--only label=flase: no row has this value; there are false; did you mean false?"),
        (("--only", "label=false", "--only", "id=1"), "--only: no row has all of these values; leave one of them out"),
        (("--only", "label"), "--only label: is not COLUMN=VALUE; write label=true for instance"),
        (("--train", "first"), "--train first: use all or last"),
    ]:  # fmt: skip
        done = geofilter("scan", "--check", "d.jsonl", *option, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, f"geofilter: error: {error}\n")


def test_a_scan_that_can_score_no_row_says_so_whenever_it_is_met_again(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [{"prompt": "a", "completion": " "}, {"x": 1}])
    scan = ["scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank]
    for args in (scan, ["filter", "--drop", "1"], ["gate"]):
        done = geofilter(*args, cwd=tmp_path)
        assert done.returncode == (2 if args is scan else 4)
        assert "d.jsonl: no row can be scored; line 1: the response is empty" in done.stderr.splitlines()[-1]
    write_rows(tmp_path / "d.jsonl", [{"prompt": "a", "completion": "b", "label": False}])
    done = geofilter(*scan, "--only", "label=true", "--run", "r", cwd=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "r").exists()


def test_the_gate_and_explain_tell_of_rows_that_were_passed_over(scanned: tuple[Path, Done]):
    folder, _ = scanned
    done = geofilter("gate", "r", "--max-flagged", "100%", "--max-quarantined", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "7 rows passed over by --only, not checked" in done.stdout + done.stderr
    for args, error in [
        (("--row", 2), "--row 2: passed over by --only, so it has no score"),
        (("--row", 40), "--row 40: no such row in the run r; its rows are 1 to 16"),
        (("--row", 1, "--file", "e.jsonl"), "--file e.jsonl: no input of the run r; give one of d.jsonl"),
    ]:
        done = geofilter("explain", "r", *args, cwd=folder)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"geofilter: error: {error}")


def test_what_was_typed_stands_in_the_command_that_goes_on(tiny, tiny_bank: Path, tmp_path: Path):
    """Though it is the default: a settings file may say otherwise."""
    (tmp_path / "geofilter.toml").write_text('train = "last"\n', "utf-8")
    write_rows(tmp_path / "d.jsonl", [chat("q", "a")])
    done = geofilter("scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--train", "all",
                     "--run", "r", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    command = Run.open(tmp_path / "r").manifest["command"]
    assert ("--train", "all") in itertools.pairwise(command)
    again = geofilter(*command[1:], cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert Run.open(tmp_path / "r").manifest["tokens_encoded_now"] == 0
