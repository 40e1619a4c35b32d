import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.evaluating import KIND, error_of

from geofilter.errors import InputError
from geofilter.labels.source import parse

# Labels


def test_labels_of_a_file_by_hash_and_by_place(place: Path):
    details = [json.loads(text) for text in (place / "r" / "scores.jsonl").read_text().splitlines()]
    rows = [{"sha256": d["sha256"].upper(), "label": ["good", "bad"][i % 2]} for i, d in enumerate(details[:20])]
    rows += [{"file": str(place / d["file"]), "line": d["line"], "label": i % 2} for i, d in enumerate(details[20:40])]
    rows += [{"file": "two.jsonl", "line": 29, "label": True}]  # the quarantined one
    rows += [{"sha256": "0" * 64, "label": False}, {"sha256": details[70]["sha256"], "label": None}]
    write_rows(place / "labels.jsonl", rows)
    done = geofilter("evaluate", "r", "--labels", "labels.jsonl", "--json", "-q", cwd=place)
    assert done.returncode == 0, done.stderr
    about = json.loads(done.stdout)["labels"]
    assert (about["labelled"], about["bad"], about["good"]) == (40, 20, 20)
    assert (about["without_label"], about["labels_without_row"]) == (38, 2)


def test_several_values_and_values_that_are_no_strings():
    row = SimpleNamespace(file="f", line=1)

    def of(rule: str, **record):
        return parse(rule).of(SimpleNamespace(**row.__dict__, record=record))

    assert of("label=a, b", label="b") is True
    assert of("label=a,b", label="c") is False
    assert of("label=true", label=True) is True
    assert of("label=1", label=1.0) is True
    assert of("label=1", label=True) is False
    assert of("label=a", label=None) is None
    assert of("label=a", other="a") is None
    assert of("m.k=a", m={"k": "a"}) is True
    assert of("m.k=a", **{"m.k": "a"}) is True
    assert of("m.k=a", m="a") is None
    with pytest.raises(InputError, match="f, line 1: the field label holds a list, not one value"):
        of("label=a", label=["a"])


ONE = {"sha256": "a" * 64}


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (
            [{**ONE, "label": True}, ONE],
            'l, line 2: no label; a line is {"sha256", "label"} or {"file", "line", "label"}',
        ),
        (
            [{**ONE, "label": "toxic"}],
            'l, line 1: the label "toxic" is not known; write bad, misaligned, harmful, unsafe, true, yes, 1 for rows '
            "that should go, good, aligned, harmless, safe, false, no, 0 for others, null for none; to take a field of "
            "the rows as their label write --labels FIELD=VALUE",
        ),
        (
            [{"file": "x", "label": 1}],
            "l, line 1: does not say which row; give its sha256, or its file and line, or name a field that is in both "
            "with --key",
        ),
        (
            [{**ONE, "label": 1}, {"sha256": "b", "label": 0}, {**ONE, "label": "good"}],
            "l, lines 1 and 3: contradictory labels of the same row; keep one of them",
        ),
        (["no", "rows"], 'l, line 1: no label; a line is {"sha256", "label"} or {"file", "line", "label"}'),
    ],
)
def test_label_files_that_cannot_be_used(tmp_path: Path, monkeypatch, rows: list, error: str):
    monkeypatch.chdir(tmp_path)
    write_rows(Path("l"), rows)
    with pytest.raises(InputError) as caught:
        parse("l")
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--labels", "nothing.jsonl"], "--labels nothing.jsonl: no such file, and not FIELD=VALUE; write "),
        (["--labels", "=x"], "--labels =x: write FIELD=VALUE, label=misaligned for instance"),
        (["--labels", "kind=x"], "--labels kind=x: no bad and no good row; no scored row has the field kind; the rows "
                                 "have messages, meta, pair"),
        (["--labels", "meta.kind=worse"], "--labels meta.kind=worse: no bad row; the field meta.kind holds fine (40), "
                                          "bad (33)"),
        (["--labels", "meta.kind=bad,fine"], "--labels meta.kind=bad,fine: no good row; the field meta.kind holds "
                                             "fine (40), bad (33)"),
        (["--labels", "pair=3"], "--labels pair=3: 2 bad and 6 good rows; at least 5 of each are needed, label more "
                                 "rows"),
        (["--labels", "meta=bad"], "one.jsonl, line 1: the field meta holds a dict, not one value; name another field"),
        ([*KIND, "--pair", "topic"], "--pair topic: no labelled row has this field; leave it out to group rows by "
                                     "their prompt"),
        ([*KIND, "--drop", "x"], "--drop x: not an amount; write a percentage like 10% or a number of rows like 500"),
        ([*KIND, "--drop", "0.5%"], "--drop 0.5%: less than one of the 73 labelled rows; drop more"),
        ([*KIND, "--drop", "79"], "drop 79 rows: the run has only 78 scored rows"),
        ([*KIND, "--across", "none.jsonl"], "none.jsonl: no such file; give the path of a data file (.jsonl, "
                                            ".json, .csv, .tsv, .parquet or .arrow)"),
        ([*KIND, "--across", "one.jsonl"], "--across one.jsonl: no bad and no good row; 50 of its rows are tested on "
                                           "and left out"),
        ([*KIND, "--out", "one.jsonl"], "--out one.jsonl: is a file; give a folder"),
    ],
)  # fmt: skip
def test_errors_name_the_remedy(base: Path, args: list[str], error: str):
    done = geofilter("evaluate", "r", *args, "-q", cwd=base)
    assert done.returncode == 2
    assert error_of(done).startswith(error)


