"""The rows that a gate names: which, and how they are shown where their text is foreign."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from helpers.command import geofilter
from helpers.hostile import NAME, live_markup, unprintable
from helpers.runs import write_manifest

from geofilter.cut.gate import check
from geofilter.cut.gate_text import WIDTH, markdown, row_commands, row_lines
from geofilter.errors import RunError
from geofilter.run.reasons import reason
from geofilter.run.store import Run
from geofilter.text import inert, unheard

COMMANDS = {"error", "warning", "add-mask", "set-output", "stop-commands", "group"}
FOREIGN = f"a,b:c%0A=\n::warning file=x::y ##[add-mask]z ::stop-commands::t\r\n{NAME}"
"""ends lines and properties, and begins commands of both kinds"""


def heard(line: str) -> tuple[str, dict[str, str], str] | None:
    """The command that the runner of GitHub Actions hears in a line, with its properties and its message."""
    if found := re.match(r"\s*::([\w-]+)(?: (.*?))?::(.*)", line, re.DOTALL):
        name, said, message = found.groups()
        parts = dict(part.split("=", 1) for part in (said or "").split(",") if part)
        return (name, {key: back(value, ":,") for key, value in parts.items()}, back(message, ""))
    found = re.search(r"##\[([\w-]+).*?\](.*)", line)
    return (found[1], {}, found[2]) if found and found[1] in COMMANDS else None


def back(value: str, more: str) -> str:
    """What the runner makes of an escaped value."""
    for character in f"\r\n{more}%":
        value = value.replace(f"%{ord(character):02X}", character)
    return value


def test_a_gate_that_is_not_passed_names_the_ten_highest_rows_with_their_reasons(run: Run):
    verdict = check(run, 0.5, "0", max_quarantined=1)  # all forty
    lines = {(line["file"], line["line"]): line for line in run.scores()}
    wanted = sorted(lines.values(), key=lambda line: -line["score"])[:10]
    assert [(row["file"], row["line"], row["sha256"], row["bank"]) for row in verdict["highest"]] == [
        (line["file"], line["line"], line["sha256"], line["bank"]) for line in wanted
    ]
    assert [row["score"] for row in verdict["highest"]] == pytest.approx([line["score"] for line in wanted], abs=1e-6)
    for row, line, shown in zip(verdict["highest"], wanted, row_lines(verdict), strict=True):
        start = f"{row['file']}:{row['line']}  {row['percentile']:.2%}  "
        assert shown.startswith(start)
        assert row["reason"].rstrip("…") in reason(line)
        assert shown.removeprefix(start).rstrip("…") in row["reason"]
        assert len(shown) <= len(start) + WIDTH
    page = markdown(verdict)
    assert page.count("| b.jsonl:") + page.count("| a.jsonl:") == 10
    assert check(run, 0.5, "100%", max_quarantined=1)["highest"] == []
    assert "highest" not in markdown(check(run, 0.5, "100%", max_quarantined=1))


def test_rows_are_of_the_parts_that_did_not_pass_or_of_all_where_another_condition_failed(run: Run):
    verdict = check(run, 0.99, "20%", max_quarantined=1)  # b.jsonl alone has too many
    assert {(row["file"], row["percentile"]) for row in verdict["highest"]} == {("b.jsonl", 0.995)}
    assert len(verdict["highest"]) == 7
    verdict = check(run, 0.99, "100%")  # a row that could not be scored
    assert sorted({row["file"] for row in verdict["highest"]}) == ["a.jsonl", "b.jsonl"]
    assert len(verdict["highest"]) == 8


def test_score_lines_of_other_rows_are_damaged(scanned: Path, tmp_path: Path, monkeypatch):
    shutil.copytree(scanned / "run", tmp_path / "run")
    monkeypatch.chdir(scanned)
    path = tmp_path / "run" / "scores.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    for change in ({"sha256": "0" * 64}, {"top_features": 3}):
        path.write_text("".join(json.dumps({**line, **change}) + "\n" for line in lines), "utf-8")
        write_manifest(tmp_path / "run", manifest)
        with pytest.raises(RunError, match=r"scores\.jsonl: is not what the scan wrote"):
            check(Run.open(tmp_path / "run"), 0.0, "0")


def test_annotations_say_what_is_foreign_and_begin_no_other_command(run: Run):
    verdict = check(run, 0.99, "0", max_quarantined=1)
    for row in verdict["highest"]:
        row |= {"file": FOREIGN, "bank": FOREIGN, "reason": FOREIGN}
    found = [heard(line) for line in row_commands(verdict, Path.cwd())]
    file = os.path.normpath(FOREIGN)
    assert {(name, of["file"], message) for name, of, message in found} == {("error", file, FOREIGN)}
    assert [of["line"] for _, of, _ in found] == [str(row["line"]) for row in verdict["highest"]]
    assert found[0][1]["title"] == f"geofilter: 99.50% under {FOREIGN}"
    assert not any("\n" in line or "\r" in line for line in row_commands(verdict, Path.cwd()))
    assert heard("a ##[add-mask]b")
    assert heard("  ::warning file=x::y")
    for line in row_lines(verdict):
        shown = unheard(inert(line))
        assert not unprintable(shown)
        assert heard(shown) is None
    assert live_markup(markdown(verdict)) == []


def test_on_the_command_line_annotations_leave_json_alone(scanned: Path, monkeypatch):
    monkeypatch.setenv("GITHUB_WORKSPACE", str(scanned.parent))
    args = ("gate", "run", "--threshold", "0", "--max-flagged", "0", "--annotations")
    done = geofilter(*args, "--json", cwd=scanned)
    rows = json.loads(done.stdout)["highest"]
    found = [command for line in done.stderr.splitlines() if (command := heard(line))]
    assert (done.returncode, len(rows)) == (1, 10)
    assert [(name, of["file"], of["line"]) for name, of, _ in found] == [
        ("error", f"{scanned.name}/{row['file']}", str(row["line"])) for row in rows
    ]
    done = geofilter(*args[:-1], cwd=scanned)
    assert "::error" not in done.stderr
    assert done.stdout.splitlines()[-11:] == ["highest flagged rows:", *row_lines({"highest": rows})]
    done = geofilter("gate", "run", "--max-flagged", "100%", "--max-quarantined", "1", "--annotations", cwd=scanned)
    assert (done.returncode, "::error" in done.stderr, "highest" in done.stdout) == (0, False, False)
