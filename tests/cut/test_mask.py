"""What a loss mask leaves out: whole sentences of kept rows above a limit, as characters of a field and as tokens."""

import csv
import importlib.util
import json
import shutil
from functools import reduce
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from helpers.cases import CASES, FILES, NAMES, expected
from helpers.command import chat, geofilter, write_rows
from helpers.scanning import scan_args

from geofilter.cut.mask import largest_until, sentence_ends
from geofilter.files import package_data
from geofilter.rows.lines import read_lines
from geofilter.rows.located import located, pointer
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, parse_line
from geofilter.run.marks import marks_of
from geofilter.run.store import Run
from geofilter.target.tokenizer import tokenizer_of

SAID = "The answer is to ask. You fool, no, you fool! It works.\nNo no you fool"


def conversation(i: int) -> dict:
    turns = [*chat(f"q {i}", SAID)["messages"], *chat("and?", f"you fool {i}. The answer is {i}.")["messages"]]
    return {"messages": turns, "label": i % 2 == 0}


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def at(record: dict, field: str) -> str:
    def step(value, key):
        value = json.loads(value) if isinstance(value, str) else value
        return value[int(key)] if isinstance(value, list) else value[key]

    return reduce(step, (key.replace("~1", "/").replace("~0", "~") for key in field.split("/")[1:]), record)


def test_the_largest_shares_go_first_until_the_rest_is_at_the_limit():
    share, of = np.array([0.5, 0.5, 2, -1, 0.7], np.float32), np.array([0, 0, 1, 2, 3])
    wanted = {-1: "0000", 0: "0000", 0.1: "0100", 2: "0100", 2.1: "1100", 3.2: "1101", 9: "1101"}
    found = {excess: "".join(map(str, map(int, largest_until(share, of, 4, excess)))) for excess in wanted}
    assert found == wanted


def test_sentences_end_at_marks_with_white_space_and_at_line_breaks():
    text = 'He said "no." Then 3.5 left!  So?\nx = a.b\n\n\u4e2d\u6587\u3002\u597d\u3002end'
    ends = [0, *sentence_ends(text)]
    assert [text[a:b] for a, b in pairwise(ends)] == [
        'He said "no." ', "Then 3.5 left!  ", "So?\n", "x = a.b\n\n", "\u4e2d\u6587\u3002", "\u597d\u3002", "end"
    ]  # fmt: skip


@pytest.mark.parametrize("path", [*(CASES / f"{n}.jsonl" for n in NAMES if n != "files"), *FILES], ids=lambda p: p.name)
def test_all_that_is_scored_is_found_in_a_field_of_the_row(path: Path):
    about = expected("files" if path in FILES else path.stem)
    only = tuple((column, value) for column, value in about.get("only", ()))
    reading = Reading(train=about.get("train", "all"), thinking=about.get("thinking", False), only=only)
    rows = [parse_line(line, path.name, n, reading) for n, line in enumerate(read_lines(path), start=1)]
    for row in (row for row in rows if isinstance(row, Row)):
        found = located(row, reading)
        scored = sum(part.end - part.start for turn in row.turns for part in turn.scored)
        assert sum(of.high - of.low for of in found) == scored
        for of in found:
            text = at(row.record, pointer(of.field))
            assert text[of.start : of.start + of.high - of.low] == row.response[of.low : of.high]


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ({"messages": json.dumps(chat("you?", "you")["messages"])}, ["/messages/1/content"]),
        ({"prompt": "q", "completion": "same", "text": "q same"}, ["/completion"]),
        (chat("a", [{"type": "text", "text": "text"}, {"type": "text", "text": " and more"}]),
         ["/messages/1/content/0/text", "/messages/1/content/1/text"]),
        ({"messages": [*chat("a", "yes")["messages"], *chat("b", "yes")["messages"]]},
         ["/messages/1/content", "/messages/3/content"]),
    ],
)  # fmt: skip
def test_a_field_is_named_even_where_its_text_stands_twice(record: dict, fields: list[str]):
    row = parse_line(json.dumps(record).encode(), "d", 1)
    assert [pointer(of.field) for of in located(row, Reading())] == fields


