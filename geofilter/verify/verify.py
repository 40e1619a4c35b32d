"""Is a run what it says? Every file against its hash, every number against what it is made of. No model, no writing."""

from __future__ import annotations

from typing import TypedDict

from geofilter.errors import RunError
from geofilter.run.banks import bank_folder
from geofilter.run.labelled import given_labels
from geofilter.run.manifest import Manifest
from geofilter.run.names import LABELS, MANIFEST
from geofilter.run.store import Run
from geofilter.typed import check_typed
from geofilter.verify.files import check_bank_files, check_files
from geofilter.verify.findings import Doubt, Findings
from geofilter.verify.inputs import check_inputs
from geofilter.verify.outputs import check_outputs
from geofilter.verify.scores import check_scores
from geofilter.verify.target import check_target

FORMAT = 1


class Verdict(TypedDict):
    """What `geofilter verify --json` prints."""

    format: int
    run: str
    verified: bool
    """no doubt at all"""
    doubts: list[Doubt]
    checked: list[str]
    """what was found right, one sentence each"""


def verify(run: Run, *, target: bool = True) -> tuple[Findings, Manifest | None]:
    """Hold a run against its records, its inputs, its banks and its target.

    Args:
        target: model and SAE too; they are looked for on this machine, without the network.

    Returns:
        the findings, and the manifest where it can be believed.
    """
    found = Findings()
    try:
        opened = Run.open(run.path)
        manifest = opened.manifest
        check_typed(manifest, Manifest)
    except RunError as error:
        found.said(error, run.path / MANIFEST)
        return found, None
    except ValueError as error:
        found.doubt(run.path / MANIFEST, "", f"is not what a scan writes: {error}")
        return found, None
    with found.part(f"{len(manifest['files'])} files of the run, and its manifest, are as they were written"):
        if opened.mirror is not None:
            for name, wanted in manifest["files"].items():
                opened.mirror.present(name, wanted)
        check_files(run, manifest, found)
    with found.part("the banks are those of the scan"):
        for bank in manifest["banks"]:
            check_bank_files(bank_folder(run, bank), bank, found)
    if target:
        with found.part("model and SAE are those of the scan"):
            check_target(manifest, found)
    counts = manifest["counts"]
    with found.part(
        f"the {counts['rows']:,} rows of the inputs are those that were scanned: {counts['scored']:,} scored, "
        f"{counts['quarantined']:,} quarantined, {counts['passed_over']:,} passed over"
    ):
        check_inputs(run, manifest, found)
    with found.part(f"the scores of {counts['scored']:,} rows are those that their features give under the banks"):
        check_scores(run, manifest, found)
    if (run.path / LABELS).exists():
        with found.part("the labels are as they were given"):
            _check_labels(run, found)
    check_outputs(run, manifest, found)
    return found, manifest


def _check_labels(run: Run, found: Findings) -> None:
    labels = given_labels(run.path / LABELS)
    known = {sha.tobytes().hex() for sha in run.arrays(["sha256"])["sha256"]}
    for number, sha in enumerate(labels, start=1):
        if sha not in known:
            found.doubt(run.path / LABELS, f"label {number}", "is of no row of this run")


def verdict_of(run: Run, found: Findings) -> Verdict:
    """What was found, for `--json`."""
    return {
        "format": FORMAT,
        "run": run.called,
        "verified": not found.doubts,
        "doubts": found.doubts,
        "checked": found.checked,
    }
