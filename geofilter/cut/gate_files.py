"""A gate's verdict as files that other tools read: JUnit XML and SARIF 2.1.0."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes
from xml.etree import ElementTree

from geofilter.cut.gate_text import from_root, row_lines, text
from geofilter.cut.gate_verdict import GateRow, GateVerdict, Outcome, outcomes
from geofilter.text import inert, one_line
from geofilter.version import __version__

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def junit(verdict: GateVerdict) -> bytes:
    """JUnit XML: a test case for each part, and for each condition that the whole run has to meet.

    What is not asked for is skipped. The highest flagged rows stand in the text of the first failure. Characters that
    XML cannot hold are replaced, as are all that would act on a terminal. Readers have two schemas, Ant's and that of
    Jenkins' xUnit plugin: it has what either requires, and nothing that either does not know.
    """
    cases = list(outcomes(verdict))
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(bool(case.failed) for case in cases)),
        "errors": "0",
        "skipped": str(sum(_skipped(case) for case in cases)),
        "time": "0",
    }
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    about = {"id": "0", "package": "geofilter.gate", "hostname": "localhost", "timestamp": now}
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", {"name": one_line(verdict["run"]) or ".", **about, **counts})
    ElementTree.SubElement(suite, "properties")
    rows = row_lines(verdict)
    for case in cases:
        name = {"name": one_line(case.name), "classname": f"geofilter.gate.{case.of}", "time": "0"}
        element = ElementTree.SubElement(suite, "testcase", name)
        if case.failed:
            said = one_line(case.failed)
            failure = ElementTree.SubElement(element, "failure", {"message": said, "type": case.of})
            failure.text = "\n".join([said, *(["highest flagged rows:", *map(inert, rows)] if rows else [])])
            rows = []
        elif _skipped(case):
            ElementTree.SubElement(element, "skipped", {"message": one_line(case.unjudged)})
    ElementTree.SubElement(suite, "system-out").text = one_line(text(verdict))
    ElementTree.SubElement(suite, "system-err")
    ElementTree.indent(suites)
    made: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return made + b"\n"


def _skipped(case: Outcome) -> bool:
    return bool(case.unjudged and not case.failed)


def sarif(verdict: GateVerdict, root: Path) -> dict[str, Any]:
    """SARIF 2.1.0: a result for each of the highest flagged rows, none where the gate is passed; a rule for each bank.

    A result is known again, wherever its row moves, by the row's sha256.

    Args:
        root: of the repository; files below it are named from it.
    """
    banks = list(dict.fromkeys([v["bank"] for v in verdict["power"]] + [row["bank"] for row in verdict["highest"]]))
    rules = [
        {
            "id": inert(bank),
            "shortDescription": {"text": _message(f"The row scores high under the bank {bank}.")},
            "defaultConfiguration": {"level": "error"},
        }
        for bank in banks
    ]
    run = {
        "tool": {"driver": {"name": "geofilter", "version": __version__, "rules": rules}},
        "invocations": [{"executionSuccessful": True, "exitCode": int(not verdict["passed"])}],
        "results": [_result(row, banks.index(row["bank"]), root) for row in verdict["highest"]],
        "properties": {"passed": verdict["passed"], "reasons": [one_line(said) for said in verdict["reasons"]]},
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(row: GateRow, rule: int, root: Path) -> dict[str, Any]:
    return {
        "ruleId": inert(row["bank"]),
        "ruleIndex": rule,
        "level": "error",
        "message": {"text": _message(f"At the {row['percentile']:.2%} percentile of ordinary chat: {row['reason']}")},
        "rank": round(100 * row["percentile"], 4),
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": _artifact(from_root(row["file"], root)),
                    "region": {"startLine": row["line"]},
                }
            }
        ],
        # The first is ours; the second is the one that GitHub goes by.
        "partialFingerprints": {"rowSha256/v1": row["sha256"], "primaryLocationLineHash": row["sha256"]},
        "properties": {"score": row["score"], "percentile": row["percentile"]},
    }


def _artifact(path: str) -> dict[str, str]:
    """Where a file is, as a URI: from the repository's root, or whole where it lies elsewhere."""
    if path.startswith(("/", "..")):
        return {"uri": f"file://{quote_from_bytes(os.fsencode(Path(path).absolute()))}"}
    return {"uri": quote_from_bytes(os.fsencode(path)), "uriBaseId": "%SRCROOT%"}


def _message(said: str) -> str:
    """A plain text of which nothing is a link or a placeholder (sections 3.11.5 and 3.11.6 of the standard)."""
    return one_line(said).replace("{", "{{").replace("}", "}}").replace("](", "] (")
