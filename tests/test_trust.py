"""docs/trust.md promises what tests show: each test that it names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = re.findall(r"^\|.*\| (\S+\.py) `(\w+)` \|$", (ROOT / "docs" / "trust.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("path", "name"), ROWS, ids=[name for _, name in ROWS])
def test_a_test_that_the_docs_name_is_there(path: str, name: str):
    found = ast.parse((ROOT / "tests" / path).read_text("utf-8"))
    assert name in [node.name for node in ast.walk(found) if isinstance(node, ast.FunctionDef)]


def test_every_line_of_its_tables_names_one():
    text = (ROOT / "docs" / "trust.md").read_text("utf-8").partition("## Fault or attack")[2]
    lines = [line for line in text.splitlines() if line.startswith("| ") and "fault or attack" not in line]
    assert len(lines) == len(ROWS) > 60
