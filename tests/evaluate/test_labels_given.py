import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.command import geofilter, write_rows
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
            'l, line 1: the label "toxic" is not true, false, 1, 0, "bad" or "good"; to take a field of the rows as '
            "their label write --labels FIELD=VALUE",
        ),
        ([{"file": "x", "label": 1}], "l, line 1: does not say which row; give its sha256, or its file and line"),
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
        ([*KIND, "--out", "one.jsonl"], "one.jsonl: cannot be made (File exists); give another folder"),
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
