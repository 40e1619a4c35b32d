"""Model and SAE of a run against the fingerprint that the scan recorded."""

from __future__ import annotations

from geofilter.config import TargetChoice
from geofilter.errors import TargetError
from geofilter.files import silent
from geofilter.run.manifest import Manifest
from geofilter.target.resolve import resolve
from geofilter.verify.findings import Findings


def check_target(manifest: Manifest, found: Findings) -> None:
    """Resolve the run's target anew, without the network; what cannot be found cannot be vouched for."""
    about = manifest["target"]
    try:
        target = resolve(TargetChoice.from_json(about["choice"]), offline=True, notify=silent)
    except TargetError as error:
        found.doubt(about["model"], "", f"model or SAE cannot be checked: {error}")
        return
    if target.fingerprint != about["fingerprint"]:
        found.doubt(about["model"], "", "model or SAE is not the one of the scan")
