"""Run folders and banks made or changed by hand, with hashes that fit them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from geofilter.bank.bank import LEARNT_FROM
from geofilter.files import write_json
from geofilter.sums import sealed, sum_of

LEAST = {"fingerprint": "f", "encoding": {}, "data": []}
"""what a manifest is not read without"""


def write_manifest(run: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest as a scan does, for the files that are there."""
    names = ("scores.jsonl", "scores.safetensors", "vectors.safetensors", "quarantine.jsonl")
    parts = sorted((run / "features").glob("part-*.safetensors"))
    paths = [*parts, *(run / name for name in names if (run / name).exists())]
    files = {path.relative_to(run).as_posix(): sum_of(path) for path in paths}
    write_json(run / "manifest.json", sealed({**LEAST, **manifest, "files": files}))


def as_of_an_earlier_version(bank: Path) -> None:
    """Make a bank one that says neither what it was learnt from nor which arrays it has, and keeps no rows."""
    arrays = {k: v for k, v in load_file(bank / "bank.safetensors").items() if not k.startswith("rows.")}
    del arrays[LEARNT_FROM]
    save_file(arrays, bank / "bank.safetensors")
    about = json.loads((bank / "bank.json").read_text("utf-8"))
    del about["arrays"]
    (bank / "bank.json").write_text(json.dumps(about), "utf-8")
