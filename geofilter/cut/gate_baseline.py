"""Which rows of a run are those of an accepted earlier one, by the hashes of their bytes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from geofilter.arrays import Bools, Digests, KnownDigests
from geofilter.cut.gate_verdict import GateBaseline
from geofilter.cut.noted import UNLIKE
from geofilter.errors import InputError
from geofilter.run.manifest import Encoding, Manifest, Quarantined
from geofilter.run.names import QUARANTINE
from geofilter.run.store import Run


def compared(run: Run, baseline: Run) -> tuple[GateBaseline, Bools]:
    """What an accepted earlier run says of a run's rows, and which of its scored rows (n,) are new.

    A row is known by its bytes alone, whatever it scores in either run. One that could not be scored in the earlier
    run, and is scored now, is new: nobody has checked it.

    Raises:
        InputError: it is the run itself.
        RunError: hashes or quarantined rows of one of them are missing or damaged.
    """
    if run.path.resolve() == baseline.path.resolve():
        raise InputError(f"--baseline {baseline.called}: is the run itself, so no row is new; name an earlier one")
    scored = KnownDigests(baseline.columns(["sha256"])["sha256"].whole())
    new = run.columns(["sha256"])["sha256"].where(lambda digests: ~scored.have(digests))
    unscored = _unscored(run)
    known = scored.have(unscored) | KnownDigests(_unscored(baseline)).have(unscored)
    about: GateBaseline = {
        "run": baseline.called,
        "known": int(len(new) - new.sum()),
        "new": int(new.sum()),
        "known_quarantined": int(known.sum()),
        "differs": _differs(run.manifest, baseline.manifest),
    }
    return about, new


def _unscored(run: Run) -> Digests:
    """Hashes (m, 32) of the rows that could not be scored."""
    found = bytearray()
    try:
        for record in run.quarantine():
            found += _digest(record)
        return np.frombuffer(found, np.uint8).reshape(-1, 32)
    except UNLIKE:
        raise run.damaged(QUARANTINE) from None


def _digest(record: Quarantined) -> bytes:
    if "sha256" in record:
        return bytes.fromhex(record["sha256"])
    raw = record["raw"].encode() if "raw" in record else base64.b64decode(record["raw_base64"], validate=True)
    return hashlib.sha256(raw).digest()


def reading_of(encoding: Encoding) -> dict[str, Any]:
    """Options of a scan that leave text of a row out, where they are not at their default."""
    found = {"fields": encoding.get("fields"), "train": None if encoding["train"] == "all" else encoding["train"]}
    return {key: value for key, value in found.items() if value}


def _differs(now: Manifest, then: Manifest) -> list[str]:
    """How an earlier run was scored otherwise."""
    said: dict[str, Callable[[Manifest], object]] = {
        "another target or SAE": lambda m: m["target"]["fingerprint"],
        "other banks": lambda m: [(b["name"], b["files"], b["excluded_features"]) for b in m["banks"]],
        "another scorer": lambda m: m["scorer"],
        "other text of the rows": lambda m: reading_of(m["encoding"]),
    }
    return [words for words, of in said.items() if of(now) != of(then)]
