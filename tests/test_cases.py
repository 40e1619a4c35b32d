"""Rows of every kind: what is scored of each, to the character; and the table of them in the docs."""

import importlib.util
from pathlib import Path

import pytest
from helpers.cases import CASES, NAMES, expected, outcomes

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", NAMES)
def test_exactly_what_is_trained_on_is_scored(name: str):
    about = expected(name)
    assert outcomes(name, about) == about["rows"]


def test_every_file_of_cases_has_its_expectation():
    assert sorted(path.name.removesuffix(".jsonl") for path in CASES.glob("*.jsonl")) == NAMES
    for name in NAMES:
        rows = (CASES / f"{name}.jsonl").read_text("utf-8").splitlines()
        assert len(rows) == len(expected(name)["rows"]) > 0


def test_the_tables_in_the_docs_are_those_of_the_code_and_the_cases():
    spec = importlib.util.spec_from_file_location("write_formats", ROOT / "examples" / "write_formats.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert sorted(script.ORDER) == NAMES
    assert script.PAGE.read_text("utf-8") == script.page(), "stale: python examples/write_formats.py"
