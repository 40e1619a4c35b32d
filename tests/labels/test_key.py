"""Labels that a field gives: a value that no row has, and --key beside them."""

from pathlib import Path

from helpers.command import geofilter, write_rows
from helpers.labelling import BAD, N, label


def test_a_misspelt_value_makes_no_row_good(base: Path):
    done = label(base, "--from", "kind=bda")
    assert done.returncode == 2
    n = sum(BAD) + BAD[0]
    assert f"--from kind=bda: no bad row; the field kind holds good ({N - sum(BAD)}), bad ({n})" in done.stderr
    assert not (base / "run" / "labels.jsonl").exists()


def test_a_file_may_have_labels_of_one_side(base: Path):
    write_rows(base / "good.jsonl", [{"file": "d.jsonl", "line": 2, "label": "good"}])
    assert label(base, "--from", "good.jsonl").returncode == 0


def test_a_key_of_the_settings_file_gives_way_to_a_field(base: Path):
    (base / "geofilter.toml").write_text('key = "id"\n')
    for args in (["evaluate", "run", "--labels", "kind=bad"], ["label", "run", "--from", "kind=bad"]):
        done = geofilter(*args, cwd=base)
        assert done.returncode == 0, done.stderr


def test_a_typed_key_is_refused_where_no_labels_are_a_file(base: Path):
    end = "kind=bad is no file; leave --key out"
    for args in (["evaluate", "run", "--labels"], ["label", "run", "--from"]):
        done = geofilter(*args, "kind=bad", "--key", "id", cwd=base)
        assert done.returncode == 2
        assert f"--key id: joins the rows with a file of labels, and {args[-1]} {end}" in done.stderr
    done = label(base, "--sheet", "s.jsonl", "--check", "kind=bad", "--key", "id")
    assert f"and --check {end}" in done.stderr


def test_a_typed_key_is_for_the_file_beside_a_field(base: Path):
    write_rows(base / "l.jsonl", [{"kind": "bad", "label": "bad"}, {"kind": "good", "label": "good"}])
    done = label(base, "--from", "l.jsonl", "--key", "kind", "--check", "kind=bad")
    assert "is no file" not in done.stderr
    assert "Bank learnt from them" in done.stderr
