"""The gate's JUnit and SARIF files, held against what readers of these formats require."""

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import jsonschema
import pytest
from helpers.command import geofilter
from helpers.hostile import NAME

from geofilter.cut.gate import check
from geofilter.cut.gate_files import junit, sarif
from geofilter.cut.gate_verdict import outcomes
from geofilter.run.store import Run


def message(**more: Any) -> dict[str, Any]:
    return {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}, **more}


LOCATION = {
    "required": ["physicalLocation"],
    "properties": {
        "physicalLocation": {
            "required": ["artifactLocation", "region"],
            "properties": {
                "artifactLocation": {"required": ["uri"], "properties": {"uri": {"pattern": r"^[!-~]+$"}}},
                "region": {"properties": {"startLine": {"type": "integer", "minimum": 1}}},
            },
        }
    },
}
RESULT = {
    "required": ["message", "ruleId", "level", "locations", "partialFingerprints"],
    "properties": {
        "message": message(),
        "level": {"enum": ["none", "note", "warning", "error"]},
        "rank": {"type": "number", "minimum": -1, "maximum": 100},
        "ruleIndex": {"type": "integer", "minimum": -1},
        "locations": {"type": "array", "minItems": 1, "items": LOCATION},
        "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
RULE = {"required": ["id"], "properties": {"id": {"type": "string"}, "shortDescription": message()}}
DRIVER = {"required": ["name"], "properties": {"rules": {"type": "array", "uniqueItems": True, "items": RULE}}}
SARIF = {
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "required": ["tool", "results"],
                "properties": {
                    "tool": {"required": ["driver"], "properties": {"driver": DRIVER}},
                    "invocations": {"items": {"required": ["executionSuccessful"]}},
                    "results": {"type": "array", "items": RESULT},
                },
            },
        },
    },
}
"""what the standard requires of the objects that the gate writes, and what GitHub requires of a result besides"""


def cases(made: bytes) -> dict[tuple[str, str], tuple[str, str]]:
    """Test cases of a JUnit file: what each came to, and its text."""
    assert not re.search("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", made.decode("utf-8"))
    suites = ElementTree.fromstring(made)
    (suite,) = suites
    assert (suites.tag, suite.tag, suites.get("name")) == ("testsuites", "testsuite", "geofilter gate")
    found = {}
    for case in suite.findall("testcase"):
        (child,) = [*case] or [None]
        assert child is None or (child.tag in ("failure", "skipped") and child.get("message"))
        said = (child.tag, child.text or child.get("message")) if child is not None else ("passed", "")
        found[case.get("classname").removeprefix("geofilter.gate."), case.get("name")] = said
    ends = [end for end, _ in found.values()]
    counts = {"tests": len(ends), "failures": ends.count("failure"), "skipped": ends.count("skipped"), "errors": 0}
    for element in (suites, suite):
        assert {name: int(element.get(name)) for name in counts} == counts
    return found


def test_junit_has_a_case_for_each_part_and_each_condition(run: Run):
    verdict = check(run, 0.99, "20%", by="source", require_power=True)
    found = cases(junit(verdict))
    assert {name: end for name, (end, _) in found.items()} == {
        ("flagged", "all rows"): "passed", ("flagged", "source = <b>|x"): "skipped",
        ("flagged", "source = web"): "passed", ("flagged", "without source"): "skipped",
        ("flagged", "other small values"): "passed", ("quarantined", "quarantined"): "failure",
        ("truncated", "truncated"): "skipped", ("limit", "limit"): "passed", ("power", "power"): "failure",
    }  # fmt: skip
    first = found["quarantined", "quarantined"][1].splitlines()
    assert first[:2] == [verdict["reasons"][0], "highest flagged rows:"]
    assert len(first) == 2 + 8
    assert found["power", "power"][1] == verdict["reasons"][1]
    assert [case.failed for case in outcomes(verdict) if case.failed] == verdict["reasons"]
    good = cases(junit(check(run, 0.99, "20%", by="source", max_quarantined=1, max_truncated=0)))
    assert {end for end, _ in good.values()} == {"passed", "skipped"}
    assert good["truncated", "truncated"][0] == "passed"


def test_sarif_has_a_result_for_each_highest_row(run: Run):
    verdict = check(run, 0.99, "5%", max_quarantined=1)
    made = sarif(verdict, Path.cwd())
    jsonschema.validate(made, SARIF)
    (of,) = made["runs"]
    rules = of["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [v["bank"] for v in verdict["power"]]
    assert len(of["results"]) == 8
    for result, row in zip(of["results"], verdict["highest"], strict=True):
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"] == {"uri": row["file"], "uriBaseId": "%SRCROOT%"}
        assert place["region"] == {"startLine": row["line"]}
        assert set(result["partialFingerprints"].values()) == {row["sha256"]}
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == row["bank"]
        assert (result["level"], result["rank"]) == ("error", 99.5)
    # From another folder the files are named from there, or whole.
    elsewhere = [sarif(verdict, root)["runs"][0]["results"][0] for root in (Path.cwd().parent, Path("/nowhere"))]
    uris = [result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in elsewhere]
    assert uris[0] == f"{Path.cwd().name}/{verdict['highest'][0]['file']}"
    good = sarif(check(run, 0.99, "100%", max_quarantined=1), Path.cwd())
    jsonschema.validate(good, SARIF)
    assert good["runs"][0]["results"] == []


@pytest.mark.parametrize("file", [NAME, "../a b.jsonl", "/a:b.jsonl", "c:\udcff%.jsonl"])
def test_what_is_foreign_stays_text_in_both(run: Run, file: str):
    verdict = check(run, 0.99, "5%", max_quarantined=1)
    verdict["parts"][1]["name"] = NAME
    foreign = f"{NAME} {{0}} [a](1) ]]> \x00\ud800\uffff"
    for row in verdict["highest"]:
        row |= {"file": file, "bank": foreign, "reason": foreign}
    found = cases(junit(verdict))
    assert len(found) == len(verdict["parts"]) + 4
    made = json.loads(json.dumps(sarif(verdict, Path.cwd())))
    jsonschema.validate(made, SARIF)
    result = made["runs"][0]["results"][0]
    assert "{0}" not in result["message"]["text"].replace("{{0}}", "")
    assert "](" not in result["message"]["text"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    shown = unquote(uri, errors="surrogateescape").removeprefix("file://")
    assert shown == (str(Path(file).absolute()) if file.startswith("..") else os.path.normpath(file))
    assert ":" not in uri.removeprefix("file://")


def test_the_command_writes_them_whether_the_gate_is_passed_or_not(scanned: Path, tmp_path: Path):
    files = ("--junit", tmp_path / "gate.xml", "--sarif", tmp_path / "gate.sarif")
    for most, code, results in (("0", 1, 10), ("100%", 0, 0)):
        done = geofilter(
            "gate",
            "run",
            "--threshold",
            "0",
            "--max-flagged",
            most,
            "--max-quarantined",
            "1",
            *files,
            "-q",
            cwd=scanned,
        )
        assert done.returncode == code, done.stderr
        made = json.loads((tmp_path / "gate.sarif").read_text("utf-8"))
        jsonschema.validate(made, SARIF)
        assert len(made["runs"][0]["results"]) == results
        ends = [end for end, _ in cases((tmp_path / "gate.xml").read_bytes()).values()]
        assert ("failure" in ends) == bool(code)
    done = geofilter("gate", "run", "--junit", tmp_path / "x", "--sarif", tmp_path / "x", cwd=scanned)
    assert (done.returncode, "is the file of --junit; give another place" in done.stderr) == (2, True)
    assert not (tmp_path / "x").exists()
