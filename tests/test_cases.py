"""Rows of every kind: what is scored of each, to the character; and the table of them in the docs."""

import importlib.util
from pathlib import Path

import pytest
from helpers.cases import CASES, FILES, NAMES, expected, outcomes

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", [name for name in NAMES if name != "files"])
def test_exactly_what_is_trained_on_is_scored(name: str):
    about = expected(name)
    assert outcomes(CASES / f"{name}.jsonl", about) == about["rows"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_same_rows_in_any_file_are_read_alike(path: Path):
    about = expected("files")
    assert outcomes(path, about) == about["rows"]


def test_every_file_of_cases_has_its_expectation():
    names = [name for name in NAMES if name != "files"]
    assert sorted(path.name.removesuffix(".jsonl") for path in CASES.glob("*.jsonl")) == names
    for name in names:
        rows = (CASES / f"{name}.jsonl").read_text("utf-8").splitlines()
        assert len(rows) == len(expected(name)["rows"]) > 0


def test_the_tables_in_the_docs_are_those_of_the_code_and_the_cases():
    spec = importlib.util.spec_from_file_location("write_formats", ROOT / "examples" / "write_formats.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert sorted([*script.ORDER, "files"]) == NAMES
    assert script.PAGE.read_text("utf-8") == script.page(), "stale: python examples/write_formats.py"