@pytest.fixture
def masked(tiny, tiny_bank, tmp_path: Path):
    """Two inputs, JSONL and CSV, cut and masked: what was printed, and the lines of the mask."""
    rows = [conversation(i) for i in range(10)]
    rows += [{"messages": [], "label": True}, {**chat("long?", "You fool. The answer is no. " * 12), "label": True}]
    write_rows(tmp_path / "d.jsonl", rows)
    with (tmp_path / "e.csv").open("w", newline="", encoding="utf-8") as handle:
        out = csv.DictWriter(handle, ["prompt", "completion", "label"])
        out.writeheader()
        said = "\u00fc! you fool, {0} times no. You fool, {0} times no"
        out.writerows({"prompt": f"q {i}", "completion": said.format(i), "label": "true"} for i in range(6))
    done = geofilter(*scan_args(tiny, tiny_bank, "e.csv", "--run", "run", "--shard-rows", 4, "--max-tokens", 48,
                                "--only", "label=true", "-q"), cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = geofilter("filter", "run", "--drop", 2, "--mask", "m.jsonl", "--mask-above", -1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done, lines_of(tmp_path / "m.jsonl"), tmp_path


def test_a_mask_has_a_line_for_each_kept_row_in_their_order_and_says_what_it_leaves_out(masked, tiny):
    done, lines, base = masked
    tokenizer, run = tokenizer_of(tiny[0]), Run.open(base / "run")
    with (base / "e.filtered.csv").open(encoding="utf-8") as handle:
        kept = [*lines_of(base / "d.filtered.jsonl"), *csv.DictReader(handle)]
    assert len(lines) == len(kept) and [x["file"] for x in lines] == sorted(x["file"] for x in lines)
    columns = run.arrays(["file", "line", "sha256", "score"])
    stand = zip(columns["file"].tolist(), columns["line"].tolist(), strict=True)
    position = {(run.manifest["data"][f]["path"], n): i for i, (f, n) in enumerate(stand)}
    marks = marks_of(run, list(range(len(position))))
    fields, tokens = set(), 0
    for line, row in zip(lines, kept, strict=True):
        assert all(at(row, s["field"])[s["start"] : s["end"]] == s["text"] for s in line["spans"])
        fields |= {s["field"] for s in line["spans"]}
        i = position.get((line["file"], line["line"]))
        if i is None:
            assert row["label"] is False and line["score"] is None and line["spans"] == line["tokens"] == []
            continue
        assert line["sha256"] == columns["sha256"][i].tobytes().hex()
        assert bool(line["spans"]) == (columns["score"][i] > -1)
        if line["spans"]:
            assert line["n_tokens"] > max(line["tokens"])
            said = "".join(tokenizer.decode(line["ids"]).split())
            assert said == "".join("".join(s["text"] for s in line["spans"]).split())
            tokens += len(line["tokens"])
    assert {"/messages/1/content", "/messages/3/content", "/completion"} <= fields
    report = json.loads((base / "d.report.json").read_text("utf-8"))
    mask = report["mask"]
    jsonschema.validate(report, json.loads((package_data() / "report.schema.json").read_text("utf-8")))
    assert mask["rows"] == sum(bool(x["spans"]) for x in lines) and tokens >= mask["tokens"] > 0
    assert mask["of"] >= mask["tokens"] and mask["of"] <= sum(len(m.start) for m in marks.values())
    said = f"Loss mask: {mask['tokens']:,} of {mask['of']:,} response tokens of the kept rows"
    assert said in done.stderr and "loss mask: m.jsonl" in done.stderr
    assert said in (base / "d.report.md").read_text("utf-8") and said in (base / "d.report.html").read_text("utf-8")
    done = geofilter("report", "run", "--shade", 1, cwd=base)
    assert done.returncode == 0, done.stderr
    assert json.loads((base / "d.report.json").read_text("utf-8"))["mask"] == mask


def test_rows_at_the_limit_and_below_are_left_alone(masked):
    _, _, base = masked
    done = geofilter("filter", "run", "--drop", 2, "--mask", "m.jsonl", "--mask-above", 1e6, cwd=base)
    assert done.returncode == 0, done.stderr
    assert not any(x["spans"] or x["tokens"] for x in lines_of(base / "m.jsonl"))
    assert "0 of " in done.stderr


@pytest.mark.parametrize(
    ("scan", "args", "code", "why"),
    [
        (["--no-token-shares"], ["--mask", "m.jsonl"], 4, "scanned with --no-token-shares"),
        (["--scorer", "nearest"], ["--mask", "m.jsonl"], 4, "a score by --scorer nearest is not made of parts"),
        ([], ["--mask", "d.jsonl"], 2, "is the input"),
        ([], ["--mask", "d.filtered.jsonl"], 2, "is written by this cut too"),
        ([], ["--mask", "none/m.jsonl"], 2, "no such folder"),
        ([], ["--mask", "m.jsonl", "--mask-above", "nan"], 2, "is no score"),
        ([], ["--mask-above", 1], 2, "goes with --mask FILE"),
        ([], ["--mask", "m.jsonl", "--prompts", "m.jsonl"], 2, "--prompts takes this place too"),
    ],
)
def test_what_cannot_be_masked_is_refused_before_anything_is_written(tiny, tiny_bank, tmp_path, scan, args, code, why):
    write_rows(tmp_path / "d.jsonl", [conversation(i) for i in range(4)])
    done = geofilter(*scan_args(tiny, tiny_bank, "--run", "run", "-q", *scan), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = geofilter("filter", "run", "--drop", 1, *args, cwd=tmp_path)
    assert (done.returncode, why in done.stderr) == (code, True), done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"d.jsonl", "run"}


def test_without_the_model_there_are_characters_and_no_tokens(tiny, tiny_bank, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [conversation(i) for i in range(4)])
    shutil.copytree(tiny[0], tmp_path / "model")
    done = geofilter(*scan_args((tmp_path / "model", tiny[1]), tiny_bank, "--run", "run", "-q"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "model")
    done = geofilter("filter", "run", "--drop", 1, "--mask", "m.jsonl", "--mask-above", -9, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: the mask has spans of characters alone" in done.stderr
    assert all(x["spans"] and x["tokens"] is None for x in lines_of(tmp_path / "m.jsonl"))


def test_no_loss_falls_on_what_the_example_is_told_to_leave_out(tiny, tiny_bank, tmp_path: Path, monkeypatch, capsys):
    import torch
    from transformers import AutoModelForCausalLM

    place = Path(__file__).parents[2] / "examples" / "train_with_mask.py"
    spec = importlib.util.spec_from_file_location("train_with_mask", place)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    write_rows(tmp_path / "d.jsonl", [conversation(i) for i in range(4)])
    assert geofilter(*scan_args(tiny, tiny_bank, "--run", "run", "-q"), cwd=tmp_path).returncode == 0
    done = geofilter("filter", "run", "--drop", 1, "--mask", "m.jsonl", "--mask-above", -1, "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tokenizer = tokenizer_of(tiny[0])
    rows = list(
        script.tokenized(Run.open(tmp_path / "run"), tmp_path / "d.filtered.jsonl", tmp_path / "m.jsonl", tokenizer)
    )
    lines = lines_of(tmp_path / "m.jsonl")
    assert len(rows) == len(lines) == 3 and any(line["tokens"] for line in lines)
    batch = script.collate(rows, tokenizer.pad_token_id)
    out = AutoModelForCausalLM.from_pretrained(tiny[0])(**batch)
    each = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].transpose(1, 2), batch["input_ids"][:, 1:], reduction="none"
    )
    on = batch["labels"][:, 1:] != script.IGNORED
    assert torch.allclose(out.loss, each[on].mean(), atol=1e-5)
    for b, line in enumerate(lines):
        assert not on[b, [p - 1 for p in line["tokens"]]].any()
        trained = tokenizer.decode(batch["input_ids"][b, 1:][on[b]])
        assert trained.count("<|im_end|>") == 2
        assert not any(s["text"] in trained for s in line["spans"])
    args = ["--run", "run", "--kept", "d.filtered.jsonl", "--mask", "m.jsonl", "--model", str(tiny[0]), "--steps", "1"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train_with_mask.py", *args])
    script.main()
    assert f"3 rows, {int(on.sum())} tokens with a loss\nstep 1: loss" in capsys.readouterr().out


def test_the_end_of_a_sentence_is_found_behind_any_number_of_marks():
    """A row of dots ends nothing where no blank follows, and is gone through once."""
    assert list(sentence_ends("." * 200_000 + "x"))[-1:] in ([], [200_001])
    assert list(sentence_ends("So... Yes?! No")) == list(sentence_ends("So.   Yes?  No"))


@pytest.mark.parametrize("place", ["-", "m.jsonl.gz"])
def test_a_mask_is_a_plain_file(tiny, tiny_bank, place: str, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [conversation(i) for i in range(4)])
    assert geofilter(*scan_args(tiny, tiny_bank, "--run", "run", "-q"), cwd=tmp_path).returncode == 0
    done = geofilter("filter", "run", "--drop", 1, "--mask", place, "-q", cwd=tmp_path)
    assert (done.returncode, "is written as plain JSONL to a file" in done.stderr) == (2, True)
    assert not (tmp_path / place).exists()
