"""Writing the kept, removed and quarantined rows of an input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from geofilter.errors import InputError
from geofilter.files import Together, dumps
from geofilter.rows import parquet
from geofilter.rows.lines import ENDINGS, packing, split_name


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files written for one input, and their row counts."""

    index: int
    kept: Path
    removed: Path
    quarantined: Path
    n_kept: int = 0
    n_removed: int = 0
    n_quarantined: int = 0

    @classmethod
    def plan(cls, index: int, data: Path, out: Path | None, removed: Path | None, n_inputs: int) -> Outputs:
        """Where the outputs of `data` go.

        Raises:
            InputError: a file name was given for several inputs.
        """
        folder, (stem, suffix) = data.parent, split_name(data)
        kept = folder / f"{stem}.filtered{suffix}"
        if out is not None and (out.is_dir() or n_inputs > 1):
            if not out.is_dir():
                raise InputError(f"--out {out}: the run has {n_inputs} inputs; give an existing folder")
            folder, kept = out, out / kept.name
        elif out is not None:
            folder, kept = out.parent, out
            stem = split_name(out)[0].removesuffix(".filtered")
        if kept.suffix == parquet.ENDING != data.suffix:
            raise InputError(f"--out {kept}: {data} is no Parquet file; kept rows have their input's format")
        if removed is not None and removed.suffix in (parquet.ENDING, *ENDINGS):
            raise InputError(f"--removed {removed}: removed rows are written as plain JSONL; name it .jsonl")
        if removed is not None and n_inputs > 1:
            raise InputError(f"--removed {removed}: the run has {n_inputs} inputs; leave it out or use --out FOLDER")
        return cls(index, kept, removed or folder / f"{stem}.removed.jsonl", folder / f"{stem}.quarantined.jsonl")

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files of this input: rows and reports."""
        return self.kept, self.removed, self.quarantined, *(self.report(kind) for kind in ("html", "json", "md"))

    def report(self, kind: str) -> Path:
        """Where this input's report of a kind (html, json, md) goes: beside the kept rows."""
        return self.kept.parent / f"{split_name(self.kept)[0].removesuffix('.filtered')}.report.{kind}"

    def open(self, together: Together, stack: ExitStack) -> dict[str, IO[bytes]]:
        """Open the three outputs, which appear when `together` ends."""
        return {
            kind: stack.enter_context(_writing(together, path))
            for kind, path in (("kept", self.kept), ("removed", self.removed), ("quarantined", self.quarantined))
        }


@contextmanager
def _writing(together: Together, path: Path) -> Iterator[IO[bytes]]:
    try:
        with together.open(path) as raw, packing(raw, path.suffix) as packed:
            yield packed
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot be written ({error.strerror or error}); give another place with --out"
        ) from None


def _removed_line(line: bytes, detail: dict[str, Any], rank: int) -> bytes:
    record = json.loads(line.decode("utf-8-sig"))
    note = {k: detail[k] for k in ("score", "percentile", "bank", "banks", "topic", "topics", "top_features")} | {
        "rank": rank
    }
    note["reason"] = reason(detail)
    if "geofilter" in record:
        note["previous"] = record["geofilter"]  # of an earlier removal; nothing in the row is lost
    return dumps({**record, "geofilter": note})


def reason(detail: dict[str, Any]) -> str:
    """Why a row scores as it does, in one sentence."""
    text = f"scores above {detail['percentile']:.1%} of ordinary rows under {detail['bank']}"
    if detail["topic"]:
        text += f", of its topics closest to {detail['topic']}"
    parts = [f"feature {t['feature']} ({t['label']}) {t['share']:+.2f}" for t in detail["top_features"][:3]]
    return f"{text}; most from {', '.join(parts)}" if parts else text