def test_contradictory_labels_of_a_row_by_hash_and_by_place(place: Path):
    detail = json.loads((place / "r" / "scores.jsonl").read_text().splitlines()[0])
    write_rows(place / "l.jsonl", [
        {"sha256": detail["sha256"], "label": 1}, {"file": detail["file"], "line": detail["line"], "label": 0},
    ])  # fmt: skip
    done = geofilter("evaluate", "r", "--labels", "l.jsonl", cwd=place)
    assert done.returncode == 2
    assert error_of(done) == "l.jsonl, lines 1 and 2: contradictory labels of one.jsonl, line 1; keep one of them"


def test_groups_may_be_named(base: Path):
    got = json.loads(geofilter("evaluate", "r", *KIND, "--pair", "meta.kind", "--json", "-q", cwd=base).stdout)
    assert (got["labels"]["groups"], got["labels"]["grouped_by"]) == (2, "meta.kind")
    assert "Only 2 groups of rows: the intervals are rough and too narrow." in got["notes"]
    assert any(text.startswith("The groups leave a fold without rows to fit on") for text in got["notes"])
    (base / "r" / "evaluate.json").unlink()


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ("misaligned", "ALIGNED"), ("Bad", "good"), ("true", "False"), (True, False), ("harmful", "harmless"),
        ("UNSAFE", "safe"), ("1", "0"), (1, 0), (1.0, 0.0), ("Yes ", "no"),
    ],
)  # fmt: skip
def test_the_words_of_a_label_file(tmp_path: Path, bad: object, good: object):
    write_rows(tmp_path / "l", [{"sha256": "a" * 64, "label": bad}, {"sha256": "b" * 64, "label": good}])
    labels = parse(str(tmp_path / "l"))
    rows = [SimpleNamespace(sha256=x * 64, file="f", line=1) for x in "ab"]
    assert [labels.of(row) for row in rows] == [True, False]


# Joined by a field of the rows


@pytest.fixture
def joined(tiny, tiny_bank: Path, tmp_path: Path) -> Path:
    """A folder with a run of 30 rows: meta.id is the row's number, 7 twice and the last one without."""
    ids = [7 if i == 8 else i for i in range(29)]
    rows = [chat(f"q {i}?", f"the answer is {i}", meta={"id": i}) for i in ids]
    write_rows(tmp_path / "d.jsonl", [*rows, chat("q?", "the answer is none")])
    args = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "r", "-q")
    assert geofilter("scan", "d.jsonl", *args, cwd=tmp_path).returncode == 0
    labels = [{"meta": {"id": i}, "label": "harmful" if i < 10 else "harmless"} for i in range(20)]
    labels += [{"meta.id": "19", "label": "no"}, {"meta": {"id": 99}, "label": 1}, {"other": 1, "label": 1}]
    write_rows(tmp_path / "l.jsonl", [*labels, {"meta": {"id": 25}, "label": None}])
    return tmp_path


def test_labels_are_joined_by_a_field_and_what_does_not_join_is_counted(joined: Path):
    done = geofilter("evaluate", "r", "--labels", "l.jsonl", "--key", "meta.id", "--json", "-q", cwd=joined)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    # No row has the id 8, two have 7.
    assert {k: result["labels"][k] for k in ("labelled", "bad", "good", "without_label", "labels_without_row")} == {
        "labelled": 20, "bad": 10, "good": 10, "without_label": 10, "labels_without_row": 2,
    }  # fmt: skip
    assert result["notes"][:4] == [
        "1 labels of l.jsonl have no meta.id and are left out.",
        "1 labels of l.jsonl repeat the meta.id of another one, and say the same.",
        "1 scored rows have no meta.id, and so no label.",
        "2 rows share their meta.id with others: 1 labels stand for all of them.",
    ]
    done = geofilter("label", "r", "--from", "l.jsonl", "--key", "meta.id", "--json", cwd=joined)
    assert done.returncode == 0, done.stderr
    # The two rows with the id 7 have the same bytes, so that one label is kept.
    assert json.loads(done.stdout)["labels"] == {"bad": 9, "good": 10}
    assert "1 scored rows have no meta.id, and so no label." in done.stderr


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--labels", "l.jsonl", "--key", "meta.ids"], "l.jsonl: no label has the field meta.ids (--key meta.ids); "
                                                       "there are meta.id, label, other; did you mean meta.id?"),
        (["--labels", "m.jsonl", "--key", "meta.id"], "m.jsonl, lines 1 and 2: contradictory labels of the same row; "
                                                      "keep one of them"),
        (["--labels", "n.jsonl", "--key", "idd"], "--labels n.jsonl: no bad and no good row; no label's idd is one of "
                                                  "a scored row; the rows have messages, meta.id"),
        (["--labels", "l.jsonl", "--key", "meta"], "l.jsonl, line 1: the field meta holds a dict, not one value; name "
                                                   "another field"),
        (["--labels", "kind=bad", "--key", "id"], "--key id: joins the rows with a file of labels, and --labels "
                                                  "kind=bad is no file; leave --key out"),
        (["--labels", "gone.jsonl", "--key", "id"], "--labels gone.jsonl: no such file, and not FIELD=VALUE; write "
         'label=misaligned for instance, or give a JSONL file of {"sha256", "label"} or {"file", "line", "label"}'),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_named(joined: Path, args: list[str], error: str):
    write_rows(joined / "m.jsonl", [{"meta.id": 1, "label": "yes"}, {"meta": {"id": 1.0}, "label": "no"}])
    write_rows(joined / "n.jsonl", [{"idd": 1, "label": "yes"}])
    done = geofilter("evaluate", "r", *args, "-q", cwd=joined)
    assert done.returncode == 2
    assert error_of(done) == error
